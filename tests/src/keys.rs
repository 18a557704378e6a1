//! Keys of test networks: a pre-shared key, or an authority and node certificates made by the command line.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::enforcer::binary;
use crate::need;

/// How the nodes of a test prove who their workloads are.
#[derive(Debug)]
pub enum Keys {
    /// All hold one key.
    Psk(Psk),
    /// Each holds a certificate of one authority.
    Pki(Pki),
}

impl Keys {
    /// A fresh pre-shared key.
    pub fn psk() -> Result<Self> {
        Psk::generate().map(Self::Psk)
    }

    /// A fresh authority.
    pub fn pki() -> Result<Self> {
        Pki::init().map(Self::Pki)
    }

    /// The files of one node: made for PKI, may speak for `namespace` and below.
    pub fn node(&self, name: &str, namespace: &str) -> Result<NodeKeys> {
        match self {
            Self::Psk(psk) => Ok(psk.node()),
            Self::Pki(pki) => pki.node(name, namespace),
        }
    }
}

/// The identity files of one node; they stay as long as this does.
#[derive(Debug, Clone)]
pub struct NodeKeys {
    /// What the node's configuration names.
    pub files: NodeFiles,
    _folder: Arc<TempDir>,
}

/// The paths of a node's identity files.
#[derive(Debug, Clone)]
pub enum NodeFiles {
    /// Pre-shared key mode.
    Psk {
        /// 64 hexadecimal digits, mode 0600.
        psk_file: PathBuf,
    },
    /// Certificate mode.
    Pki {
        /// Certificates of authorities that are trusted.
        authorities: Vec<PathBuf>,
        /// The node's certificate.
        certificate: PathBuf,
        /// The node's key, mode 0600.
        key: PathBuf,
    },
}

/// A pre-shared key in a file that only root may read.
pub struct Psk {
    folder: Arc<TempDir>,
}

impl Psk {
    /// A fresh key of 256 random bits.
    pub fn generate() -> Result<Self> {
        let mut halves = [[0; 16]; 2];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(halves.as_flattened_mut()))
            .context("no random bytes")?;
        let [high, low] = halves.map(u128::from_be_bytes);
        let psk = Self { folder: Arc::new(TempDir::with_prefix("enftest-psk-")?) };
        write_private(&psk.file(), &format!("{high:032x}{low:032x}"))?;
        Ok(psk)
    }

    /// The identity files of any node.
    #[must_use]
    pub fn node(&self) -> NodeKeys {
        let files = NodeFiles::Psk { psk_file: self.file() };
        NodeKeys { files, _folder: Arc::clone(&self.folder) }
    }

    /// The file, as `psk_file` expects it.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("psk.key")
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Psk").field(&self.file()).finish()
    }
}

/// An authority of files, made with `enforcer ca`.
#[derive(Debug, Clone)]
pub struct Pki {
    folder: Arc<TempDir>,
}

impl Pki {
    /// The trust domain of all test networks.
    pub const TRUST_DOMAIN: &str = "example.org";

    /// Makes an authority for [`Pki::TRUST_DOMAIN`].
    pub fn init() -> Result<Self> {
        let pki = Self { folder: Arc::new(TempDir::with_prefix("enftest-pki-")?) };
        need::run(
            Command::new(binary()?)
                .args(["ca", "init", "--trust-domain", Self::TRUST_DOMAIN, "--dir"])
                .arg(pki.authority_folder()),
        )?;
        Ok(pki)
    }

    /// The authority's certificate, which every node trusts.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.authority_folder().join("ca.cert")
    }

    /// Makes a node's key and request as the node does, and lets the authority sign it for one namespace.
    pub fn node(&self, name: &str, namespace: &str) -> Result<NodeKeys> {
        self.labelled_node(name, namespace, &[])
    }

    /// The same, with labels of the node such as `zone=north`.
    pub fn labelled_node(&self, name: &str, namespace: &str, labels: &[&str]) -> Result<NodeKeys> {
        let file = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        let (key, request, certificate) = (file("key"), file("request"), file("cert"));
        make_request(name, &key, &request)?;
        self.sign(&request, namespace, &[&options(labels)[..], &["--out"]].concat(), &certificate)?;
        let files = NodeFiles::Pki { authorities: vec![self.authority()], certificate, key };
        Ok(NodeKeys { files, _folder: Arc::clone(&self.folder) })
    }

    /// Puts another certificate of this authority, which counts for so many days, into the place of a node's own, as its
    /// administrator does; with [`NodeKey::Fresh`] another key before it.
    pub fn replace(
        &self,
        node: &NodeKeys,
        (name, namespace): (&str, &str),
        which: NodeKey,
        days: u32,
    ) -> Result<()> {
        let NodeFiles::Pki { certificate, key, .. } = &node.files else {
            bail!("node {name} has no certificate that could be replaced, it has {:?}", node.files)
        };
        let (fresh, request) = (key.with_extension("new-key"), key.with_extension("request"));
        let signed = if which == NodeKey::Fresh { &fresh } else { key };
        make_request(name, signed, &request)?;
        let staged = certificate.with_extension("new-cert");
        self.sign(&request, namespace, &["--days", &days.to_string(), "--out"], &staged)?;
        if which == NodeKey::Fresh {
            put(&fresh, key)?;
        }
        put(&staged, certificate)
    }

    /// Puts a certificate with other labels into the place of a node's own; the key stays.
    pub fn relabel(
        &self,
        node: &NodeKeys,
        (name, namespace): (&str, &str),
        labels: &[&str],
    ) -> Result<()> {
        let other = self.labelled_node(name, namespace, labels)?;
        match (&other.files, &node.files) {
            (NodeFiles::Pki { key, .. }, NodeFiles::Pki { key: own, .. }) if key == own => Ok(()),
            (other, own) => bail!("{name} is not the node of {own:?}: {other:?}"),
        }
    }

    fn sign(&self, request: &Path, namespace: &str, words: &[&str], out: &Path) -> Result<()> {
        let mut issue = Command::new(binary()?);
        issue.args(["ca", "issue-node", "--namespace", namespace]);
        issue.arg("--dir").arg(self.authority_folder()).arg("--request").arg(request);
        need::run(issue.args(words).arg(out)).map(drop)
    }

    fn authority_folder(&self) -> PathBuf {
        self.folder.path().join("ca")
    }
}

/// As the command line takes them.
fn options<'a>(labels: &[&'a str]) -> Vec<&'a str> {
    labels.iter().flat_map(|label| ["--label", label]).collect()
}

/// What a node's next certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKey {
    /// The key that the node has.
    Kept,
    /// A new one.
    Fresh,
}

/// Makes a request for the key, and the key if it is not there.
fn make_request(name: &str, key: &Path, out: &Path) -> Result<()> {
    let mut request = Command::new(binary()?);
    request.args(["ca", "request", "--name", name]).arg("--key").arg(key).arg("--out").arg(out);
    need::run(&mut request).map(drop)
}

fn put(staged: &Path, place: &Path) -> Result<()> {
    fs::rename(staged, place).with_context(|| format!("{} is not replaced", place.display()))
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(path).with_context(context)?;
    file.set_permissions(Permissions::from_mode(0o600)).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)
}
