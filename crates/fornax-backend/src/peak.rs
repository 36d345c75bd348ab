use crate::Precision;

/// Peak dense FLOP/s of one card, from its vendor's data sheet, without sparsity.
struct Card {
    /// What the adapter's name contains; longer names stand before the ones they contain.
    name: &'static str,
    f32: f64,
    half: f64,
}

const TERA: f64 = 1e12;

/// `f32` is the figure of the plain units, since Fornax does not turn TF32 on.
const CARDS: &[Card] = &[
    Card { name: "B200", f32: 80.0 * TERA, half: 2250.0 * TERA },
    Card { name: "H200", f32: 67.0 * TERA, half: 989.0 * TERA },
    Card { name: "H100 PCIe", f32: 51.0 * TERA, half: 756.0 * TERA },
    Card { name: "H100", f32: 67.0 * TERA, half: 989.0 * TERA },
    Card { name: "A100", f32: 19.5 * TERA, half: 312.0 * TERA },
    Card { name: "L40S", f32: 91.6 * TERA, half: 362.0 * TERA },
    Card { name: "RTX 4090", f32: 82.6 * TERA, half: 165.2 * TERA },
    Card { name: "RTX 3090", f32: 35.6 * TERA, half: 71.0 * TERA },
    Card { name: "MI300X", f32: 163.4 * TERA, half: 1307.4 * TERA },
    Card { name: "MI250X", f32: 47.9 * TERA, half: 383.0 * TERA },
];

pub(crate) fn flops(name: &str, precision: Precision) -> Option<f64> {
    let card = CARDS.iter().find(|card| name.contains(card.name))?;
    Some(match precision {
        Precision::F32 => card.f32,
        Precision::Bf16 | Precision::F16 => card.half,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_known_for_listed_cards_only() {
        assert_eq!(flops("NVIDIA H200", Precision::Bf16), Some(989e12));
        assert_eq!(flops("NVIDIA H100 PCIe", Precision::F32), Some(51e12));
        assert_eq!(flops("Some CPU, 2 threads", Precision::F32), None);
    }
}
