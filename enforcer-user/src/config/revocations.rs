//! The file that `[identity] revocations` names: what no longer counts although it was signed.
//!
//! ```toml
//! credentials = ["57ac1f9f78db54d6"]       # handles, or hashes of the whole, in hexadecimal
//! node_certificates = ["till.cert"]        # the certificate's file, or its hash
//! namespaces = ["/acme/old"]               # with all below
//! ```
//! It is local and not signed: who may write it may deny, and permit nothing.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{ConfigError, Faults};
use super::reader::{Read, Section, Source, Value};
use crate::identity::{MAX_REVOCATIONS, Namespace};

/// The longest file: the most entries of every kind fit into it.
const MAX_BYTES: u64 = 32 << 20;
/// Hexadecimal digits of a handle and of a hash.
const HANDLE_DIGITS: usize = 16;
const HASH_DIGITS: usize = 64;

/// What a list says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationList {
    /// Credentials.
    pub credentials: Vec<CredentialName>,
    /// Node certificates, and with them everything they signed.
    pub node_certificates: Vec<CertificateName>,
    /// Namespaces, with all below.
    pub namespaces: Vec<Namespace>,
}

/// How a credential is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialName {
    /// By the first bytes of its hash, as `enforcer identities` prints them.
    Handle([u8; 8]),
    /// By the BLAKE3 hash of its bytes.
    Hash([u8; 32]),
}

/// How a node certificate is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// By its file.
    File(PathBuf),
    /// By the BLAKE3 hash of its bytes.
    Hash([u8; 32]),
}

impl RevocationList {
    /// Reads and checks a file. Relative paths in it start at the folder it lies in.
    ///
    /// # Errors
    /// The file cannot be read, is too long, or has faults: all of them are told.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = super::read_bounded(file, MAX_BYTES).map_err(|error| match error {
            ConfigError::Unreadable { file, source } => {
                ConfigError::UnreadableList { file, source }
            }
            other => other,
        })?;
        Self::parse(&text, file, file.parent().unwrap_or(Path::new("")))
    }

    fn parse(text: &str, file: &Path, base: &Path) -> Result<Self, ConfigError> {
        let source = Source::new(text, file, base);
        let list = match DeTable::parse(text) {
            Ok(table) => Some(read(Section::top(&source, table.get_ref()))),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                source.fault(at, format!("not TOML: {}", error.message()));
                None
            }
        };
        match (source.faults(), list) {
            (None, Some(list)) => Ok(list),
            (faults, _) => Err(ConfigError::Faults(faults.unwrap_or(Faults(Vec::new())))),
        }
    }
}

fn read(mut top: Section<'_>) -> RevocationList {
    let most = MAX_REVOCATIONS;
    let list = RevocationList {
        credentials: top.or("credentials", Vec::new(), |value| value.list(most, credential)),
        node_certificates: top
            .or("node_certificates", Vec::new(), |value| value.list(most, certificate)),
        namespaces: top.or("namespaces", Vec::new(), |value| {
            value.list(most, |item| item.parsed("a namespace such as \"/acme/old\""))
        }),
    };
    top.finish();
    list
}

fn credential(value: &Value<'_>) -> Read<CredentialName> {
    let text = value.text()?;
    if let Some(hash) = digits(text, HASH_DIGITS) {
        return Ok(CredentialName::Hash(hash));
    }
    match digits(text, HANDLE_DIGITS) {
        Some(handle) => Ok(CredentialName::Handle(handle)),
        None => value.refuse(
            "a credential's handle (16 hexadecimal digits, see `enforcer identities`) or hash (64)",
        ),
    }
}

fn certificate(value: &Value<'_>) -> Read<CertificateName> {
    match digits(value.text()?, HASH_DIGITS) {
        Some(hash) => Ok(CertificateName::Hash(hash)),
        None => value.path().map(CertificateName::File),
    }
}

fn digits<const N: usize>(text: &str, count: usize) -> Option<[u8; N]> {
    let is_hex = text.len() == count && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut bytes = [0; N];
    for (place, slot) in bytes.iter_mut().enumerate().filter(|_| is_hex) {
        *slot = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    is_hex.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RevocationList, String> {
        let list = RevocationList::parse(text, Path::new("revoked.toml"), Path::new("/etc/e"));
        list.map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_is_read() {
        let hash = "0123456789abcdefABCDEF000000000000000000000000000000000000000001";
        let text = format!(
            "credentials = [\"57ac1f9f78db54d6\", {hash:?}]
             node_certificates = [\"till.cert\", {hash:?}]
             namespaces = [\"/acme/old\"]"
        );
        let list = parse(&text).unwrap();
        let [CredentialName::Handle(handle), CredentialName::Hash(found)] = list.credentials[..]
        else {
            panic!("{list:?}")
        };
        assert_eq!(handle, [0x57, 0xac, 0x1f, 0x9f, 0x78, 0xdb, 0x54, 0xd6]);
        assert_eq!((found[0], found[8], found[31]), (0x01, 0xab, 0x01));
        let file = CertificateName::File("/etc/e/till.cert".into());
        assert_eq!(list.node_certificates, [file, CertificateName::Hash(found)]);
        assert_eq!(list.namespaces, ["/acme/old".parse().unwrap()]);
        assert_eq!(parse("# nothing yet").unwrap(), RevocationList::default());
    }

    #[test]
    fn a_malformed_list_is_refused_with_every_fault_and_its_line() {
        let text = "credential = []\ncredentials = [\"57ac\"]\nnamespaces = [\"acme\"]";
        let error = parse(text).unwrap_err();
        assert!(error.contains("revoked.toml:1: unknown key \"credential\""), "{error}");
        assert!(error.contains("did you mean \"credentials\"?"), "{error}");
        assert!(error.contains("revoked.toml:2: credentials = \"57ac\""), "{error}");
        assert!(error.contains("enforcer identities"), "{error}");
        assert!(error.contains("revoked.toml:3: namespaces = \"acme\""), "{error}");
        assert!(parse("credentials = 1").unwrap_err().contains("a list in [ ]"));
        assert!(parse("credentials = [").unwrap_err().contains("not TOML"));
    }
}
