//! Tells the crate where the eBPF object is that it embeds.

use std::path::{Path, PathBuf};
use std::{env, process};

/// Another object than the default, for builds that compare objects.
const VARIABLE: &str = "ENFORCER_EBPF_OBJECT";
/// Where `cargo xtask build` puts the object, relative to this crate.
const DEFAULT: &str = "../target/bpf/enforcer-ebpf";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let object = object();
    println!("cargo::rerun-if-changed={}", object.display());
    if !object.is_file() {
        println!(
            "cargo::error=no eBPF object at {}; `cargo xtask build` makes it (or set {VARIABLE})",
            object.display()
        );
        process::exit(1);
    }
    println!("cargo::rustc-env={VARIABLE}={}", object.display());
}

fn object() -> PathBuf {
    if let Some(path) = env::var_os(VARIABLE) {
        return PathBuf::from(path);
    }
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts");
    Path::new(&manifest).join(DEFAULT)
}
