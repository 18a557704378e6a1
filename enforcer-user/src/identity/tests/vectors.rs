//! The vectors in `tests/vectors`, for second implementations: made here, read back here.
//!
//! `ENFORCER_WRITE_VECTORS=1 cargo test -p enforcer-user vectors` writes them anew after a deliberate change of the
//! protocol; without it, the test compares what is written with what the code makes.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::identity::certificate::AuthorityCertificate;
use crate::identity::contexts;
use crate::identity::credential::identity_id;
use crate::identity::envelope::{Kind, open};
use crate::identity::pair_keys;

const AUTHORITY_SEED: [u8; 32] = [1; 32];

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "vectors", name].iter().collect()
}

pub(super) fn read(name: &str) -> Value {
    let text = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// Writes `made` if asked to, and compares it with what is written.
pub(super) fn compare(name: &str, made: &Value) {
    if std::env::var_os("ENFORCER_WRITE_VECTORS").is_some() {
        fs::create_dir_all(path("")).unwrap();
        fs::write(path(name), serde_json::to_string_pretty(made).unwrap() + "\n").unwrap();
    }
    assert_eq!(read(name), *made, "{name} differs: the protocol has changed");
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

pub(super) fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a string of hexadecimal digits");
    (0..text.len()).step_by(2).map(|n| u8::from_str_radix(&text[n..n + 2], 16).unwrap()).collect()
}

fn array(value: &Value) -> [u8; 32] {
    bytes(value).try_into().unwrap()
}

fn labelled(path: &str, name: &str, labels: &[(&str, &str)]) -> Identity {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Identity::new(TRUST_DOMAIN, namespace(path), name, labels.collect()).unwrap()
}

/// Two workloads; the labels of the first show that deterministic order is not that of the alphabet.
fn workloads() -> [Identity; 2] {
    [
        labelled("/acme/prod/shop", "web", &[("tier", "front"), ("app", "shop"), ("zone", "b")]),
        labelled("/acme/prod/shop", "db", &[]),
    ]
}

/// Two workloads of which is known what they run, and on a node that has labels.
fn described_workloads(issuer: &Issuer) -> [Identity; 2] {
    let runs = [
        ("image", "registry.example/shop:1.4".to_owned()),
        ("executable", format!("sha256:{}", "5a".repeat(32))),
        ("user", "1000".to_owned()),
    ];
    let runs = runs.map(|(name, value)| (name.to_owned(), value)).into();
    let [web, db] = workloads();
    [web.described(&runs).unwrap(), db].map(|identity| identity.on_node(issuer.node_labels()))
}

fn issue_both(issuer: &Issuer) -> [LocalCredential; 2] {
    issue(issuer, workloads())
}

fn issue(issuer: &Issuer, [web, db]: [Identity; 2]) -> [LocalCredential; 2] {
    [(web, [0x11; 32]), (db, [0x22; 32])]
        .map(|(identity, fresh)| issuer.issue_with(&identity, NOW, LIMITS, &fresh).unwrap())
}

fn credential_json(kind: Kind, local: &LocalCredential, fresh: (&str, &[u8])) -> Value {
    let opened = open(kind, local.bytes()).unwrap();
    let identity = local.identity();
    json!({
        fresh.0: hex(fresh.1),
        "spiffe_id": identity.spiffe_id(),
        "namespace": identity.namespace().as_str(),
        "name": identity.name(),
        "labels": identity.labels(),
        "attributes": identity.description(),
        "not_before": local.not_before(),
        "not_after": local.not_after(),
        "payload": hex(&opened.envelope.payload.encode()),
        "to_be_sealed": hex(&opened.envelope.to_be_sealed()),
        "seal": hex(&opened.seal),
        "credential": hex(local.bytes()),
        "hash": hex(&local.hash()),
        "handle": hex(&local.handle()),
        "identity_id": local.identity_id().to_string(),
    })
}

fn pki_json(pki: &Pki, workloads: [Identity; 2]) -> Value {
    let credentials: Vec<Value> = issue(&pki.issuer, workloads)
        .iter()
        .zip([[0x11; 32], [0x22; 32]])
        .map(|(local, secret)| {
            credential_json(Kind::CredentialPki, local, ("x25519_secret", &secret))
        })
        .collect();
    let (authority, node) = (pki.authority.certificate(), &pki.certificate);
    let request = NodeRequest::new("node-1", &SigningKey::from_seed(&pki.node_seed)).unwrap();
    json!({
        "description": "Credentials in PKI mode. Byte strings are hexadecimal, times unix seconds; seeds are RFC 8032 private keys.",
        "now": NOW,
        "trust_domain": TRUST_DOMAIN,
        "authority": {
            "seed": hex(&AUTHORITY_SEED),
            "public_key": hex(&authority.public_key()),
            "key_id": hex(&authority.key_id()),
            "not_before": authority.validity().not_before,
            "not_after": authority.validity().not_after,
            "certificate": hex(authority.bytes()),
        },
        "node": {
            "seed": hex(&pki.node_seed),
            "public_key": hex(&node.public_key()),
            "name": node.node(),
            "namespaces": ["/acme/prod"],
            "labels": node.labels(),
            "not_before": node.validity().not_before,
            "not_after": node.validity().not_after,
            "request": hex(request.bytes()),
            "certificate": hex(node.bytes()),
            "certificate_hash": hex(&node.hash()),
        },
        "credentials": credentials,
    })
}

fn psk_json(issuer: &Issuer) -> Value {
    let key = preshared_key(3);
    let credentials: Vec<Value> = issue_both(issuer)
        .iter()
        .zip([[0x11; 8], [0x22; 8]])
        .map(|(local, id)| credential_json(Kind::CredentialPsk, local, ("id", &id)))
        .collect();
    json!({
        "description": "Credentials under a pre-shared key. Byte strings are hexadecimal, times unix seconds.",
        "now": NOW,
        "trust_domain": TRUST_DOMAIN,
        "preshared_key": hex(key.secret()),
        "credential_key": hex(&blake3::derive_key(contexts::CREDENTIAL_KEY_PSK, key.secret())),
        "credentials": credentials,
    })
}

fn pair_json(pki: &Pki, psk: (&Issuer, &Verifier)) -> Value {
    let agreed = AgreementKey::from_bytes(&[0x11; 32])
        .agree(&AgreementKey::from_bytes(&[0x22; 32]).public())
        .unwrap();
    let one = |issuer: &Issuer, verifier: &Verifier, context: &str, secret: &[u8; 32]| {
        let [web, db] = issue_both(issuer);
        let keys = pair_keys(&web, &verifier.verify(db.bytes(), NOW).unwrap()).unwrap();
        json!({
            "context": context,
            "secret": hex(secret),
            "web_hash": hex(&web.hash()),
            "db_hash": hex(&db.hash()),
            "web_initiates": hex(keys.as_initiator.as_bytes()),
            "db_initiates": hex(keys.as_responder.as_bytes()),
        })
    };
    json!({
        "description": "Pair keys of the two credentials in credential_pki.json and in credential_psk.json; secret is the X25519 output or the pre-shared key.",
        "pki": one(&pki.issuer, &pki.verifier, contexts::PAIR_KEY_PKI, &agreed),
        "psk": one(psk.0, psk.1, contexts::PAIR_KEY_PSK, preshared_key(3).secret()),
    })
}

#[test]
fn vectors_are_what_the_code_makes() {
    let pki = Pki::new();
    let (psk_issuer, psk_verifier) = psk_pair();
    let placed = Pki::with_labels(authority(1), &[("zone", "north"), ("rack", "r7")]);
    let described = described_workloads(&placed.issuer);
    for (name, made) in [
        ("credential_pki.json", pki_json(&pki, workloads())),
        ("credential_described.json", pki_json(&placed, described)),
        ("credential_psk.json", psk_json(&psk_issuer)),
        ("pair_key.json", pair_json(&pki, (&psk_issuer, &psk_verifier))),
    ] {
        compare(name, &made);
    }
}

/// Checks every value that a verified credential shows against the vector.
fn check_credential(verifier: &Verifier, vector: &Value) {
    let credential = bytes(&vector["credential"]);
    let peer = verifier.verify(&credential, NOW).unwrap();
    assert_eq!(peer.identity.spiffe_id(), vector["spiffe_id"]);
    assert_eq!(peer.identity.namespace().as_str(), vector["namespace"]);
    assert_eq!(peer.identity.name(), vector["name"]);
    assert_eq!(json!(peer.identity.labels()), vector["labels"]);
    assert_eq!(json!(peer.identity.description()), vector["attributes"]);
    assert_eq!((peer.not_before, peer.not_after), (NOW, NOW + 3600));
    assert_eq!(hex(&peer.hash), vector["hash"]);
    assert_eq!(hex(&peer.handle), vector["handle"]);
    assert_eq!(peer.identity_id.to_string(), vector["identity_id"]);
    assert_eq!(peer.identity_id, identity_id(&peer.identity));
}

#[test]
fn pki_vectors_verify_from_what_is_written() {
    for name in ["credential_pki.json", "credential_described.json"] {
        check_pki(&read(name));
    }
}

fn check_pki(vector: &Value) {
    let authority = bytes(&vector["authority"]["certificate"]);
    let authority = AuthorityCertificate::parse(&authority).unwrap();
    assert_eq!(hex(&authority.key_id()), vector["authority"]["key_id"]);
    let request = NodeRequest::parse(&bytes(&vector["node"]["request"])).unwrap();
    assert_eq!(hex(&request.public_key()), vector["node"]["public_key"]);
    let trust = Trust::pki(TRUST_DOMAIN, vec![authority]).unwrap();
    let verifier = Verifier::new(trust);
    let certificate = NodeCertificate::parse(&bytes(&vector["node"]["certificate"])).unwrap();
    assert_eq!(verifier.verify_node_certificate(&certificate, NOW), Ok(()));
    assert_eq!(hex(&certificate.hash()), vector["node"]["certificate_hash"]);
    assert_eq!(json!(certificate.labels()), vector["node"]["labels"]);
    for credential in vector["credentials"].as_array().unwrap() {
        check_credential(&verifier, credential);
    }
}

#[test]
fn psk_vectors_verify_from_what_is_written() {
    let vector = read("credential_psk.json");
    let key = PresharedKey::from_bytes(&array(&vector["preshared_key"])).unwrap();
    let verifier = Verifier::new(Trust::psk(TRUST_DOMAIN, key).unwrap());
    for credential in vector["credentials"].as_array().unwrap() {
        check_credential(&verifier, credential);
    }
}

/// The formula of the protocol on the written inputs, without our own code for it.
#[test]
fn pair_key_vectors_follow_the_documented_formula() {
    let vectors = read("pair_key.json");
    for mode in ["pki", "psk"] {
        let vector = &vectors[mode];
        let [web, db, secret] = ["web_hash", "db_hash", "secret"].map(|name| array(&vector[name]));
        let context = format!("enforcer 1 pair key {mode}");
        let derive =
            |first, second| hex(&blake3::derive_key(&context, &[secret, first, second].concat()));
        assert_eq!(vector["context"], context);
        assert_eq!(vector["web_initiates"], derive(web, db));
        assert_eq!(vector["db_initiates"], derive(db, web));
    }
}
