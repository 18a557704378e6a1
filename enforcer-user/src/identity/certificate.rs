//! Certificates of authorities and nodes, and a node's request for one: read strictly, kept parsed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use thiserror::Error;

use super::Namespace;
use super::cbor::EncodingError::{self, Malformed, NotCanonical};
use super::claims::{check_label, is_segment, is_trust_domain};
use super::contexts;
use super::credential::{first_eight, hash};
use super::envelope::{Envelope, KEY_ID_BYTES, Kind, Opened, open};
use super::keys::SigningKey;
use super::payload::{Payload, PublicKey};
use super::validity::Validity;

/// The most bytes of a certificate or request, so that a workload's claims still fit beside it.
pub const MAX_CERTIFICATE_BYTES: usize = 512;

/// Why a certificate or request was refused before any trust was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not the one accepted byte form.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// More bytes than allowed.
    #[error("{0} bytes; at most {MAX_CERTIFICATE_BYTES} are accepted")]
    TooLarge(usize),
    /// A self-signed form whose signature does not verify under the key it names.
    #[error("its signature does not match the key it names: damaged, or made without that key")]
    SelfSignature,
}

/// An authority's self-signed certificate: its key speaks for one trust domain.
#[derive(Clone)]
pub struct AuthorityCertificate {
    trust_domain: String,
    key: VerifyingKey,
    key_id: [u8; KEY_ID_BYTES],
    validity: Validity,
    bytes: Vec<u8>,
}

impl AuthorityCertificate {
    /// Reads the one byte form and checks the signature by its own key; trust comes from the file it lay in.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        let (opened, key) = open_self_signed(Kind::AuthorityCertificate, bytes)?;
        let payload = &opened.envelope.payload;
        let certificate = Self {
            trust_domain: trust_domain(payload)?,
            key,
            key_id: key_id(&key.to_bytes()),
            validity: Validity::from_payload(payload)?,
            bytes: bytes.to_vec(),
        };
        let expected =
            Self::envelope(&certificate.trust_domain, key.to_bytes(), certificate.validity);
        exactly(&opened, &expected)?;
        Ok(certificate)
    }

    pub(super) fn issue(key: &SigningKey, trust_domain: &str, validity: Validity) -> Vec<u8> {
        Self::envelope(trust_domain, key.public(), validity).sign(key)
    }

    fn envelope(trust_domain: &str, key: [u8; 32], validity: Validity) -> Envelope {
        let name = format!("spiffe://{trust_domain}");
        Envelope {
            kind: Kind::AuthorityCertificate,
            key_id: Some(key_id(&key)),
            payload: validity.fill(Payload {
                issuer: Some(name.clone()),
                subject: Some(name),
                key: Some(PublicKey::Ed25519(key)),
                ..Payload::default()
            }),
        }
    }

    /// The trust domain it may speak for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// When it counts; node certificates lie within.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Its Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// The first 8 bytes of BLAKE3 derive_key over its public key; node certificates name it by this.
    #[must_use]
    pub fn key_id(&self) -> [u8; KEY_ID_BYTES] {
        self.key_id
    }

    /// The certificate itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn verifying_key(&self) -> &VerifyingKey {
        &self.key
    }
}

impl fmt::Debug for AuthorityCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityCertificate(spiffe://{}, {})", self.trust_domain, self.validity)
    }
}

/// A node's certificate: its key may sign credentials in the named namespaces and below.
#[derive(Clone)]
pub struct NodeCertificate {
    node: Arc<str>,
    trust_domain: String,
    key: VerifyingKey,
    namespaces: Vec<Namespace>,
    labels: BTreeMap<String, String>,
    validity: Validity,
    authority: [u8; KEY_ID_BYTES],
    hash: [u8; 32],
    bytes: Vec<u8>,
}

impl NodeCertificate {
    /// Reads the one byte form. The authority's signature is not checked here: the verifier does that.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        Self::open(bytes).map(|(certificate, _)| certificate)
    }

    /// As [`Self::parse`], with the envelope whose signature is still to be checked.
    pub(super) fn open(bytes: &[u8]) -> Result<(Self, Opened), CertificateError> {
        let opened = open_whole(Kind::NodeCertificate, bytes)?;
        let payload = &opened.envelope.payload;
        let key = signing_key(payload)?;
        let certificate = Self {
            node: node_name(payload)?.into(),
            trust_domain: trust_domain(payload)?,
            key,
            namespaces: payload.namespaces.clone(),
            labels: payload.labels.clone(),
            validity: Validity::from_payload(payload)?,
            authority: opened.envelope.key_id.ok_or(Malformed("no authority key id"))?,
            hash: hash(bytes),
            bytes: bytes.to_vec(),
        };
        if certificate.namespaces.is_empty() {
            return Err(Malformed("no namespace").into());
        }
        if certificate.labels.iter().any(|(key, value)| check_label(key, value).is_err()) {
            return Err(Malformed("a label is not plain").into());
        }
        exactly(&opened, &certificate.envelope())?;
        Ok((certificate, opened))
    }

    pub(super) fn issue(key: &SigningKey, claims: &NodeClaims<'_>) -> Vec<u8> {
        claims.envelope(key_id(&key.public())).sign(key)
    }

    fn envelope(&self) -> Envelope {
        NodeClaims {
            node: &self.node,
            trust_domain: &self.trust_domain,
            key: self.key.to_bytes(),
            namespaces: &self.namespaces,
            labels: &self.labels,
            validity: self.validity,
        }
        .envelope(self.authority)
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The node's name, to be kept.
    pub(crate) fn shared_node(&self) -> &Arc<str> {
        &self.node
    }

    /// The trust domain it belongs to.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The node's Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// The namespaces it may sign for, with everything below them; ascending, never empty.
    #[must_use]
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// The node's labels, as the authority signed them.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Whether a workload in `namespace` may be signed for.
    #[must_use]
    pub fn allows(&self, namespace: &Namespace) -> bool {
        self.namespaces.iter().any(|allowed| allowed.contains(namespace))
    }

    /// When it counts; credentials lie within.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The key id of the authority that signed it.
    #[must_use]
    pub fn authority(&self) -> [u8; KEY_ID_BYTES] {
        self.authority
    }

    /// BLAKE3 over its bytes; revocations name it by this.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The certificate itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn verifying_key(&self) -> &VerifyingKey {
        &self.key
    }
}

