//! Certificates of authorities and nodes, and requests for them.

use enforcer_user::identity::certificate::MAX_CERTIFICATE_BYTES;
use enforcer_user::identity::envelope::Kind;
use enforcer_user::identity::{
    AuthorityCertificate, Namespace, NodeCertificate, NodeGrant, NodeRequest, SigningKey,
};

use super::envelope::accepted;
use super::feed::Feed;
use super::pki::{DAY, NOW, PKI, authority_certificate};

/// `data` is a certificate or request as it comes, and what is asked of an honest authority.
pub fn run(data: &[u8]) {
    as_it_comes(data);
    authority(Feed::new(data));
    node(Feed::new(data));
}

fn as_it_comes(data: &[u8]) {
    if let Ok(certificate) = AuthorityCertificate::parse(data) {
        whole(certificate.bytes(), data, Kind::AuthorityCertificate);
    }
    if let Ok(certificate) = NodeCertificate::parse(data) {
        whole(certificate.bytes(), data, Kind::NodeCertificate);
        assert!(!certificate.namespaces().is_empty());
        assert!(certificate.namespaces().is_sorted());
        assert_eq!(certificate.hash(), *blake3::hash(data).as_bytes());
        let believed = PKI.verifier.verify_node_certificate(&certificate, NOW).is_ok();
        assert!(!believed || certificate.authority() == PKI.authority.certificate().key_id());
    }
    if let Ok(request) = NodeRequest::parse(data) {
        whole(request.bytes(), data, Kind::NodeRequest);
    }
}

fn whole(bytes: &[u8], data: &[u8], kind: Kind) {
    assert_eq!(bytes, data);
    assert!(data.len() <= MAX_CERTIFICATE_BYTES);
    accepted(kind, data);
}

/// A signed certificate says what it was made of, or its claims make no sense; changed, it is nothing.
fn authority(mut feed: Feed<'_>) {
    let (seed, times) = (feed.array(), (feed.u64(), feed.u64()));
    let domain = feed.text(255);
    let bytes = authority_certificate(&seed, &domain, times);
    if let Ok(certificate) = AuthorityCertificate::parse(&bytes) {
        let validity = certificate.validity();
        assert_eq!((validity.not_before, validity.not_after), times);
        assert_eq!(certificate.trust_domain(), domain);
        assert_eq!(certificate.public_key(), SigningKey::from_seed(&seed).public());
        let damaged = feed.damaged(&bytes).expect("it has bytes");
        assert!(AuthorityCertificate::parse(&damaged).is_err(), "damaged and accepted");
    }
}

fn node(mut feed: Feed<'_>) {
    let key = SigningKey::from_seed(&feed.array());
    let name = feed.text(255);
    let Ok(request) = NodeRequest::new(&name, &key) else { return };
    assert_eq!(NodeRequest::parse(request.bytes()), Ok(request.clone()));
    assert_eq!((request.node(), request.public_key()), (name.as_str(), key.public()));
    let damaged = feed.damaged(request.bytes()).expect("it has bytes");
    assert!(NodeRequest::parse(&damaged).is_err(), "a damaged request was accepted");

    let namespaces: Vec<Namespace> =
        (0..feed.byte() % 20).filter_map(|_| feed.text(40).parse().ok()).collect();
    let lifetime_seconds = feed.u32().into();
    let labels = feed.labels();
    let granted = NodeGrant { namespaces: &namespaces, labels: &labels };
    let issued = PKI.authority.issue_node_granted(&request, &granted, NOW, lifetime_seconds);
    let Ok(certificate) = issued else { return };
    assert_eq!(certificate.labels(), &labels);
    assert_eq!(PKI.verifier.verify_node_certificate(&certificate, NOW), Ok(()));
    assert_eq!(certificate.node(), name);
    assert!(namespaces.iter().all(|namespace| certificate.allows(namespace)));
    assert!(certificate.validity().not_after <= NOW + 29 * DAY, "it outlives its authority");
    let damaged = feed.damaged(certificate.bytes()).expect("it has bytes");
    if let Ok(damaged) = NodeCertificate::parse(&damaged) {
        assert!(PKI.verifier.verify_node_certificate(&damaged, NOW).is_err(), "{damaged:?}");
    }
}
