//! Debian's kernels: downloaded with apt's own lists and signatures, unpacked, never installed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{process, project};

/// Where all packages come from.
pub const ARCHIVE: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SECURITY_ARCHIVE: &str = "http://deb.debian.org/debian-security";
/// Desktop metadata: some machines' apt fetches it with every package list.
const NO_METADATA: &str = "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false";
/// Depends on the concrete package of a suite's newest kernel; made for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
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

/// Downloads and unpacks the suite's newest kernel, unless that has been done.
pub fn fetch(version: Version) -> Result<Kernel> {
    let folder = project::root().join("target/vm").join(version.suite());
    let root = folder.join("root");
    if !folder.join("complete").exists() {
        // What an interrupted run left might be another release's.
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        let apt = Apt::new(&folder, version)?;
        for package in apt.download()? {
            process::run(Command::new("dpkg").arg("--extract").arg(package).arg(&root))?;
        }
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

/// apt with lists, sources and cache of its own: it neither needs nor changes the machine's.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path, version: Version) -> Result<Self> {
        for made in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(folder.join(made))
                .with_context(|| format!("cannot make {}/{made}", folder.display()))?;
        }
        fs::write(folder.join("sources.list"), sources(version))?;
        fs::write(folder.join("status"), "")?;
        let apt = Self { folder: folder.to_owned() };
        process::run(apt.command("apt-get").args(["--quiet", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = process::clean(program);
        for (option, path) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "none"),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::Status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.folder.join(path).display()));
        }
        // The folder may belong to a user that apt's own download user cannot enter.
        for setting in ["APT::Sandbox::User=root", "Acquire::Languages=none", NO_METADATA] {
            command.args(["-o", setting]);
        }
        command
    }

    /// Fetches the kernel's packages and returns their files.
    fn download(&self) -> Result<Vec<PathBuf>> {
        let names = self.concrete_packages()?;
        let packages = self.folder.join("packages");
        let mut download = self.command("apt-get");
        download.current_dir(&packages).args(["--quiet", "download"]).args(&names);
        process::run(&mut download)?;
        let files = fs::read_dir(&packages)?.map(|entry| Ok(entry?.path()));
        files.collect()
    }

    fn concrete_packages(&self) -> Result<BTreeSet<String>> {
        let depends = process::probe(self.command("apt-cache").args([
            "depends",
            "--recurse",
            "--no-recommends",
            "--no-suggests",
            "--no-conflicts",
            "--no-breaks",
            "--no-replaces",
            "--no-enhances",
            META_PACKAGE,
        ]))
        .with_context(|| format!("apt-cache knows no {META_PACKAGE}"))?;
        let concrete = depends.lines().filter(|line| is_concrete(line)).map(str::to_owned);
        let found: BTreeSet<String> = concrete.collect();
        if found.is_empty() {
            bail!("{META_PACKAGE} depends on no package named {CONCRETE:?}: {depends}");
        }
        Ok(found)
    }
}

fn sources(version: Version) -> String {
    let suite = version.suite();
    let main = format!("deb [signed-by={KEYRING}] {ARCHIVE} {suite} main\n");
    if version == Version::Newest {
        return main;
    }
    // A release's newest kernels come as security updates.
    format!("{main}deb [signed-by={KEYRING}] {SECURITY_ARCHIVE} {suite}-security main\n")
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
