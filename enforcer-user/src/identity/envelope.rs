//! The COSE envelope of every credential, certificate and request (RFC 9052 4.2 and 6.2).
//!
//! ```text
//! 18([ << {1: -8, ?4: key id} >>, {}, << claims >>, signature(64) ])   COSE_Sign1, EdDSA
//! 17([ << {1: 5} >>,              {}, << claims >>, tag(32) ])         COSE_Mac0, HMAC 256/256
//! ```
//!
//! Opening accepts the one form only, which is read directly (`canonical`). Whatever does not
//! read so is decoded, encoded afresh from what was understood, and compared: a byte that says nothing,
//! or the same thing in another way, is refused with its reason. Nothing here judges keys or times.

use coset::iana::Algorithm;
use coset::{
    CoseMac0, CoseSign1, Header, HeaderBuilder, MacContext, ProtectedHeader,
    RegisteredLabelWithPrivate, SignatureContext, TaggedCborSerializable, mac_structure_data,
    sig_structure_data,
};
use ed25519_dalek::{Signature, VerifyingKey};

use super::canonical;
use super::cbor::EncodingError::{self, Malformed, NotCanonical};
use super::cbor::deterministic_item;
use super::contexts;
use super::keys::SigningKey;
use super::payload::Payload;

/// Bytes of the key id by which a certificate names its authority.
pub const KEY_ID_BYTES: usize = 8;

/// First byte of a COSE_Sign1: CBOR tag 18.
pub const SIGN1_TAG: u8 = 0xd2;
/// First byte of a COSE_Mac0: CBOR tag 17.
pub const MAC0_TAG: u8 = 0xd1;

/// What an envelope is for; it decides algorithm and domain separation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A workload's credential, signed by its node.
    CredentialPki,
    /// A workload's credential under the pre-shared key.
    CredentialPsk,
    /// A node's certificate, signed by an authority.
    NodeCertificate,
    /// An authority's certificate, signed by itself.
    AuthorityCertificate,
    /// A node's request for a certificate, signed by itself.
    NodeRequest,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::CredentialPki,
        Self::CredentialPsk,
        Self::NodeCertificate,
        Self::AuthorityCertificate,
        Self::NodeRequest,
    ];

    pub(super) fn aad(self) -> &'static [u8] {
        match self {
            Self::CredentialPki => contexts::CREDENTIAL_PKI,
            Self::CredentialPsk => contexts::CREDENTIAL_PSK,
            Self::NodeCertificate => contexts::NODE_CERTIFICATE,
            Self::AuthorityCertificate => contexts::AUTHORITY_CERTIFICATE,
            Self::NodeRequest => contexts::NODE_REQUEST,
        }
    }

    fn is_mac(self) -> bool {
        self == Self::CredentialPsk
    }

    fn algorithm(self) -> Algorithm {
        if self.is_mac() { Algorithm::HMAC_256_256 } else { Algorithm::EdDSA }
    }

    /// The algorithm as it is encoded in a header: -8 or 5.
    pub(super) fn algorithm_byte(self) -> u8 {
        if self.is_mac() { 0x05 } else { 0x27 }
    }

    /// The context string of what is sealed (RFC 9052 4.4 and 6.3).
    pub(super) fn context(self) -> &'static str {
        if self.is_mac() { "MAC0" } else { "Signature1" }
    }

    pub(super) fn tag(self) -> u8 {
        if self.is_mac() { MAC0_TAG } else { SIGN1_TAG }
    }
}

/// The parts of an envelope: claims without their seal, or with one not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What it is for.
    pub kind: Kind,
    /// The key that sealed it, where the form names one.
    pub key_id: Option<[u8; KEY_ID_BYTES]>,
    /// The claims.
    pub payload: Payload,
}

impl Envelope {
    /// The bytes that signature or tag cover: Sig_structure or MAC_structure.
    #[must_use]
    pub fn to_be_sealed(&self) -> Vec<u8> {
        let (protected, aad) = (self.protected(), self.kind.aad());
        let payload = self.payload.encode();
        if self.kind.is_mac() {
            mac_structure_data(MacContext::CoseMac0, protected, aad, &payload)
        } else {
            sig_structure_data(SignatureContext::CoseSign1, protected, None, aad, &payload)
        }
    }

    /// The one byte form of these parts under `seal`.
    ///
    /// # Panics
    /// Never: integers, text and bytes can always be written.
    #[must_use]
    #[allow(
        clippy::expect_used,
        reason = "the parts have a form of their own making, and memory takes them"
    )]
    pub fn encode(&self, seal: &[u8]) -> Vec<u8> {
        let protected = self.protected();
        let unprotected = Header::default();
        let payload = Some(self.payload.encode());
        let encoded = if self.kind.is_mac() {
            CoseMac0 { protected, unprotected, payload, tag: seal.to_vec() }.to_tagged_vec()
        } else {
            CoseSign1 { protected, unprotected, payload, signature: seal.to_vec() }.to_tagged_vec()
        };
        encoded.expect("an envelope of integers, text and bytes can be written")
    }

    /// The byte form under a signature of `key`.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        self.encode(&key.sign(&self.to_be_sealed()))
    }

    fn protected(&self) -> ProtectedHeader {
        let mut header = HeaderBuilder::new().algorithm(self.kind.algorithm());
        if let Some(key_id) = self.key_id {
            header = header.key_id(key_id.to_vec());
        }
        ProtectedHeader { original_data: None, header: header.build() }
    }
}

