//! The memory of `taskrun` itself while its task runs: hundreds may wait beside one another on a host.

/// Gives back to the host what starting a task took and its running doesn't: about half of the heap.
#[expect(unsafe_code, reason = "no crate has malloc_trim(3)")]
pub fn shrink() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and frees no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
