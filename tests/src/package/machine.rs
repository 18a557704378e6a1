//! A machine to install packages on: this one's files under an overlay in memory, seen from a network namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::systemctl;
use crate::host::Host;
use crate::need;

/// Room for what packages bring, in mebibytes.
const ROOM: u32 = 1024;

/// The machine; gone when dropped.
#[derive(Debug)]
pub struct Machine {
    host: Host,
    folder: TempDir,
}

/// From now on, what this process mounts is seen by itself only. Before any thread is started.
pub fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("mounts stay shared")
}

impl Machine {
    /// A copy of this machine on the network of `host`.
    pub fn new(host: &Host) -> Result<Self> {
        let machine =
            Self { host: host.clone(), folder: TempDir::with_prefix("enftest-machine-")? };
        let memory = machine.folder.path();
        mounted("tmpfs", memory, &format!("size={ROOM}m,mode=0755"))?;
        for folder in ["changed", "work", "root"] {
            fs::create_dir(memory.join(folder))?;
        }
        let layers = format!(
            "lowerdir=/,upperdir={},workdir={}",
            machine.changed().display(),
            memory.join("work").display()
        );
        let root = machine.root();
        mounted("overlay", &root, &layers)?;
        mounted("proc", &root.join("proc"), "")?;
        mounted("sysfs", &root.join("sys"), "")?;
        mounted("bpf", &root.join("sys/fs/bpf"), "mode=0700")?;
        for volatile in ["run", "tmp"] {
            mounted("tmpfs", &root.join(volatile), "mode=0755")?;
        }
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some("/dev"), &root.join("dev"), None::<&str>, bind, None::<&str>)
            .context("cannot bind /dev")?;
        systemctl::install(&root)?;
        Ok(machine)
    }

    /// Its root folder.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// The folder that holds what differs from this machine.
    pub fn changed(&self) -> PathBuf {
        self.folder.path().join("changed")
    }

    /// Runs a program of the machine and returns what it printed, on both outputs.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words)?.output()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        ensure!(output.status.success(), "{words:?} failed with {}: {text}", output.status);
        Ok(text)
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.host.command(need::tool("chroot")?);
        command.arg(self.root()).args(words).env("DEBIAN_FRONTEND", "noninteractive");
        command.env("LC_ALL", "C.UTF-8").current_dir("/");
        Ok(command)
    }

    /// Copies a file of this machine into it; returns its path there.
    pub fn take(&self, file: &Path) -> Result<String> {
        let name = file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        let to = format!("/tmp/{name}");
        fs::copy(file, self.root().join(&to[1..]))
            .with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(to)
    }

    /// The daemon's process id, while the unit runs.
    pub fn daemon(&self) -> Option<i32> {
        systemctl::daemon(&self.root())
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.root().join("run/enforcer.log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(pid) = self.daemon() {
            // It may have ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // Whatever is still used goes with this process's mount namespace.
        for path in [self.root(), self.folder.path().to_owned()] {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
    }
}

fn mounted(kind: &str, at: &Path, options: &str) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount {kind} at {} ({options})", at.display()))
}
