/// Has the allocator keep what a step frees for the next one, instead of giving it back to the system, which would hand it out
/// again page by page, filled with zeros: on CPUs that costs as much as many an operation.
///
/// Blocks of up to 32 MiB are kept, the most that glibc allows; with other allocators this does nothing. Call it in `main`,
/// before the first tensor.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    const MIB: libc::c_int = 1 << 20;
    // SAFETY: `mallopt` takes two numbers and locks what it changes; a value that it refuses changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 * MIB);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 16 * MIB);
    }
}

/// Nothing: how other allocators keep memory is theirs.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_memory() {}
