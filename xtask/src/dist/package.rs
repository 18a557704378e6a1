//! A Debian package: its tree, its control files, and dpkg-deb.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::architecture::Architecture;
use super::documents::Documents;
use super::notices;
use super::release::{EPOCH_VARIABLE, Release};
use crate::{process, project};

/// The package's name.
const NAME: &str = "enforcer";
/// What administrators change: dpkg asks before it replaces these.
const CONFFILES: [&str; 1] = ["etc/enforcer/enforcer.example.toml"];
const DOC: &str = "usr/share/doc/enforcer";
/// Files of the repository, where they go, and their mode.
const FILES: [(&str, &str, u32); 9] = [
    ("docs/examples/enforcer.service", "lib/systemd/system/enforcer.service", 0o644),
    ("docs/examples/enforcer.toml", CONFFILES[0], 0o644),
    ("docs/OPERATIONS.md", "usr/share/doc/enforcer/OPERATIONS.md", 0o644),
    ("docs/POLICY.md", "usr/share/doc/enforcer/POLICY.md", 0o644),
    ("SECURITY.md", "usr/share/doc/enforcer/SECURITY.md", 0o644),
    ("xtask/packaging/copyright", "usr/share/doc/enforcer/copyright", 0o644),
    ("xtask/packaging/postinst", "DEBIAN/postinst", 0o755),
    ("xtask/packaging/prerm", "DEBIAN/prerm", 0o755),
    ("xtask/packaging/postrm", "DEBIAN/postrm", 0o755),
];
const POLICIES: &str = "docs/examples/policy";
/// Where policies go; empty as installed.
const POLICY_FOLDER: &str = "etc/enforcer/policy";

/// How a package's content is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// As small as it gets.
    Small,
    /// Not at all: for a package that is installed once, here.
    None,
}

/// What a package is made of.
pub struct Package<'a> {
    /// Whose program it is.
    pub architecture: Architecture,
    /// The package's own version, which may differ from the release's.
    pub version: &'a str,
    /// What it is a package of.
    pub release: &'a Release,
    /// The program.
    pub binary: &'a Path,
    /// What it says about itself.
    pub documents: &'a Documents,
    /// How it is packed.
    pub compression: Compression,
}

