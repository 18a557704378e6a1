//! Authorities, nodes and pre-shared keys as files: what the `ca` and `psk` commands do, and what the daemon loads.

use std::fs::{DirBuilder, remove_file};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::armor::{ArmorError, Label, decode, encode};
use super::authority::{Authority, AuthorityError};
use super::certificate::{AuthorityCertificate, CertificateError, NodeCertificate, NodeRequest};
use super::file_io::{
    FileIoError, create_public, create_secret, read_public, read_secret, replace_public,
};
use super::keys::{NoRandomness, PresharedKey, PskError, SigningKey};

/// The file in an authority's folder that holds its key, mode 0600.
pub const AUTHORITY_KEY_FILE: &str = "ca.key";
/// The file in an authority's folder that every node is given.
pub const AUTHORITY_CERTIFICATE_FILE: &str = "ca.cert";

/// Why a key or certificate file was not made or not used. Each names the file.
#[derive(Debug, Error)]
pub enum FileError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] FileIoError),
    /// The folder could not be made.
    #[error("{dir}: cannot make this folder: {source}", dir = dir.display())]
    Folder {
        /// Which folder.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not the text form that was expected.
    #[error("{path}: {source}", path = path.display())]
    Armor {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: ArmorError,
    },
    /// The text form is right, its content is not.
    #[error("{path}: {source}", path = path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// Not a private key.
    #[error(
        "{path}: not an Ed25519 private key in PKCS#8 PEM (-----BEGIN PRIVATE KEY-----); `enforcer ca request` makes one",
        path = path.display()
    )]
    Key {
        /// Which file.
        path: PathBuf,
    },
    /// Not a pre-shared key.
    #[error("{path}: {source}", path = path.display())]
    Psk {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: PskError,
    },
    /// The name that a node would ask for is not one.
    #[error("node name {0:?}: expected 1 to 255 letters, digits, '.', '-' or '_'")]
    NodeName(String),
    /// The authority refused.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No key could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Begins an authority in `dir`, which is made with mode 0700 if it is not there: [`AUTHORITY_KEY_FILE`] and
