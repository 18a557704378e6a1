//! Where things are in this workspace.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's root folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies one folder below the workspace's root")
        .to_path_buf()
}

/// The host crates' target folder: `CARGO_TARGET_DIR` when it is set, as cargo itself does.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where the host build finds the eBPF object (`enforcer-user/build.rs` looks here).
pub fn ebpf_object() -> PathBuf {
    root().join("target/bpf/enforcer-ebpf")
}

/// The eBPF build's own target folder, so that it never invalidates the host's build or waits for
/// its lock.
pub fn ebpf_target_dir() -> PathBuf {
    root().join("target/bpf-build")
}
