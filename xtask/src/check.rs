//! `cargo xtask check`: everything that must hold beside the tests.

use anyhow::{Result, bail};
use clap::Args;

use crate::toolchain::Toolchain;
use crate::tools::Group;
use crate::{budget, build, process, setup};

/// What fetching the advisory database may take before it counts as out of reach, in seconds.
const ADVISORIES_PATIENCE: &str = "60";

/// Arguments of `cargo xtask check`.
#[derive(Args)]
pub struct Options {
    /// Write the verifier's budget from what is measured now, instead of checking against it
    #[arg(long)]
    update_budget: bool,
}

/// Runs every check, and fails after the last if one of them failed: one run shows all there is.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(Group::Check)?;
    build::ebpf()?;
    let checks: [(&str, &dyn Fn() -> Result<()>); 7] = [
        ("formatting", &formatting),
        ("lints", &host_lints),
        ("lints of the next layout", &next_lints),
        ("lints for the bpf target", &ebpf_lints),
        ("docs", &docs),
        ("dependencies", &dependencies),
        ("verifier's load gate", &|| budget::check(options.update_budget)),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        if let Err(error) = check() {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("all checks hold");
        return Ok(());
    }
    bail!("these checks failed: {}", failed.join(", "))
}

fn formatting() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
}

fn host_lints() -> Result<()> {
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--all-targets", "--", "-D", "warnings"]);
    process::run(&mut clippy)
}

/// What tests of upgrades are made with differs in the layout of the maps, and so in the daemon too.
fn next_lints() -> Result<()> {
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--package", "enforcer-user", "--features", build::NEXT_FEATURE]);
    process::run(clippy.args(["--", "-D", "warnings"]))
}

fn ebpf_lints() -> Result<()> {
    let toolchain = Toolchain::ensure()?;
    toolchain.ensure_clippy()?;
    for layout in [&[][..], &["--features", build::NEXT_FEATURE]] {
        // The build's own profile, so that its build scripts and macros are built once for all.
        let mut clippy = toolchain.cargo("clippy");
        clippy.args(["--profile", build::PROFILE]).args(layout);
        process::run(clippy.args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

fn docs() -> Result<()> {
    let mut doc = process::cargo();
    doc.args(["doc", "--no-deps", "--workspace"]);
    doc.args(["--exclude", "enforcer-ebpf", "--exclude", "enforcer-fuzz"]);
    process::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

fn dependencies() -> Result<()> {
    process::run(process::cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    if !advisories_were_fetched() {
        println!(
            "dependencies: bans, licenses and sources ran; advisories did not, since their \
             database cannot be reached"
        );
        return Ok(());
    }
    process::run(process::cargo().args(["deny", "check", "--disable-fetch", "advisories"]))?;
    println!("dependencies: bans, licenses, sources and advisories ran");
    Ok(())
}

fn advisories_were_fetched() -> bool {
    let mut fetch = process::clean("timeout");
    process::probe(fetch.args([ADVISORIES_PATIENCE, "cargo", "deny", "fetch", "db"])).is_some()
}
