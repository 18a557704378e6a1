//! Debian packages of any suite and architecture: downloaded with apt's own lists and signatures, unpacked, never
//! installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Where all packages come from.
pub const ARCHIVE: &str = "http://deb.debian.org/debian";
const SECURITY_ARCHIVE: &str = "http://deb.debian.org/debian-security";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Desktop metadata: some machines' apt fetches it with every package list.
const NO_METADATA: &str = "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false";

/// apt with lists, sources and cache of its own: it neither needs nor changes the machine's.
pub struct Archive {
    folder: PathBuf,
    architecture: String,
}

impl Archive {
    /// Fetches the lists of a suite, its security updates included where it has them, into `folder`.
    pub fn open(folder: &Path, suite: &str, security: bool, architecture: &str) -> Result<Self> {
        for made in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(folder.join(made))
                .with_context(|| format!("cannot make {}/{made}", folder.display()))?;
        }
        fs::write(folder.join("sources.list"), sources(suite, security))?;
        fs::write(folder.join("status"), "")?;
        let archive = Self { folder: folder.to_owned(), architecture: architecture.to_owned() };
        process::run(archive.command("apt-get").args(["--quiet", "update"]))?;
        Ok(archive)
    }

    /// One of apt's programs on this archive.
    pub fn command(&self, program: &str) -> Command {
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
        for option in ["APT::Architecture", "APT::Architectures"] {
            command.arg("-o").arg(format!("{option}={}", self.architecture));
        }
        // The folder may belong to a user that apt's own download user cannot enter.
        for setting in ["APT::Sandbox::User=root", "Acquire::Languages=none", NO_METADATA] {
            command.args(["-o", setting]);
        }
        command
    }

    /// Downloads packages and unpacks them below `root`.
    pub fn unpack(&self, names: &[String], root: &Path) -> Result<()> {
        let packages = self.folder.join("packages");
        let mut download = self.command("apt-get");
        process::run(download.current_dir(&packages).args(["--quiet", "download"]).args(names))?;
        for entry in fs::read_dir(&packages)? {
            process::run(Command::new("dpkg").arg("--extract").arg(entry?.path()).arg(root))?;
        }
        Ok(())
    }
}

fn sources(suite: &str, security: bool) -> String {
    let main = format!("deb [signed-by={KEYRING}] {ARCHIVE} {suite} main\n");
    if !security {
        return main;
    }
    // A release's newest packages come as security updates.
    format!("{main}deb [signed-by={KEYRING}] {SECURITY_ARCHIVE} {suite}-security main\n")
}
