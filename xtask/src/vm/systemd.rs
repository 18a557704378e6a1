//! A whole Debian that boots with systemd and the enforcer's unit, once with it and once without: what waits for the
//! network, or for the enforcer, must never run unenforced. What the machine holds beside the distribution is in
//! `tests/boot`: units, scripts, configurations.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::accelerator::Accelerator;
use super::kernel::Kernel;
use super::{guest, modules};
use crate::archive::ARCHIVE;
use crate::tally::Tally;
use crate::{process, project};

/// The distribution that boots, and what it has beside what is essential.
const SUITE: &str = "trixie";
const PACKAGES: &str = "--include=systemd-sysv,udev,kmod,iproute2";
/// What one boot and its checks may take, in seconds.
const PATIENCE: &str = "900";
/// Keeps what is on the console to what the checks say.
const CALM: &str = "systemd.show_status=no systemd.getty_auto=no";
/// Said to the second boot's kernel: no enforcer runs.
const UNGUARDED: &str = "boot.unguarded systemd.mask=enforcer.service";
/// As docs/OPERATIONS.md has it ("At boot") for hosts whose addresses are configured.
const BEFORE_NETWORK: &str = "[Unit]\nWants=network-pre.target\nBefore=network-pre.target\n";

/// Boots with the enforcer and without, and sums what holds.
pub fn run(kernel: &Kernel, accelerator: Accelerator, enforcer: &Path) -> Result<Tally> {
    let tree = distribution()?;
    furnish(&tree, kernel, enforcer)?;
    let initramfs = guest::archive(&tree)?;
    let mut sum = Tally::default();
    for parameters in ["", UNGUARDED] {
        sum += boot(kernel, accelerator, &initramfs, parameters)?;
    }
    Ok(sum)
}

/// Downloads and unpacks the distribution, unless that has been done; returns a copy to be furnished.
fn distribution() -> Result<PathBuf> {
    let folder = project::root().join("target/vm/systemd");
    let (base, tree) = (folder.join("base"), folder.join("root"));
    let complete = folder.join("complete");
    if !complete.exists() {
        remove(&base)?;
        fs::create_dir_all(&folder)?;
        let mut bootstrap = process::clean("mmdebstrap");
        bootstrap.args(["--quiet", "--variant=essential", PACKAGES, SUITE]);
        process::run(bootstrap.arg(&base).arg(ARCHIVE))?;
        fs::write(complete, "")?;
    }
    remove(&tree)?;
    process::run(Command::new("cp").arg("--archive").arg(&base).arg(&tree))?;
    Ok(tree)
}

fn remove(tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("cannot empty {}", tree.display()))?;
    }
    Ok(())
}

/// Puts the kernel's modules, the enforcer with its unit, and what `tests/boot` has into the tree.
fn furnish(tree: &Path, kernel: &Kernel, enforcer: &Path) -> Result<()> {
    modules::copy(kernel, tree)?;
    let program = tree.join("usr/bin/enforcer");
    let strip = ["--strip-debug", "-o"];
    process::run_quietly(Command::new("strip").args(strip).arg(&program).arg(enforcer))?;
    let ours = project::root().join("tests/boot");
    let etc = tree.join("etc/enforcer");
    copy_folder(&ours.join("units"), &tree.join("usr/lib/systemd/system"))?;
    copy_folder(&ours.join("scripts"), &tree.join("usr/lib/boot"))?;
    copy_folder(&ours.join("etc"), &etc)?;
    fs::create_dir_all(etc.join("policy"))?;
    fs::rename(etc.join("boot.cedar"), etc.join("policy/boot.cedar"))?;
    let mut generate = process::clean(program.to_string_lossy().as_ref());
    process::run_quietly(generate.args(["psk", "generate", "--out"]).arg(etc.join("psk.key")))?;
    let unit = project::root().join("docs/examples/enforcer.service");
    fs::copy(unit, tree.join("usr/lib/systemd/system/enforcer.service"))?;
    let additions = tree.join("etc/systemd/system/enforcer.service.d");
    fs::create_dir_all(&additions)?;
    fs::write(additions.join("before-network.conf"), BEFORE_NETWORK)?;
    enable(tree)?;
    symlink("usr/lib/systemd/systemd", tree.join("init")).context("cannot name the init")
}

/// Enables the units as their `[Install]` sections say.
fn enable(tree: &Path) -> Result<()> {
    let units = ["boot-network", "boot-stranger", "boot-uplink", "boot-peer", "boot-check"];
    let services = units.iter().chain(&["enforcer"]).map(|unit| format!("{unit}.service"));
    let mut systemctl = process::clean("systemctl");
    systemctl.arg("--root").arg(tree).arg("enable").args(services).arg("echo.socket");
    process::run_quietly(&mut systemctl)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        fs::copy(entry.path(), &to)?;
        let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
        fs::set_permissions(
            &to,
            fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }),
        )?;
    }
    Ok(())
}

/// Boots to the end of the checks and counts them.
fn boot(
    kernel: &Kernel,
    accelerator: Accelerator,
    initramfs: &Path,
    parameters: &str,
) -> Result<Tally> {
    let parameters = format!("{CALM} {parameters}");
    let mut qemu = accelerator.command_with(&kernel.image, initramfs, PATIENCE, &parameters);
    eprintln!("+ {}", process::shown(&qemu));
    let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("qemu's console was asked for as a pipe")?;
    let (mut sum, mut done) = (Tally::default(), false);
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("[systemd] {}", line.trim_end());
        done |= line.trim() == guest::DONE;
        sum += Tally::of_line(&line).unwrap_or_default();
    }
    let status = child.wait()?;
    if !done || !sum.is_success() && sum.failed == 0 {
        bail!(
            "the machine stopped before it had checked anything (qemu: {status}, {PATIENCE} seconds at most)"
        );
    }
    Ok(sum)
}