/// An envelope taken from the front of some bytes, in canonical form, its seal not yet checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// What it says.
    pub envelope: Envelope,
    /// Signature or tag, as many bytes as there were.
    pub seal: Vec<u8>,
    /// What signature or tag cover: [`Envelope::to_be_sealed`].
    pub sealed: Vec<u8>,
    /// Length in bytes of the envelope; what follows was not looked at.
    pub len: usize,
}

impl Opened {
    /// Whether the seal is the Ed25519 signature of `key`, by the strict rules of RFC 8032 5.1.7: no small-order
    /// points, no second form of a valid signature.
    #[must_use]
    pub fn signed_by(&self, key: &VerifyingKey) -> bool {
        Signature::from_slice(&self.seal)
            .is_ok_and(|signature| key.verify_strict(&self.sealed, &signature).is_ok())
    }
}

/// Opens the envelope at the front of `bytes`; the caller has bounded their length.
pub fn open(kind: Kind, bytes: &[u8]) -> Result<Opened, EncodingError> {
    canonical::open(kind, bytes).map_or_else(|| open_slowly(kind, bytes), Ok)
}

/// Decodes, encodes again and compares: says of any bytes what is wrong with them.
fn open_slowly(kind: Kind, bytes: &[u8]) -> Result<Opened, EncodingError> {
    let (tag, item) = bytes.split_first().ok_or(Malformed("empty"))?;
    if *tag != kind.tag() {
        return Err(Malformed("not the expected COSE tag"));
    }
    let len = 1 + deterministic_item(item)?;
    let bytes = bytes.get(..len).ok_or(Malformed("truncated"))?;
    let (header, payload, seal) = take_apart(kind, bytes)?;
    let payload = payload.ok_or(Malformed("no payload"))?;
    let envelope =
        Envelope { kind, key_id: key_id(kind, header)?, payload: Payload::decode(&payload)? };
    if envelope.encode(&seal) != bytes {
        return Err(NotCanonical("not the form its own content encodes to"));
    }
    let sealed = envelope.to_be_sealed();
    Ok(Opened { envelope, seal, sealed, len })
}

type Parts = (Header, Option<Vec<u8>>, Vec<u8>);

fn take_apart(kind: Kind, bytes: &[u8]) -> Result<Parts, EncodingError> {
    const REFUSED: EncodingError = Malformed("not the expected COSE structure");
    let (protected, unprotected, payload, seal) = if kind.is_mac() {
        let cose = CoseMac0::from_tagged_slice(bytes).map_err(|_| REFUSED)?;
        (cose.protected, cose.unprotected, cose.payload, cose.tag)
    } else {
        let cose = CoseSign1::from_tagged_slice(bytes).map_err(|_| REFUSED)?;
        (cose.protected, cose.unprotected, cose.payload, cose.signature)
    };
    if !unprotected.is_empty() {
        return Err(NotCanonical("the unprotected header is not empty"));
    }
    Ok((protected.header, payload, seal))
}

