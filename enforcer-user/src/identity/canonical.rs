//! The one byte form of an envelope, read straight from its bytes, without decoder and re-encoding.
//!
//! It knows nothing but that form: anything else is none, and the slow way in [`super::envelope`] says
//! what is wrong with it. Property tests hold that both read the same.
//!
//! ```text
//! d2 | d1   84   <header>   a0   <claims>   <seal>      tag 18 or 17, an array of four
//! header: 43 a1 01 alg | 4c a2 01 alg 04 48 key id(8)
//! claims: byte string of a map whose keys ascend in their encoding
//! ```

use std::collections::BTreeMap;

use super::Namespace;
use super::cbor::{write_bytes, write_head, write_text};
use super::envelope::{Envelope, Kind, Opened};
use super::payload::{MAX_LABELS, MAX_NAMESPACES, Payload, PublicKey};

/// Encoded keys of the claims, in their order.
const ISSUER: &[u8] = &[0x01];
const SUBJECT: &[u8] = &[0x02];
const EXPIRES: &[u8] = &[0x04];
const NOT_BEFORE: &[u8] = &[0x05];
const ID: &[u8] = &[0x07];
const CONFIRMATION: &[u8] = &[0x08];
const LABELS: &[u8] = &[0x3a, 0, 1, 0, 0];
const NAMESPACES: &[u8] = &[0x3a, 0, 1, 0, 1];
const ATTRIBUTES: &[u8] = &[0x3a, 0, 1, 0, 2];

/// `{1: {1: 1, -1: curve, -2: x}}` up to the curve, and from there to the key.
const COSE_KEY: &[u8] = &[0xa1, 0x01, 0xa3, 0x01, 0x01, 0x20];
const ED25519: &[u8] = &[0x06, 0x21, 0x58, 0x20];
const X25519: &[u8] = &[0x04, 0x21, 0x58, 0x20];

const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

/// The envelope at the front of `bytes`, if it is in the one form.
pub(super) fn open(kind: Kind, bytes: &[u8]) -> Option<Opened> {
    let mut reader = Reader { rest: bytes };
    reader.exactly(&[kind.tag(), 0x84])?;
    let header = reader.string(BYTES)?;
    let key_id = match *header {
        [0xa1, 0x01, algorithm] if algorithm == kind.algorithm_byte() => None,
        [0xa2, 0x01, algorithm, 0x04, 0x48, ref id @ ..] if algorithm == kind.algorithm_byte() => {
            Some(id.try_into().ok()?)
        }
        _ => return None,
    };
    reader.exactly(&[0xa0])?;
    let claims = reader.string(BYTES)?;
    let payload = claims_of(claims)?;
    let seal = reader.string(BYTES)?.to_vec();
    let sealed = sealed(kind, header, claims);
    let len = bytes.len() - reader.rest.len();
    Some(Opened { envelope: Envelope { kind, key_id, payload }, seal, sealed, len })
}

/// `Sig_structure` or `MAC_structure` of RFC 9052 4.4 and 6.3.
fn sealed(kind: Kind, header: &[u8], claims: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(64 + claims.len());
    write_head(&mut sealed, ARRAY, 4);
    write_text(&mut sealed, kind.context());
    for part in [header, kind.aad(), claims] {
        write_bytes(&mut sealed, part);
    }
    sealed
}

fn claims_of(bytes: &[u8]) -> Option<Payload> {
    let mut reader = Reader { rest: bytes };
    let mut entries = reader.head(MAP)?;
    let mut next = |reader: &mut Reader<'_>, key: &[u8]| {
        let found = entries > 0 && reader.exactly(key).is_some();
        entries -= u64::from(found);
        found
    };
    let mut payload = Payload::default();
    if next(&mut reader, ISSUER) {
        payload.issuer = Some(reader.text()?.to_owned());
    }
    if next(&mut reader, SUBJECT) {
        payload.subject = Some(reader.text()?.to_owned());
    }
    if next(&mut reader, EXPIRES) {
        payload.expires = Some(reader.head(0)?);
    }
    if next(&mut reader, NOT_BEFORE) {
        payload.not_before = Some(reader.head(0)?);
    }
    if next(&mut reader, ID) {
        payload.id = Some(reader.string(BYTES)?.try_into().ok()?);
    }
    if next(&mut reader, CONFIRMATION) {
        payload.key = Some(reader.public_key()?);
    }
    if next(&mut reader, LABELS) {
        reader.texts(&mut payload.labels)?;
    }
    if next(&mut reader, NAMESPACES) {
        reader.namespaces(&mut payload)?;
    }
    if next(&mut reader, ATTRIBUTES) {
        reader.texts(&mut payload.attributes)?;
    }
    (entries == 0 && reader.rest.is_empty()).then_some(payload)
}

/// Reads items in their shortest form; none where something else stands.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn exactly(&mut self, expected: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(expected)?;
        Some(())
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    /// The argument of a head of this major type (RFC 8949 3).
    fn head(&mut self, major: u8) -> Option<u64> {
        let [first] = *self.take(1)? else { return None };
        if first >> 5 != major {
            return None;
        }
        let (width, least) = match first & 0x1f {
            short @ 0..=23 => return Some(u64::from(short)),
            24 => (1, 24),
            25 => (2, 0x100),
            26 => (4, 0x1_0000),
            27 => (8, 0x1_0000_0000),
            _ => return None,
        };
        let argument =
            self.take(width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        (argument >= least).then_some(argument)
    }

    fn string(&mut self, major: u8) -> Option<&'a [u8]> {
        let len = usize::try_from(self.head(major)?).ok()?;
        self.take(len)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string(TEXT)?).ok()
    }

    fn public_key(&mut self) -> Option<PublicKey> {
        self.exactly(COSE_KEY)?;
        let curve = self.take(ED25519.len())?;
        let x = self.take(32)?.try_into().ok()?;
        match curve {
            ED25519 => Some(PublicKey::Ed25519(x)),
            X25519 => Some(PublicKey::X25519(x)),
            _ => None,
        }
    }

    /// Shorter keys first, then by their bytes; none at all is no claim.
    fn texts(&mut self, texts: &mut BTreeMap<String, String>) -> Option<()> {
        let count = usize::try_from(self.head(MAP)?).ok()?;
        if !(1..=MAX_LABELS).contains(&count) {
            return None;
        }
        let mut before: Option<&str> = None;
        for _ in 0..count {
            let (key, value) = (self.text()?, self.text()?);
            if before.is_some_and(|before| (before.len(), before) >= (key.len(), key)) {
                return None;
            }
            before = Some(key);
            texts.insert(key.to_owned(), value.to_owned());
        }
        Some(())
    }

    fn namespaces(&mut self, payload: &mut Payload) -> Option<()> {
        let count = usize::try_from(self.head(ARRAY)?).ok()?;
        if !(1..=MAX_NAMESPACES).contains(&count) {
            return None;
        }
        for _ in 0..count {
            let namespace: Namespace = self.text()?.parse().ok()?;
            if payload.namespaces.last().is_some_and(|before| *before >= namespace) {
                return None;
            }
            payload.namespaces.push(namespace);
        }
        Some(())
    }
}