/// There is one byte form of each, so equal bytes are equal certificates and the other way round.
impl PartialEq for NodeCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for NodeCertificate {}

#[cfg(test)]
impl NodeCertificate {
    /// Another name for the same content: a full cache without thousands of signatures.
    pub(super) fn set_hash(&mut self, hash: [u8; 32]) {
        self.hash = hash;
    }
}

impl fmt::Debug for NodeCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeCertificate({} of {}, {})", self.node, self.trust_domain, self.validity)
    }
}

/// What a node certificate says.
pub(super) struct NodeClaims<'a> {
    pub node: &'a str,
    pub trust_domain: &'a str,
    pub key: [u8; 32],
    pub namespaces: &'a [Namespace],
    pub labels: &'a BTreeMap<String, String>,
    pub validity: Validity,
}

impl NodeClaims<'_> {
    fn envelope(&self, authority: [u8; KEY_ID_BYTES]) -> Envelope {
        Envelope {
            kind: Kind::NodeCertificate,
            key_id: Some(authority),
            payload: self.validity.fill(Payload {
                issuer: Some(format!("spiffe://{}", self.trust_domain)),
                subject: Some(self.node.to_owned()),
                key: Some(PublicKey::Ed25519(self.key)),
                namespaces: self.namespaces.to_vec(),
                labels: self.labels.clone(),
                ..Payload::default()
            }),
        }
    }
}

/// A node's request for a certificate, signed by the node key: proof that the node holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRequest {
    node: String,
    key: [u8; 32],
    bytes: Vec<u8>,
}

impl NodeRequest {
    /// Asks for a certificate of `key` under the name `node`.
    pub fn new(node: &str, key: &SigningKey) -> Result<Self, CertificateError> {
        let bytes = Self::envelope(node, key.public()).sign(key);
        Self::parse(&bytes)
    }

    /// Reads the one byte form and checks that the requester holds the key.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        let (opened, key) = open_self_signed(Kind::NodeRequest, bytes)?;
        let node = node_name(&opened.envelope.payload)?;
        exactly(&opened, &Self::envelope(&node, key.to_bytes()))?;
        Ok(Self { node, key: key.to_bytes(), bytes: bytes.to_vec() })
    }

    fn envelope(node: &str, key: [u8; 32]) -> Envelope {
        let payload = Payload {
            subject: Some(node.to_owned()),
            key: Some(PublicKey::Ed25519(key)),
            ..Payload::default()
        };
        Envelope { kind: Kind::NodeRequest, key_id: None, payload }
    }

    /// The name the node asks for.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The node's Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key
    }

    /// The request itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The key id of an authority's public key.
fn key_id(key: &[u8; 32]) -> [u8; KEY_ID_BYTES] {
    first_eight(&blake3::derive_key(contexts::AUTHORITY_KEY_ID, key))
}

fn open_whole(kind: Kind, bytes: &[u8]) -> Result<Opened, CertificateError> {
    if bytes.len() > MAX_CERTIFICATE_BYTES {
        return Err(CertificateError::TooLarge(bytes.len()));
    }
    let opened = open(kind, bytes)?;
    if opened.len == bytes.len() {
        Ok(opened)
    } else {
        Err(NotCanonical("bytes after the end").into())
    }
}

fn open_self_signed(kind: Kind, bytes: &[u8]) -> Result<(Opened, VerifyingKey), CertificateError> {
    let opened = open_whole(kind, bytes)?;
    let key = signing_key(&opened.envelope.payload)?;
    if opened.signed_by(&key) { Ok((opened, key)) } else { Err(CertificateError::SelfSignature) }
}

/// Refuses claims and headers that the form does not have.
fn exactly(opened: &Opened, expected: &Envelope) -> Result<(), EncodingError> {
    if opened.envelope == *expected {
        Ok(())
    } else {
        Err(Malformed("claims or a key id that this form does not have"))
    }
}

fn signing_key(payload: &Payload) -> Result<VerifyingKey, EncodingError> {
    let Some(PublicKey::Ed25519(key)) = payload.key else {
        return Err(Malformed("no Ed25519 key"));
    };
    let key = VerifyingKey::from_bytes(&key).map_err(|_| Malformed("not an Ed25519 point"))?;
    if key.is_weak() { Err(Malformed("an Ed25519 key of small order")) } else { Ok(key) }
}

fn trust_domain(payload: &Payload) -> Result<String, EncodingError> {
    let issuer = payload.issuer.as_deref().and_then(|issuer| issuer.strip_prefix("spiffe://"));
    let issuer = issuer.filter(|trust_domain| is_trust_domain(trust_domain));
    issuer.map(str::to_owned).ok_or(Malformed("iss is not spiffe:// and a trust domain"))
}

fn node_name(payload: &Payload) -> Result<String, EncodingError> {
    let name = payload.subject.as_deref().filter(|name| is_segment(name));
    name.map(str::to_owned)
        .ok_or(Malformed("sub is not a node's name: letters, digits, '.', '-' or '_'"))
}
