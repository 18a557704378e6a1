//! Running other programs: every command is shown before it runs, and a failure names it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::project;

/// What `cargo run` and the rustup proxy leave in our environment for this very crate. Inherited,
/// it would bind another toolchain's cargo to our compiler and libraries.
const INHERITED: [&str; 14] = [
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_BUILD_TARGET",
    "CARGO_CRATE_NAME",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// Folders that hold administrators' programs and that a plain user's `PATH` may lack.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The cargo that runs this task, in the workspace's root.
pub fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(project::root());
    command
}

/// A command free of this process's cargo and rustup settings, in the workspace's root.
pub fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(project::root());
    for (key, _) in env::vars_os() {
        let text = key.to_string_lossy();
        if INHERITED.contains(&text.as_ref()) || text.starts_with("CARGO_PKG_") {
            command.env_remove(&key);
        }
    }
    command
}

/// `program` as root: itself when we are root, else through sudo. `settings` are environment
/// variables that must survive sudo.
pub fn root_command(program: &Path, settings: &[(&str, &OsStr)]) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(settings.iter().copied());
        return Ok(command);
    }
    let Some(sudo) = find("sudo") else {
        bail!(
            "{} needs root (network namespaces, loading eBPF), this runs as uid {}, and sudo is \
             not installed; run the same `cargo xtask` command as root",
            program.display(),
            uid()
        );
    };
    let mut command = Command::new(sudo);
    command.arg("env");
    for (key, value) in settings {
        let mut setting = OsString::from(key);
        setting.push("=");
        setting.push(value);
        command.arg(setting);
    }
    command.arg(program);
    Ok(command)
}

/// Whether this process may load eBPF and make namespaces.
pub fn is_root() -> bool {
    uid() == 0
}

fn uid() -> u32 {
    // The kernel gives a process's /proc folder the process's effective user.
    fs::metadata("/proc/self").map_or(u32::MAX, |status| status.uid())
}

/// The full path of `program`, from `PATH` and the system folders.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|status| status.is_file() && status.mode() & 0o111 != 0)
}

/// Shows and runs `command`; an error unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    if succeeds(command)? { Ok(()) } else { bail!("failed: {}", shown(command)) }
}

/// Runs `command` and shows nothing unless it fails: the error then holds what it wrote.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let output =
        command.output().with_context(|| format!("could not start: {}", shown(command)))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("failed: {}\n{}", shown(command), said.trim_end())
}

/// Shows and runs `command`; whether it succeeded.
pub fn succeeds(command: &mut Command) -> Result<bool> {
    eprintln!("+ {}", shown(command));
    let status =
        command.status().with_context(|| format!("could not start: {}", shown(command)))?;
    Ok(status.success())
}

/// Shows and runs `command`; what it wrote to its standard output, and whether it succeeded.
pub fn captured(command: &mut Command) -> Result<(String, bool)> {
    eprintln!("+ {}", shown(command));
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("could not start: {}", shown(command)))?;
    Ok((String::from_utf8(output.stdout)?, output.status.success()))
}

/// What `command` prints, without its last newline; `None` when it fails or does not exist. For
/// probes: it shows nothing.
pub fn probe(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && !word.contains([' ', '"', '$', '*', '&', '|']);
    if plain { word.to_owned() } else { format!("'{word}'") }
}