/// [`AUTHORITY_CERTIFICATE_FILE`], valid for `lifetime_seconds` from `now` (unix seconds).
pub fn init_authority(
    dir: &Path,
    trust_domain: &str,
    now: u64,
    lifetime_seconds: u64,
) -> Result<Authority, FileError> {
    let authority = Authority::init(trust_domain, now, lifetime_seconds)?;
    let folder = |source| FileError::Folder { dir: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(folder)?;
    let key = dir.join(AUTHORITY_KEY_FILE);
    create_secret(&key, &authority.key_pem())?;
    let text = encode(Label::AuthorityCertificate, authority.certificate().bytes());
    if let Err(error) = create_public(&dir.join(AUTHORITY_CERTIFICATE_FILE), &text) {
        // The key of this very call, which nothing has used: without its certificate it would only block a retry.
        let _ = remove_file(&key);
        return Err(error.into());
    }
    Ok(authority)
}

/// Takes up the authority in `dir`.
pub fn load_authority(dir: &Path) -> Result<Authority, FileError> {
    let certificate = load_authority_certificate(&dir.join(AUTHORITY_CERTIFICATE_FILE))?;
    Ok(Authority::new(load_signing_key(&dir.join(AUTHORITY_KEY_FILE))?, certificate)?)
}

/// Reads an authority's certificate.
pub fn load_authority_certificate(path: &Path) -> Result<AuthorityCertificate, FileError> {
    load(path, Label::AuthorityCertificate, AuthorityCertificate::parse)
}

/// Reads a node's certificate; whether it is believed is the verifier's to say.
pub fn load_node_certificate(path: &Path) -> Result<NodeCertificate, FileError> {
    load(path, Label::NodeCertificate, NodeCertificate::parse)
}

/// Writes a node's certificate, in place of an older one.
pub fn save_node_certificate(path: &Path, certificate: &NodeCertificate) -> Result<(), FileError> {
    Ok(replace_public(path, &encode(Label::NodeCertificate, certificate.bytes()))?)
}

/// Reads a node's request and checks that whoever made it holds the key.
pub fn load_node_request(path: &Path) -> Result<NodeRequest, FileError> {
    load(path, Label::NodeRequest, NodeRequest::parse)
}

/// A request made, and whether the node key was made with it.
#[derive(Debug)]
pub struct Requested {
    /// The request, as written.
    pub request: NodeRequest,
    /// Whether the key is new; an existing one is used again, never overwritten.
    pub key_created: bool,
}

/// Writes to `out` a request for a certificate of node `name` with the key at `key`, which is made if it is not there.
pub fn request_node(name: &str, key: &Path, out: &Path) -> Result<Requested, FileError> {
    // Before any key is made, so that a mistyped name leaves nothing behind.
    if !super::claims::is_segment(name) {
        return Err(FileError::NodeName(name.to_owned()));
    }
    let key_created = !key.exists();
    if key_created {
        create_secret(key, &SigningKey::generate()?.to_pem())?;
    }
    let signing_key = load_signing_key(key)?;
    let certificate = |source| FileError::Certificate { path: out.to_owned(), source };
    let request = NodeRequest::new(name, &signing_key).map_err(certificate)?;
    replace_public(out, &encode(Label::NodeRequest, request.bytes()))?;
    Ok(Requested { request, key_created })
}

/// Reads a node's or an authority's private key; the file must be closed to others.
pub fn load_signing_key(path: &Path) -> Result<SigningKey, FileError> {
    let pem = read_secret(path)?;
    SigningKey::from_pem(&pem).ok_or_else(|| FileError::Key { path: path.to_owned() })
}

/// Makes a pre-shared key of 256 random bits in a new file.
pub fn create_psk(path: &Path) -> Result<(), FileError> {
    Ok(create_secret(path, &PresharedKey::generate()?.to_hex())?)
}

/// Reads a pre-shared key; the file must be closed to others.
pub fn load_psk(path: &Path) -> Result<PresharedKey, FileError> {
    let text = read_secret(path)?;
    PresharedKey::from_hex(&text).map_err(|source| FileError::Psk { path: path.to_owned(), source })
}

fn load<T>(
    path: &Path,
    label: Label,
    parse: impl FnOnce(&[u8]) -> Result<T, CertificateError>,
) -> Result<T, FileError> {
    let text = read_public(path)?;
    let armor = |source| FileError::Armor { path: path.to_owned(), source };
    let certificate = |source| FileError::Certificate { path: path.to_owned(), source };
    parse(&decode(label, &text).map_err(armor)?).map_err(certificate)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::identity::{Trust, Verifier};

    const NOW: u64 = 1_700_000_000;
    const DAY: u64 = 86_400;

    #[test]
    fn an_authority_issues_to_a_node_by_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        init_authority(&at("ca"), "example.org", NOW, 30 * DAY).unwrap();
        let requested = request_node("node-1", &at("node.key"), &at("node.req")).unwrap();
        assert!(requested.key_created);

        let authority = load_authority(&at("ca")).unwrap();
        let request = load_node_request(&at("node.req")).unwrap();
        assert_eq!(request, requested.request);
        let namespaces = ["/acme".parse().unwrap()];
        let issued = authority.issue_node(&request, &namespaces, NOW, DAY).unwrap();
        save_node_certificate(&at("node.cert"), &issued).unwrap();

        let certificate = load_node_certificate(&at("node.cert")).unwrap();
        let key = load_signing_key(&at("node.key")).unwrap();
        assert_eq!(certificate.public_key(), key.public());
        let trusted = load_authority_certificate(&at("ca/ca.cert")).unwrap();
        let verifier = Verifier::new(Trust::pki("example.org", vec![trusted]).unwrap());
        assert_eq!(verifier.verify_node_certificate(&certificate, NOW), Ok(()));
    }

    #[test]
    fn no_key_is_ever_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        init_authority(dir.path(), "example.org", NOW, DAY).unwrap();
        request_node("node-1", &at("node.key"), &at("node.req")).unwrap();
        create_psk(&at("psk.key")).unwrap();
        let read = || ["ca.key", "node.key", "psk.key"].map(|name| fs::read(at(name)).unwrap());
        let before = read();
        assert!(init_authority(dir.path(), "example.org", NOW, DAY).is_err());
        let again = request_node("node-1", &at("node.key"), &at("node.req")).unwrap();
        assert!(!again.key_created, "the key was there");
        assert!(create_psk(&at("psk.key")).is_err());
        assert_eq!(read(), before);
        remove_file(at("ca.key")).unwrap();
        assert!(init_authority(dir.path(), "example.org", NOW, DAY).is_err(), "ca.cert was there");
        assert!(!at("ca.key").exists(), "a key without its certificate is left");
    }

    #[test]
    fn a_preshared_key_file_is_read_back_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("psk.key");
        create_psk(&path).unwrap();
        assert_eq!(load_psk(&path).unwrap().to_hex().as_str(), fs::read_to_string(&path).unwrap());
        for weak in ["00".repeat(32), "secret".to_owned()] {
            fs::write(&path, &weak).unwrap();
            let text = load_psk(&path).unwrap_err().to_string();
            assert!(text.contains("psk.key") && text.contains("enforcer psk generate"), "{text}");
            assert!(!text.contains(&weak), "{text}");
        }
    }

    #[test]
    fn one_kind_of_file_is_not_taken_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        init_authority(dir.path(), "example.org", NOW, DAY).unwrap();
        let text = load_node_certificate(&at("ca.cert")).unwrap_err().to_string();
        assert!(
            text.contains("ENFORCER AUTHORITY CERTIFICATE") && text.contains("ca.cert"),
            "{text}"
        );
        let relabelled = fs::read_to_string(at("ca.cert")).unwrap().replace("AUTHORITY", "NODE");
        fs::write(at("node.cert"), relabelled).unwrap();
        let refused = load_node_certificate(&at("node.cert")).unwrap_err();
        assert!(matches!(refused, FileError::Certificate { .. }), "{refused}");
        assert!(matches!(load_signing_key(&at("nothing")), Err(FileError::Io(_))));
        fs::rename(at("ca.cert"), at("ca.key")).unwrap();
        fs::set_permissions(at("ca.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        assert!(matches!(load_signing_key(&at("ca.key")), Err(FileError::Key { .. })));
    }

    #[test]
    fn a_bad_node_name_leaves_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let (key, out) = (dir.path().join("node.key"), dir.path().join("node.req"));
        assert!(matches!(request_node("no de", &key, &out), Err(FileError::NodeName(_))));
        assert!(!key.exists() && !out.exists());
    }
}
