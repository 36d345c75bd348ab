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

/// The memory that processes can still get without swapping and within the limit of this one's container, in bytes; `None` where
/// the platform doesn't tell.
///
/// Memory of a GPU is not part of it.
pub fn available_memory_bytes() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let free = Some(system.available_memory()).filter(|&bytes| bytes > 0);
    // Not its `free_memory`, which counts cached files as taken.
    let in_container = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    free.into_iter().chain(in_container).min()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_available_is_some_of_the_memory() {
        let total = sysinfo::System::new_with_specifics(
            sysinfo::RefreshKind::nothing().with_memory(sysinfo::MemoryRefreshKind::everything()),
        )
        .total_memory();
        let available = available_memory_bytes().unwrap();
        assert!(available > 1 << 20 && available < total, "{available} of {total}");
    }

    #[test]
    fn an_allocation_shows() {
        let block = vec![1u8; 64 << 20];
        let peak = peak_memory_bytes().unwrap();
        assert!(peak > std::hint::black_box(&block).len() as u64 && peak < 1 << 40, "{peak}");
    }
}
