//! The CWT claims set (RFC 8392) of credentials, certificates and requests, as deterministic CBOR.
//!
//! | key | claim | form |
//! |---|---|---|
//! | 1 | iss | text: `spiffe://trust-domain` |
//! | 2 | sub | text: a SPIFFE ID or a node's name |
//! | 4 | exp | unsigned: unix seconds |
//! | 5 | nbf | unsigned: unix seconds |
//! | 7 | cti | 8 bytes |
//! | 8 | cnf | `{1: COSE_Key}`, OKP, public x only (RFC 8747, RFC 9053 7.2) |
//! | -65537 | labels | map of text to text, absent when empty |
//! | -65538 | namespaces | array of text, ascending, absent when empty |
//! | -65539 | attributes | map of text to text, absent when empty |

use std::collections::BTreeMap;

use ciborium::Value;
use coset::iana::{CwtClaimName, EllipticCurve, EnumI64, KeyParameter, KeyType, OkpKeyParameter};

use super::Namespace;
use super::cbor::EncodingError::{self, Malformed, NotCanonical};
use super::cbor::deterministic_item;

/// The most labels of an identity or a node, and the most attributes.
pub const MAX_LABELS: usize = 64;
/// The most namespaces of a node certificate.
pub const MAX_NAMESPACES: usize = 16;

const LABELS: i64 = -65_537;
const NAMESPACES: i64 = -65_538;
const ATTRIBUTES: i64 = -65_539;
/// RFC 8747 3.1: the confirmation method `COSE_Key`.
const CONFIRMATION_KEY: i64 = 1;

/// A public key in `cnf`, 32 bytes as in RFC 8032 or RFC 7748.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicKey {
    /// A node's or an authority's signing key.
    Ed25519([u8; 32]),
    /// A workload's key-agreement key.
    X25519([u8; 32]),
}

/// The claims that any of our envelopes may hold; which must be present is each kind's business.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// Claim `iss`.
    pub issuer: Option<String>,
    /// Claim `sub`.
    pub subject: Option<String>,
    /// Claim `exp`, unix seconds.
    pub expires: Option<u64>,
    /// Claim `nbf`, unix seconds.
    pub not_before: Option<u64>,
    /// Claim `cti`.
    pub id: Option<[u8; 8]>,
    /// Claim `cnf`.
    pub key: Option<PublicKey>,
    /// Labels; an empty map is no claim.
    pub labels: BTreeMap<String, String>,
    /// Namespaces, ascending; an empty list is no claim.
    pub namespaces: Vec<Namespace>,
    /// Attributes by name; an empty map is no claim.
    pub attributes: BTreeMap<String, String>,
}

impl Payload {
    /// The one encoding of these claims.
    pub fn encode(&self) -> Vec<u8> {
        let mut entries: Vec<(Value, Value)> = Vec::new();
        let mut claim = |name: CwtClaimName, value: Option<Value>| {
            entries.extend(value.map(|value| (name.to_i64().into(), value)));
        };
        claim(CwtClaimName::Iss, self.issuer.clone().map(Value::Text));
        claim(CwtClaimName::Sub, self.subject.clone().map(Value::Text));
        claim(CwtClaimName::Exp, self.expires.map(Value::from));
        claim(CwtClaimName::Nbf, self.not_before.map(Value::from));
        claim(CwtClaimName::Cti, self.id.map(|id| Value::Bytes(id.to_vec())));
        claim(CwtClaimName::Cnf, self.key.map(confirmation));
        if !self.labels.is_empty() {
            entries.push((LABELS.into(), texts_value(&self.labels)));
        }
        if !self.namespaces.is_empty() {
            entries.push((NAMESPACES.into(), namespaces_value(&self.namespaces)));
        }
        if !self.attributes.is_empty() {
            entries.push((ATTRIBUTES.into(), texts_value(&self.attributes)));
        }
        encode(&Value::Map(entries))
    }

