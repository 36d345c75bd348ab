/// The largest resident memory of this process so far, in bytes; `None` where the platform doesn't tell.
///
/// Memory of a GPU is not part of it.
#[cfg(unix)]
pub fn peak_memory_bytes() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    /// `ru_maxrss` counts kibibytes, on Apple's systems bytes.
    const UNIT: u64 = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    u64::try_from(usage.max_rss()).ok().map(|count| count * UNIT)
}

/// The largest resident memory of this process so far, in bytes; `None` where the platform doesn't tell.
#[cfg(not(unix))]
pub fn peak_memory_bytes() -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_shows() {
        let block = vec![1u8; 64 << 20];
        let peak = peak_memory_bytes().unwrap();
        assert!(peak > std::hint::black_box(&block).len() as u64 && peak < 1 << 40, "{peak}");
    }
}
