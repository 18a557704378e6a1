//! How qemu runs a guest: by KVM where that boots one, else by emulation, which is slow but the same everywhere.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use super::guest;
use crate::{process, project};

/// What a kernel may take to boot under KVM, in seconds. On machines that are themselves virtual, KVM is often there
/// in name only: qemu then stops at once, or the guest hangs before its first word.
const PATIENCE: &str = "20";
const KVM_DEVICE: &str = "/dev/kvm";

/// What runs the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accelerator {
    /// The machine itself.
    Kvm,
    /// qemu's translator.
    Emulation,
}

impl Accelerator {
    /// Boots `image` under KVM with an init that does nothing, and sees whether it gets there.
    pub fn probe(image: &Path) -> Result<Self> {
        if !Path::new(KVM_DEVICE).exists() {
            return Ok(Self::Emulation);
        }
        let initramfs = guest::pack_empty(&project::root().join("target/vm/empty"))?;
        let mut qemu = Self::Kvm.command(image, &initramfs, PATIENCE);
        let output = qemu.stdin(Stdio::null()).output()?;
        let console = String::from_utf8_lossy(&output.stdout);
        let booted = console.lines().any(|line| line.trim() == guest::DONE);
        Ok(if booted { Self::Kvm } else { Self::Emulation })
    }

    /// qemu with a guest of two processors and its console on the standard output, stopped after `seconds`. What the
    /// tests write stays in the guest's memory, half of which its files may take.
    pub fn command(self, image: &Path, initramfs: &Path, seconds: &str) -> Command {
        self.command_with(image, initramfs, seconds, "")
    }

    /// The same with more kernel parameters.
    pub fn command_with(
        self,
        image: &Path,
        initramfs: &Path,
        seconds: &str,
        parameters: &str,
    ) -> Command {
        let mut qemu = process::clean("timeout");
        qemu.args(["--kill-after=10", seconds, "qemu-system-x86_64"]);
        qemu.args(match self {
            Self::Kvm => ["-accel", "kvm"],
            Self::Emulation => ["-accel", "tcg,thread=multi"],
        });
        qemu.args(["-cpu", "max", "-smp", "2", "-m", "4096"]);
        qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        qemu.arg("-append").arg(format!("console=ttyS0 panic=-1 quiet {parameters}"));
        qemu.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
        qemu
    }
}