    /// Decodes claims; the caller re-encodes and compares, so only content is judged here.
    pub fn decode(bytes: &[u8]) -> Result<Self, EncodingError> {
        if deterministic_item(bytes)? != bytes.len() {
            return Err(NotCanonical("bytes after the claims"));
        }
        let value: Value =
            ciborium::from_reader(bytes).map_err(|_| Malformed("claims are not CBOR"))?;
        let Value::Map(entries) = value else { return Err(Malformed("claims are not a map")) };
        let mut payload = Self::default();
        for (key, value) in entries {
            payload.set(key, value)?;
        }
        Ok(payload)
    }

    fn set(&mut self, key: Value, value: Value) -> Result<(), EncodingError> {
        let key = key
            .into_integer()
            .ok()
            .and_then(|key| i64::try_from(key).ok())
            .ok_or(Malformed("a claim key is not an integer"))?;
        match key {
            LABELS => self.labels = texts(value)?,
            ATTRIBUTES => self.attributes = texts(value)?,
            NAMESPACES => self.namespaces = namespaces(value)?,
            _ => match CwtClaimName::from_i64(key) {
                Some(CwtClaimName::Iss) => self.issuer = Some(text(value)?),
                Some(CwtClaimName::Sub) => self.subject = Some(text(value)?),
                Some(CwtClaimName::Exp) => self.expires = Some(seconds(value)?),
                Some(CwtClaimName::Nbf) => self.not_before = Some(seconds(value)?),
                Some(CwtClaimName::Cti) => self.id = Some(fixed(value)?),
                Some(CwtClaimName::Cnf) => self.key = Some(public_key(value)?),
                _ => return Err(Malformed("an unknown claim")),
            },
        }
        Ok(())
    }
}

/// CBOR bytes of a value whose maps are already in order.
#[allow(clippy::expect_used, reason = "a value has a form, and memory takes it")]
pub(super) fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("writing into memory does not fail");
    bytes
}

/// Texts by name as a CBOR map in deterministic key order, which puts shorter keys first.
pub(super) fn texts_value(texts: &BTreeMap<String, String>) -> Value {
    let mut entries: Vec<(&String, &String)> = texts.iter().collect();
    entries.sort_by_key(|(key, _)| (key.len(), *key));
    let entry = |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
    Value::Map(entries.into_iter().map(entry).collect())
}

fn namespaces_value(namespaces: &[Namespace]) -> Value {
    Value::Array(namespaces.iter().map(|namespace| namespace.as_str().into()).collect())
}

fn confirmation(key: PublicKey) -> Value {
    let (curve, x) = match key {
        PublicKey::Ed25519(x) => (EllipticCurve::Ed25519, x),
        PublicKey::X25519(x) => (EllipticCurve::X25519, x),
    };
    let key = Value::Map(vec![
        (KeyParameter::Kty.to_i64().into(), KeyType::OKP.to_i64().into()),
        (OkpKeyParameter::Crv.to_i64().into(), curve.to_i64().into()),
        (OkpKeyParameter::X.to_i64().into(), Value::Bytes(x.to_vec())),
    ]);
    Value::Map(vec![(CONFIRMATION_KEY.into(), key)])
}

fn public_key(value: Value) -> Result<PublicKey, EncodingError> {
    const REFUSED: EncodingError = Malformed("cnf is not a COSE_Key of type OKP");
    let [(_, key)] = map::<1>(value)?;
    let [(_, _), (_, curve), (_, x)] = map::<3>(key)?;
    let x = fixed(x)?;
    let curve = curve.into_integer().ok().and_then(|curve| i64::try_from(curve).ok());
    match curve.and_then(EllipticCurve::from_i64) {
        Some(EllipticCurve::Ed25519) => Ok(PublicKey::Ed25519(x)),
        Some(EllipticCurve::X25519) => Ok(PublicKey::X25519(x)),
        _ => Err(REFUSED),
    }
}