impl Package<'_> {
    /// Builds it in `folder` and returns its path.
    pub fn build(&self, folder: &Path) -> Result<PathBuf> {
        let architecture = self.architecture.debian();
        let root = folder.join(format!("tree-{architecture}"));
        if root.exists() {
            fs::remove_dir_all(&root)
                .with_context(|| format!("cannot empty {}", root.display()))?;
        }
        let tree = Tree { root };
        self.fill(&tree)?;
        tree.gzip(&[
            &format!("{DOC}/changelog"),
            &format!("{DOC}/changelog.Debian"),
            &format!("{DOC}/THIRD-PARTY"),
        ])?;
        tree.text("DEBIAN/md5sums", &tree.sums()?)?;
        tree.text("DEBIAN/control", &self.control(tree.kibibytes()?))?;
        let package = folder.join(format!("{NAME}_{}_{architecture}.deb", self.version));
        self.pack(&tree.root, &package)?;
        Ok(package)
    }

    fn fill(&self, tree: &Tree) -> Result<()> {
        tree.write("usr/bin/enforcer", &read(self.binary)?, 0o755)?;
        for (from, to, mode) in FILES {
            tree.write(to, &read(&project::root().join(from))?, mode)?;
        }
        for entry in fs::read_dir(project::root().join(POLICIES))? {
            let entry = entry?;
            let to = format!("{DOC}/examples/policy/{}", entry.file_name().to_string_lossy());
            tree.write(&to, &read(&entry.path())?, 0o644)?;
        }
        tree.folder(POLICY_FOLDER)?;
        for (path, bytes) in &self.documents.completions {
            tree.write(path, bytes, 0o644)?;
        }
        for (path, bytes) in &self.documents.pages {
            tree.write(path, bytes, 0o644)?;
        }
        let pages: Vec<&str> = self.documents.pages.iter().map(|(path, _)| path.as_str()).collect();
        tree.gzip(&pages)?;
        let changes = read(&project::root().join("CHANGELOG.md"))?;
        tree.write(&format!("{DOC}/changelog"), &changes, 0o644)?;
        tree.text(&format!("{DOC}/changelog.Debian"), &self.changelog())?;
        tree.text(&format!("{DOC}/THIRD-PARTY"), &notices::text(self.architecture)?)?;
        let conffiles: Vec<String> = CONFFILES.iter().map(|path| format!("/{path}\n")).collect();
        tree.text("DEBIAN/conffiles", &conffiles.concat())
    }

    fn control(&self, kibibytes: u64) -> String {
        format!(
            "Package: {NAME}\n\
             Version: {}\n\
             Architecture: {}\n\
             Maintainer: The Enforcer authors\n\
             Installed-Size: {kibibytes}\n\
             Suggests: bpftool\n\
             Section: net\n\
             Priority: optional\n\
             Description: authenticates workloads inside the TCP handshake\n \
             Gives every workload a signed identity, puts it into the TCP handshake and\n \
             enforces who may talk to whom: first contacts are verified by a daemon,\n \
             everything after that is decided by eBPF programs in the kernel.\n \
             .\n \
             Needs Linux 6.1 or newer with BTF.\n",
            self.version,
            self.architecture.debian(),
        )
    }

    fn changelog(&self) -> String {
        format!(
            "{NAME} ({}) unstable; urgency=medium\n\n  \
             * See changelog.gz.\n\n \
             -- The Enforcer authors <enforcer@localhost>  {}\n",
            self.version, self.release.date
        )
    }

    /// Same bytes from the same tree: owners are root, times the release's, one thread packs.
    fn pack(&self, root: &Path, package: &Path) -> Result<()> {
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.env(EPOCH_VARIABLE, self.release.epoch.to_string());
        dpkg.args(["--root-owner-group", "--threads-max=1"]);
        dpkg.arg(match self.compression {
            Compression::Small => "-Zxz",
            Compression::None => "-Znone",
        });
        process::run(dpkg.arg("--build").arg(root).arg(package))
    }
}

/// A folder that becomes a package. Paths are relative to it; modes do not depend on the umask.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn text(&self, path: &str, text: &str) -> Result<()> {
        self.write(path, text.as_bytes(), 0o644)
    }

    fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        let file = self.root.join(path);
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(mode))?)
    }

    fn folder(&self, path: &str) -> Result<()> {
        let folder = self.root.join(path);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for part in folder.ancestors().take_while(|part| part.starts_with(&self.root)) {
            fs::set_permissions(part, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Compresses files in place, without time stamps.
    fn gzip(&self, paths: &[&str]) -> Result<()> {
        let mut gzip = Command::new("gzip");
        process::run_quietly(gzip.args(["-9", "--no-name"]).args(paths).current_dir(&self.root))
    }

    /// What `DEBIAN/md5sums` holds.
    fn sums(&self) -> Result<String> {
        let files = self.files()?;
        let sums = process::probe(Command::new("md5sum").args(files).current_dir(&self.root))
            .with_context(|| format!("md5sum cannot read what is in {}", self.root.display()))?;
        Ok(sums + "\n")
    }

    fn kibibytes(&self) -> Result<u64> {
        let sizes = self
            .files()?
            .into_iter()
            .map(|file| Ok(fs::metadata(self.root.join(file))?.len().div_ceil(1024)));
        sizes.sum()
    }

    /// The paths of all files but the control files, sorted.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut left = vec![self.root.clone()];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() { left.push(path) } else { found.push(path) }
            }
        }
        let relative = |path: PathBuf| path.strip_prefix(&self.root).map(Path::to_owned);
        let mut files = found.into_iter().map(relative).collect::<Result<Vec<_>, _>>()?;
        files.retain(|path| !path.starts_with("DEBIAN"));
        files.sort();
        Ok(files)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
