//! Settings of glibc's allocator that keep the resident memory of a long-running program small. They have no effect
//! with other C libraries.

#![allow(unsafe_code, reason = "glibc's mallopt and malloc_trim have no safe wrapper")]

/// Free bytes that glibc may keep at the end of the heap. This is glibc's initial value; setting it disables the
/// dynamic adjustment, which raises it to up to 64 MiB after the first large buffer was freed (mallopt(3)).
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD: libc::c_int = 128 * 1024;

/// All threads share one heap: the threads besides the main one allocate next to nothing.
#[cfg(target_env = "gnu")]
const MAX_ARENAS: libc::c_int = 1;

/// Limits the free memory that the allocator keeps. Call it once at startup, before other threads start.
pub fn limit_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes integers and changes parameters of the allocator only. It ignores values that it rejects.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
        libc::mallopt(libc::M_MMAP_THRESHOLD, TRIM_THRESHOLD);
        libc::mallopt(libc::M_ARENA_MAX, MAX_ARENAS);
    }
}

/// Returns all unused pages of the heap to the kernel, also those in its middle: after thousands of objects were
/// processed, some allocation near the end usually stays. Takes a few milliseconds at most.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and changes free memory only, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
