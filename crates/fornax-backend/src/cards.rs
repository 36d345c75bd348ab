//! What the operating system knows of graphics cards and no compute interface tells.

use std::process::{Command, Stdio};

/// The PCI vendor number of NVIDIA.
#[cfg(feature = "wgpu")]
pub(crate) const NVIDIA_VENDOR: u32 = 0x10de;

/// A card as its vendor's tool reports it. A graphics adapter tells its own name and needs the address to find its card's
/// memory; compute interfaces tell nothing but an index.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(all(feature = "wgpu", any(feature = "libtorch", feature = "cuda"))), allow(dead_code))]
pub(crate) struct Card {
    pub(crate) bus: String,
    pub(crate) name: String,
    pub(crate) driver: String,
    pub(crate) memory: Option<u64>,
}

/// NVIDIA's cards in CUDA's default order, from `nvidia-smi`; empty where that isn't installed.
pub(crate) fn nvidia() -> Vec<Card> {
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=pci.bus_id,name,driver_version,memory.total", "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => parse_nvidia(&String::from_utf8_lossy(&output.stdout)),
        _ => Vec::new(),
    }
}

fn parse_nvidia(text: &str) -> Vec<Card> {
    let card = |line: &str| {
        let mut fields = line.split(',').map(|field| field.trim().to_owned());
        let (bus, name, driver) = (fields.next()?, fields.next()?, fields.next()?);
        let memory = fields.next().and_then(|mib| mib.parse::<u64>().ok()).map(|mib| mib << 20);
        Some(Card { bus, name, driver, memory })
    };
    text.lines().filter_map(card).collect()
}

/// Memory in bytes of the card at a PCI address (`0000:01:00.0`): from the kernel (AMD) or from the vendor's list.
#[cfg(feature = "wgpu")]
pub(crate) fn memory(bus: &str, cards: &[Card]) -> Option<u64> {
    if bus.is_empty() {
        return None;
    }
    let file = format!("/sys/bus/pci/devices/{bus}/mem_info_vram_total");
    let kernel = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    // nvidia-smi writes the domain with eight digits, Vulkan with four.
    kernel.or_else(|| cards.iter().find(|card| card.bus.to_lowercase().ends_with(&bus.to_lowercase()))?.memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_list_is_read_field_by_field() {
        let cards = parse_nvidia("00000000:19:00.0, NVIDIA H200, 570.86.15, 143771\nnonsense\n");
        assert_eq!(cards.len(), 1);
        assert_eq!((cards[0].name.as_str(), cards[0].driver.as_str()), ("NVIDIA H200", "570.86.15"));
        assert_eq!(cards[0].memory, Some(143_771 << 20));
        #[cfg(feature = "wgpu")]
        assert_eq!(memory("0000:19:00.0", &cards), Some(143_771 << 20));
    }
}
