//! What a start or a reload needs once (the object's type information, a policy's source, the schema)
//! is several times what the daemon keeps: it goes back to the system.

/// Gives free memory back to the system. Only glibc keeps enough to be asked.
pub fn trim() {
    // SAFETY: malloc_trim(3) takes any padding, is thread-safe, and frees only what nobody holds.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