fn texts(value: Value) -> Result<BTreeMap<String, String>, EncodingError> {
    let Value::Map(entries) = value else {
        return Err(Malformed("labels or attributes are not a map"));
    };
    if entries.len() > MAX_LABELS {
        return Err(Malformed("more than 64 labels or attributes"));
    }
    entries.into_iter().map(|(key, value)| Ok((text(key)?, text(value)?))).collect()
}

fn namespaces(value: Value) -> Result<Vec<Namespace>, EncodingError> {
    let Value::Array(items) = value else { return Err(Malformed("namespaces are not an array")) };
    if items.len() > MAX_NAMESPACES {
        return Err(Malformed("more than 16 namespaces"));
    }
    let parse = |item| text(item)?.parse().map_err(|_| Malformed("a namespace is not a path"));
    let namespaces: Vec<Namespace> = items.into_iter().map(parse).collect::<Result<_, _>>()?;
    if !namespaces.is_sorted_by(|a, b| a < b) {
        return Err(NotCanonical("namespaces are not in ascending order"));
    }
    Ok(namespaces)
}

fn map<const N: usize>(value: Value) -> Result<[(Value, Value); N], EncodingError> {
    let Value::Map(entries) = value else { return Err(Malformed("cnf holds no map")) };
    entries.try_into().map_err(|_| Malformed("cnf has entries other than kty, crv and x"))
}

fn text(value: Value) -> Result<String, EncodingError> {
    value.into_text().map_err(|_| Malformed("a claim is not text"))
}

fn seconds(value: Value) -> Result<u64, EncodingError> {
    let integer = value.into_integer().map_err(|_| Malformed("a time is not an integer"))?;
    u64::try_from(integer).map_err(|_| Malformed("a time is negative"))
}

fn fixed<const N: usize>(value: Value) -> Result<[u8; N], EncodingError> {
    let bytes = value.into_bytes().map_err(|_| Malformed("a key or id is not a byte string"))?;
    bytes.try_into().map_err(|_| Malformed("a key or id has the wrong length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Payload {
        Payload {
            issuer: Some("spiffe://example.org".to_owned()),
            subject: Some("spiffe://example.org/acme/web".to_owned()),
            expires: Some(1_700_003_600),
            not_before: Some(1_700_000_000),
            id: Some([7; 8]),
            key: Some(PublicKey::X25519([9; 32])),
            labels: [("zone", "b"), ("app", "shop"), ("b", ""), ("a", "1")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            namespaces: ["/acme", "/beta/x"].map(|path| path.parse().unwrap()).into(),
            attributes: [("image", "shop"), ("user", "1000")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    #[test]
    fn claims_survive_the_round_trip_and_are_deterministic() {
        let bytes = full().encode();
        assert_eq!(deterministic_item(&bytes), Ok(bytes.len()));
        assert_eq!(Payload::decode(&bytes), Ok(full()));
        assert_eq!(Payload::decode(&[0xa0]), Ok(Payload::default()));
    }

    #[test]
    fn too_many_labels_are_refused() {
        let mut payload = full();
        payload.labels = (0..=MAX_LABELS).map(|n| (format!("k{n}"), String::new())).collect();
        assert_eq!(
            Payload::decode(&payload.encode()),
            Err(Malformed("more than 64 labels or attributes"))
        );
    }

    #[test]
    fn unknown_claims_and_wrong_types_are_malformed() {
        for value in [
            Value::Map(vec![(3.into(), "aud".into())]),
            Value::Map(vec![(2.into(), 1.into())]),
            Value::Map(vec![(4.into(), (-1).into())]),
            Value::Map(vec![("sub".into(), 1.into())]),
            Value::Map(vec![(8.into(), Value::Map(vec![]))]),
            Value::Array(vec![]),
        ] {
            assert!(
                matches!(Payload::decode(&encode(&value)), Err(Malformed(_))),
                "{value:?} was accepted"
            );
        }
    }
}
