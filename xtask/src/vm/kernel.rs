//! Debian's kernels: downloaded with apt's own lists and signatures, unpacked, never installed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::archive::Archive;
use crate::{process, project};

/// With an architecture behind it, depends on the concrete package of a suite's newest kernel; made for virtual
/// machines.
const META_PACKAGE: &str = "linux-image-cloud";
/// The packages that hold a kernel and its modules: one up to 6.x, two from 7.x on.
const CONCRETE: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// A kernel that the enforcer must run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Version {
    /// The oldest: Debian 12's
    #[value(name = "6.1")]
    Oldest,
    /// Debian 13's
    #[value(name = "6.12")]
    Stable,
    /// Whatever Debian unstable ships
    Newest,
}

impl Version {
    /// All of them, the oldest first.
    pub const ALL: [Self; 3] = [Self::Oldest, Self::Stable, Self::Newest];

    fn suite(self) -> &'static str {
        match self {
            Self::Oldest => "bookworm",
            Self::Stable => "trixie",
            Self::Newest => "sid",
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.to_possible_value().expect("no version is skipped");
        out.write_str(name.get_name())
    }
}

/// An unpacked kernel.
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// What qemu boots.
    pub image: PathBuf,
    /// The folder that holds `lib/modules/<release>`, with `modules.dep`.
    pub root: PathBuf,
}

impl Kernel {
    /// The folder of its modules.
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }
}

/// Downloads and unpacks the suite's newest kernel for one of Debian's architectures, unless that has been done.
pub fn fetch(version: Version, architecture: &str) -> Result<Kernel> {
    let suite = version.suite();
    let folder = project::root().join("target/vm").join(match architecture {
        "amd64" => suite.to_owned(),
        other => format!("{suite}-{other}"),
    });
    let root = folder.join("root");
    if !folder.join("complete").exists() {
        // What an interrupted run left might be another release's.
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        // Unstable has no security updates of its own.
        let archive = Archive::open(&folder, suite, version != Version::Newest, architecture)?;
        archive.unpack(&concrete_packages(&archive, architecture)?, &root)?;
        if !root.join("lib").exists() {
            symlink("usr/lib", root.join("lib"))?;
        }
        let release = release(&root)?;
        process::run(Command::new("depmod").arg("--basedir").arg(&root).arg(release))?;
        fs::write(folder.join("complete"), "")?;
    }
    let release = release(&root)?;
    let image = image(&root, &release)?;
    Ok(Kernel { release, image, root })
}

/// The suite's concrete packages of its newest kernel.
fn concrete_packages(archive: &Archive, architecture: &str) -> Result<Vec<String>> {
    let meta = format!("{META_PACKAGE}-{architecture}");
    let depends = process::probe(archive.command("apt-cache").args([
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
        &meta,
    ]))
    .with_context(|| format!("apt-cache knows no {meta}"))?;
    let concrete = depends.lines().filter(|line| is_concrete(line)).map(str::to_owned);
    let found: BTreeSet<String> = concrete.collect();
    if found.is_empty() {
        bail!("{meta} depends on no package named {CONCRETE:?}: {depends}");
    }
    Ok(found.into_iter().collect())
}

/// Whether a line of `apt-cache depends --recurse` is the name of a kernel's own package: those
/// stand at the line's begin and carry the kernel's version.
fn is_concrete(line: &str) -> bool {
    CONCRETE.iter().any(|prefix| {
        line.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    })
}

fn release(root: &Path) -> Result<String> {
    let modules = root.join("lib/modules");
    let mut entries =
        fs::read_dir(&modules).with_context(|| format!("cannot list {}", modules.display()))?;
    let Some(entry) = entries.next() else { bail!("{} is empty", modules.display()) };
    Ok(entry?.file_name().to_string_lossy().into_owned())
}

fn image(root: &Path, release: &str) -> Result<PathBuf> {
    let candidates = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
    let found = candidates.iter().map(|path| root.join(path)).find(|path| path.exists());
    found.with_context(|| format!("none of {candidates:?} below {}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::is_concrete;

    #[test]
    fn only_the_kernels_own_packages_are_taken() {
        for taken in ["linux-image-6.1.0-56-cloud-amd64", "linux-modules-7.2.13+deb14-cloud-amd64"]
        {
            assert!(is_concrete(taken), "{taken}");
        }
        for left in
            ["linux-image-cloud-amd64", "  Depends: linux-image-6.1.0-56-cloud-amd64", "kmod"]
        {
            assert!(!is_concrete(left), "{left}");
        }
    }
}
