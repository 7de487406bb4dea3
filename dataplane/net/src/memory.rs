//! How much memory the process keeps that it does not use. What follows is about glibc's allocator; with another C library
//! nothing happens.

/// So many bytes without use at the end of the heap are kept for what comes next. It is glibc's own value, and is set because
/// glibc would raise it, by up to 64 MiB, after the first large buffer that was freed.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 128 * 1024;

/// One heap for all threads: those that answer need next to none.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 1;

/// Keeps no more than a little of what is freed at the end of the heap, from now on. To be called once, at start, before
/// there are other threads.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes numbers and sets the allocator's own parameters. That a value is refused would change nothing else.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives the pages of the heap back to the kernel that nothing is left in, wherever they are: after thousands of objects were
/// read there is always something at the end of the heap that stays. A few milliseconds at most.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and touches nothing but free memory, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
