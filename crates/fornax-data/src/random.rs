//! Keyed hashing of small integers: randomness as a function of (seed, step, index), with nothing to save.

/// The golden ratio's fraction in 64 bits: the increment of SplitMix64.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit words whose output bits each depend on every input bit.
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A 64-bit hash of `parts`, whose order matters.
pub(crate) fn keyed(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |hash, &part| mix(hash.wrapping_add(STRIDE) ^ mix(part.wrapping_add(STRIDE))))
}

/// Maps a 64-bit hash to `0..bound`, uniform up to a bias of `bound / 2^64`.
pub(crate) fn below(hash: u64, bound: u64) -> u64 {
    ((u128::from(hash) * u128::from(bound)) >> 64) as u64
}

/// Maps a 64-bit hash to a number from 0 up to but without 1, in steps of 2^-53.
pub(crate) fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_value_of_parts_matter() {
        let hashes = [keyed(&[1, 2]), keyed(&[2, 1]), keyed(&[1, 3]), keyed(&[0, 0]), keyed(&[0])];
        for (i, a) in hashes.iter().enumerate() {
            assert!(hashes[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn draws_are_spread_evenly() {
        let mut counts = [0u32; 10];
        for i in 0..10_000 {
            counts[below(keyed(&[7, i]), 10) as usize] += 1;
        }
        // Each count has a standard deviation of 30 around 1,000.
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }

    #[test]
    fn units_reach_from_0_to_just_below_1() {
        assert_eq!((unit(0), unit(1 << 63)), (0.0, 0.5));
        assert!(unit(u64::MAX) < 1.0 && unit(u64::MAX) > 1.0 - 1e-15);
    }
}