fn key_id(kind: Kind, header: Header) -> Result<Option<[u8; KEY_ID_BYTES]>, EncodingError> {
    let expected = RegisteredLabelWithPrivate::Assigned(kind.algorithm());
    if header.alg.as_ref() != Some(&expected) {
        return Err(Malformed("not the expected algorithm"));
    }
    if header.key_id.is_empty() {
        return Ok(None);
    }
    header.key_id.try_into().map(Some).map_err(|_| Malformed("the key id has not 8 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::payload::PublicKey;
    use super::*;

    const SEAL: [u8; 3] = [1, 2, 3];

    fn envelope(kind: Kind) -> Envelope {
        let payload = Payload { subject: Some("n".to_owned()), ..Payload::default() };
        Envelope { kind, key_id: None, payload }
    }

    #[test]
    fn both_kinds_of_envelope_open_to_what_was_put_in() {
        for kind in [Kind::NodeCertificate, Kind::CredentialPsk] {
            let mut bytes = envelope(kind).encode(&SEAL);
            let len = bytes.len();
            bytes.push(0xff);
            let opened = open(kind, &bytes).unwrap();
            assert_eq!((opened.envelope, opened.len), (envelope(kind), len));
            assert_eq!(opened.seal, SEAL);
        }
    }

    #[test]
    fn the_wire_form_is_the_documented_one() {
        let bytes = envelope(Kind::NodeCertificate).encode(&SEAL);
        let expected = b"\xd2\x84\x43\xa1\x01\x27\xa0\x44\xa1\x02\x61n\x43\x01\x02\x03";
        assert_eq!(bytes, expected);
        let bytes = envelope(Kind::CredentialPsk).encode(&SEAL);
        let expected = b"\xd1\x84\x43\xa1\x01\x05\xa0\x44\xa1\x02\x61n\x43\x01\x02\x03";
        assert_eq!(bytes, expected);
    }

    fn payload() -> impl Strategy<Value = Payload> {
        let text = || prop::option::of("[a-z:/.\u{e9}]{0,40}");
        let key = prop::option::of((any::<bool>(), any::<[u8; 32]>()));
        let labels = prop::collection::btree_map("[a-z]{1,30}", "[ -~]{0,300}", 0..4);
        let namespaces = prop::collection::btree_set("(/[a-z]{1,3}){1,2}", 0..4);
        let times = prop::option::of((any::<u64>(), 0..70_000_u64));
        let id = prop::option::of(any::<[u8; 8]>());
        let attributes = prop::collection::btree_map("[a-z]{1,30}", "[ -~]{0,300}", 0..3);
        (text(), text(), times, id, key, labels, namespaces, attributes).prop_map(
            |(issuer, subject, times, id, key, labels, namespaces, attributes)| Payload {
                issuer,
                subject,
                expires: times.map(|(expires, _)| expires),
                not_before: times.map(|(_, not_before)| not_before),
                id,
                key: key.map(
                    |(signs, x)| {
                        if signs { PublicKey::Ed25519(x) } else { PublicKey::X25519(x) }
                    },
                ),
                labels,
                namespaces: namespaces.iter().map(|path| path.parse().unwrap()).collect(),
                attributes,
            },
        )
    }

    proptest! {
        #[test]
        fn both_ways_of_opening_read_the_same(
            kind in select(Kind::ALL.to_vec()), payload in payload(), key_id in prop::option::of(any::<[u8; 8]>()),
            seal in prop::collection::vec(any::<u8>(), 0..70), at in any::<prop::sample::Index>(), change in 1..=255_u8,
        ) {
            let envelope = Envelope { kind, key_id, payload };
            let mut bytes = envelope.encode(&seal);
            let direct = canonical::open(kind, &bytes).unwrap();
            prop_assert_eq!(&direct, &open_slowly(kind, &bytes).unwrap());
            prop_assert_eq!(&direct.envelope, &envelope);
            // Whatever is changed: what is read directly is what the slow way accepts too.
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            if let Some(direct) = canonical::open(kind, &bytes) {
                prop_assert_eq!(Ok(direct), open_slowly(kind, &bytes));
            }
            bytes.truncate(at);
            prop_assert!(canonical::open(kind, &bytes).is_none());
        }
    }

    #[test]
    fn what_is_sealed_differs_by_kind() {
        let sealed: std::collections::BTreeSet<Vec<u8>> =
            Kind::ALL.iter().map(|kind| envelope(*kind).to_be_sealed()).collect();
        assert_eq!(sealed.len(), Kind::ALL.len());
    }

    #[test]
    fn the_commonest_mistakes_are_named() {
        let kind = Kind::NodeCertificate;
        let unprotected = b"\xd2\x84\x43\xa1\x01\x27\xa1\x04\x41k\x44\xa1\x02\x61n\x41s";
        let error = NotCanonical("the unprotected header is not empty");
        assert_eq!(open(kind, unprotected).unwrap_err(), error);
        let error = Malformed("not the expected COSE tag");
        assert_eq!(open(kind, &unprotected[1..]).unwrap_err(), error);
    }

    #[test]
    fn other_headers_and_structures_are_refused() {
        for (name, bytes) in [
            (
                "unprotected content",
                &b"\xd2\x84\x43\xa1\x01\x27\xa1\x04\x41k\x44\xa1\x02\x61n\x41s"[..],
            ),
            ("protected as empty string", b"\xd2\x84\x40\xa0\x44\xa1\x02\x61n\x41s"),
            ("another algorithm", b"\xd2\x84\x43\xa1\x01\x05\xa0\x44\xa1\x02\x61n\x41s"),
            ("Ed25519 by its newer number", b"\xd2\x84\x43\xa1\x01\x32\xa0\x44\xa1\x02\x61n\x41s"),
            ("nested non-minimal", b"\xd2\x84\x44\xa1\x01\x38\x07\xa0\x44\xa1\x02\x61n\x41s"),
            ("long key id", b"\xd2\x84\x46\xa2\x01\x27\x04\x41k\xa0\x44\xa1\x02\x61n\x41s"),
            ("no payload", b"\xd2\x84\x43\xa1\x01\x27\xa0\xf6\x41s"),
            ("untagged", b"\x84\x43\xa1\x01\x27\xa0\x44\xa1\x02\x61n\x41s"),
            ("long tag", b"\xd8\x12\x84\x43\xa1\x01\x27\xa0\x44\xa1\x02\x61n\x41s"),
            ("five items", b"\xd2\x85\x43\xa1\x01\x27\xa0\x44\xa1\x02\x61n\x41s\x41s"),
        ] {
            assert!(open(Kind::NodeCertificate, bytes).is_err(), "{name} was accepted");
        }
    }
}
