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

/// Compiler flags that take this machine's folders out of what is built: the same commit gives the
/// same bytes wherever it lies. Of several that match, the compiler takes the last.
pub fn path_remaps() -> Vec<String> {
    let home = env::home_dir();
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| home.as_ref().map(|home| home.join(".cargo")));
    let folders = [(home, "/home"), (cargo, "/cargo"), (Some(root()), "/enforcer")];
    let remap = |(from, to): (Option<PathBuf>, &str)| {
        from.map(|from| format!("--remap-path-prefix={}={to}", from.display()))
    };
    folders.into_iter().filter_map(remap).collect()
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
