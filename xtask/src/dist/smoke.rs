//! The arm64 program in an emulated arm64 machine with Debian's kernel: two enforcers load and attach their programs, and
//! a call is answered through the handshake between them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::arm64::Arm64;
use crate::vm::{Version, guest, kernel, modules};
use crate::{process, project};

/// What boot and test may take, in seconds; everything is emulated.
const PATIENCE: &str = "900";

/// What the guest does; it says [`guest::DONE`] if all of it succeeded.
const INIT: &str = include_str!("../../packaging/smoke.sh");

/// Boots the program in Debian's oldest kernel that is supported.
pub fn run(arm64: &Arm64, binary: &Path) -> Result<()> {
    let kernel = kernel::fetch(Version::Oldest, "arm64")?;
    let tree = project::target_dir().join("dist/arm64/guest");
    guest::empty_tree(&tree, &arm64.busybox())?;
    modules::copy(&kernel, &tree)?;
    fs::copy(binary, tree.join("programs/enforcer"))?;
    guest::write_init(&tree, INIT)?;
    let initramfs = guest::archive(&tree)?;
    let mut qemu = qemu(&kernel.image, &initramfs);
    eprintln!("+ {}", process::shown(&qemu));
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-aarch64 does not start")?;
    let output = child.stdout.take().context("qemu's console was asked for as a pipe")?;
    let mut done = false;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("[arm64] {}", line.trim_end());
        done |= line.trim() == guest::DONE;
    }
    let status = child.wait()?;
    let release = &kernel.release;
    ensure!(
        done,
        "the arm64 program does not do its work in Linux {release}; the console above says how far it came (qemu: \
         {status}, {PATIENCE} seconds at most)"
    );
    println!("arm64: a handshake between two enforcers under Linux {release}, emulated");
    Ok(())
}

fn qemu(image: &Path, initramfs: &Path) -> Command {
    let mut qemu = process::clean("timeout");
    qemu.args(["--kill-after=10", PATIENCE, "qemu-system-aarch64", "-machine", "virt"]);
    qemu.args(["-cpu", "max,pauth-impdef=on", "-accel", "tcg,thread=multi", "-smp", "2"]);
    qemu.args(["-m", "1024", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.args(["-append", "console=ttyAMA0 panic=-1 quiet"]);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    qemu
}
