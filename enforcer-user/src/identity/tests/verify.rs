use std::collections::HashSet;

use super::*;
use crate::identity::credential::identity_id;
use crate::identity::{CLOCK_SKEW_SECONDS, Proof, Revocations, VerifyError};

fn reason(verifier: &Verifier, bytes: &[u8], now: u64) -> &'static str {
    verifier.verify(bytes, now).expect_err("a credential was accepted").reason()
}

#[test]
fn a_pki_credential_says_whom_it_speaks_for() {
    let pki = Pki::new();
    let local = pki.issue([5; 32]);
    let verified = pki.verifier.verify(local.bytes(), NOW).unwrap();
    assert_eq!(verified.identity, identity("/acme/prod/shop"));
    assert_eq!(verified.identity_id, identity_id(&verified.identity));
    assert_eq!(verified.hash, *blake3::hash(local.bytes()).as_bytes());
    assert_eq!((verified.hash, verified.handle), (local.hash(), local.handle()));
    assert_eq!(verified.handle, verified.hash[..8]);
    assert_eq!((verified.not_before, verified.not_after), (NOW, NOW + 3600));
    let proof = Proof::Pki {
        x25519: AgreementKey::from_bytes(&[5; 32]).public(),
        node: std::sync::Arc::new(pki.certificate.clone()),
    };
    assert_eq!(verified.proof, proof);
    assert_eq!(verified.node(), Some("node-1"));
    assert_eq!(pki.certificate.validity().not_after, NOW + DAY);
}

#[test]
fn a_psk_credential_says_whom_it_speaks_for() {
    let (issuer, verifier) = psk_pair();
    let local = psk_credential(&issuer, 7);
    let peer = verifier.verify(local.bytes(), NOW).unwrap();
    assert_eq!((&peer.identity, peer.proof), (local.identity(), Proof::Psk));
    assert_eq!((peer.hash, peer.handle), (local.hash(), local.handle()));
}

/// What a node says of its workload, and what its authority says of the node.
#[test]
fn what_a_workload_runs_and_on_what_node_is_verified_with_it() {
    let pki = Pki::with_labels(authority(1), &[("zone", "north")]);
    let image = "registry.example/shop:1.4";
    let described = [("image", image), ("user", "shop"), ("node.zone", "north")];
    let described = described.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let web = identity("/acme/prod/shop").described(&described).unwrap();
    let local = pki.issuer.issue(&web, NOW, LIMITS).unwrap();
    let verified = pki.verifier.verify(local.bytes(), NOW).unwrap();
    assert_eq!((&verified.identity, verified.identity_id), (&web, local.identity_id()));
    let plain = identity("/acme/prod/shop");
    assert_ne!(verified.identity_id, identity_id(&plain));
    // No node may think itself elsewhere than its certificate says.
    let elsewhere = [("node.zone".to_owned(), "south".to_owned())].into();
    for claimed in [plain.clone(), plain.clone().described(&elsewhere).unwrap()] {
        let refused = pki.issuer.issue(&claimed, NOW, LIMITS).unwrap_err();
        assert!(refused.to_string().contains("restart the daemon"), "{refused}");
    }
    // Under a shared key nothing is known of a node.
    let (issuer, verifier) = psk_pair();
    assert!(issuer.issue(&web, NOW, LIMITS).is_err());
    let bare = web.on_node(&BTreeMap::new());
    let local = issuer.issue(&bare, NOW, LIMITS).unwrap();
    assert_eq!(verifier.verify(local.bytes(), NOW).unwrap().identity, bare);
}

#[test]
fn a_verifier_may_be_used_from_several_threads() {
    let pki = Pki::new();
    let local = pki.issue([5; 32]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pki.verifier.verify(local.bytes(), NOW).unwrap());
        }
    });
}

#[test]
fn time_is_judged_at_every_use_also_of_a_cached_node() {
    let pki = Pki::new();
    let local = pki.issue([5; 32]);
    assert!(pki.verifier.verify(local.bytes(), NOW - 30).is_ok());
    assert!(pki.verifier.verify(local.bytes(), NOW + 3599).is_ok());
    assert_eq!(reason(&pki.verifier, local.bytes(), NOW - 31), "not_yet_valid");
    assert_eq!(reason(&pki.verifier, local.bytes(), NOW + 3600), "expired");
    assert_eq!(reason(&pki.verifier, local.bytes(), NOW + 2 * DAY), "expired");
    let (issuer, verifier) = psk_pair();
    let local = psk_credential(&issuer, 7);
    assert_eq!(reason(&verifier, local.bytes(), NOW - 31), "not_yet_valid");
    assert_eq!(reason(&verifier, local.bytes(), NOW + 3600), "expired");
}

#[test]
fn an_expired_authority_ends_everything_below_it() {
    let key = SigningKey::from_seed(&[1; 32]);
    let authority = Authority::init_with_key(key, TRUST_DOMAIN, NOW, 600).unwrap();
    let pki = Pki::with_authority(authority);
    let local = pki.issue([5; 32]);
    let verified = pki.verifier.verify(local.bytes(), NOW).unwrap();
    assert_eq!(verified.not_after, NOW + 600);
    assert_eq!(reason(&pki.verifier, local.bytes(), NOW + 600), "expired");
}

#[test]
fn another_authority_is_not_believed_and_several_may_be_trusted() {
    let pki = Pki::new();
    let other = Pki::with_authority(authority(9));
    let local = other.issue([5; 32]);
    assert_eq!(reason(&pki.verifier, local.bytes(), NOW), "wrong_authority");
    let both = [&pki, &other].map(|pki| pki.authority.certificate().clone()).to_vec();
    let verifier = Verifier::new(Trust::pki(TRUST_DOMAIN, both).unwrap());
    assert!(verifier.verify(local.bytes(), NOW).is_ok());
    assert!(verifier.verify(pki.issue([5; 32]).bytes(), NOW).is_ok());
}

#[test]
fn another_trust_domain_is_refused_by_name() {
    let pki = Pki::new();
    let key = SigningKey::from_seed(&[1; 32]);
    let foreign = Authority::init_with_key(key, "example.net", NOW, DAY).unwrap();
    let trust = Trust::pki("example.net", vec![foreign.certificate().clone()]).unwrap();
    let refused = Verifier::new(trust).verify(pki.issue([5; 32]).bytes(), NOW).unwrap_err();
    assert_eq!(refused.reason(), "trust_domain");
    assert!(Trust::pki(TRUST_DOMAIN, vec![foreign.certificate().clone()]).is_err());
    let (issuer, _) = psk_pair();
    let verifier = Verifier::new(Trust::psk("example.net", preshared_key(3)).unwrap());
    let local = psk_credential(&issuer, 7);
    assert_eq!(reason(&verifier, local.bytes(), NOW), "trust_domain");
}

#[test]
fn there_is_no_downgrade_between_modes() {
    let pki = Pki::new();
    let (psk_issuer, psk_verifier) = psk_pair();
    let (signed, keyed) = (pki.issue([5; 32]), psk_credential(&psk_issuer, 7));
    assert_eq!(reason(&pki.verifier, keyed.bytes(), NOW), "wrong_mode");
    assert_eq!(reason(&psk_verifier, signed.bytes(), NOW), "wrong_mode");
    let authorities = vec![pki.authority.certificate().clone()];
    let both = Trust::new(TRUST_DOMAIN, authorities, Some(preshared_key(3))).unwrap();
    let both = Verifier::new(both);
    assert!(both.verify(signed.bytes(), NOW).is_ok() && both.verify(keyed.bytes(), NOW).is_ok());
}

#[test]
fn another_preshared_key_is_refused() {
    let (issuer, _) = psk_pair();
    let verifier = Verifier::new(Trust::psk(TRUST_DOMAIN, preshared_key(4)).unwrap());
    assert_eq!(reason(&verifier, psk_credential(&issuer, 7).bytes(), NOW), "bad_signature");
}

#[test]
fn revocation_reaches_credentials_nodes_and_namespaces() {
    let pki = Pki::new();
    let local = pki.issue([5; 32]);
    let peer = pki.verifier.verify(local.bytes(), NOW).unwrap();
    let with = |revocations| {
        let trust = Trust::pki(TRUST_DOMAIN, vec![pki.authority.certificate().clone()]).unwrap();
        Verifier::new(trust.revoking(revocations).unwrap())
    };
    let credentials = HashSet::from([local.hash()]);
    let node_certificates = HashSet::from([pki.certificate.hash()]);
    let namespaces = |path| HashSet::from([namespace(path)]);
    for revocations in [
        Revocations { credentials, ..Revocations::default() },
        Revocations { node_certificates, ..Revocations::default() },
        Revocations { namespaces: namespaces("/acme/prod"), ..Revocations::default() },
        Revocations { namespaces: namespaces("/acme/prod/shop"), ..Revocations::default() },
        Revocations { namespaces: namespaces("/"), ..Revocations::default() },
    ] {
        let verifier = with(revocations);
        assert_eq!(reason(&verifier, local.bytes(), NOW), "revoked");
        assert_eq!(verifier.accepts_still(&pki.verifier, &peer), Some(false));
    }
    let other = Revocations { namespaces: namespaces("/acme/pro"), ..Revocations::default() };
    let other = with(other);
    assert_eq!(other.accepts_still(&pki.verifier, &peer), Some(true));
    assert!(other.verify(local.bytes(), NOW).is_ok());
}

#[test]
fn what_was_accepted_is_judged_by_another_trust_as_if_it_were_new() {
    let pki = Pki::new();
    let local = pki.issue([5; 32]);
    let peer = pki.verifier.verify(local.bytes(), NOW).unwrap();
    let own = pki.authority.certificate().clone();
    let foreign = authority(9).certificate().clone();
    let trusts = [
        (vec![own.clone()], true),
        (vec![foreign.clone(), own.clone()], true),
        (vec![foreign], false),
    ];
    for (authorities, accepted) in trusts {
        let verifier = Verifier::new(Trust::pki(TRUST_DOMAIN, authorities).unwrap());
        assert_eq!(verifier.accepts_still(&pki.verifier, &peer), Some(accepted));
        assert_eq!(verifier.verify(local.bytes(), NOW).is_ok(), accepted);
    }
    // An authority's certificate may be renewed for its key, to end before the node's does.
    let key = SigningKey::from_seed(&[1; 32]);
    let renewed = Authority::init_with_key(key, TRUST_DOMAIN, NOW - DAY, 2 * DAY - 1).unwrap();
    assert_eq!(renewed.certificate().key_id(), own.key_id());
    let renewed = renewed.certificate().clone();
    let verifier = Verifier::new(Trust::pki(TRUST_DOMAIN, vec![renewed]).unwrap());
    assert_eq!(verifier.accepts_still(&pki.verifier, &peer), Some(false));
    assert_eq!(reason(&verifier, local.bytes(), NOW), "validity_outside");
    // Who did not know the authority, and a pre-shared key, say nothing.
    let (psk_issuer, psk_verifier) = psk_pair();
    assert_eq!(pki.verifier.accepts_still(&psk_verifier, &peer), None);
    let keyed = psk_credential(&psk_issuer, 7);
    let keyed = psk_verifier.verify(keyed.bytes(), NOW).unwrap();
    assert_eq!(psk_verifier.accepts_still(&psk_verifier, &keyed), None);
    assert_eq!(psk_verifier.accepts_still(&pki.verifier, &peer), Some(false));
}

#[test]
fn a_node_may_judge_its_own_certificate_before_it_signs() {
    let pki = Pki::new();
    assert_eq!(pki.verifier.verify_node_certificate(&pki.certificate, NOW), Ok(()));
    let late = pki.verifier.verify_node_certificate(&pki.certificate, NOW + DAY);
    assert!(matches!(late, Err(VerifyError::Expired { .. })));
    // A clock that runs ahead is allowed for at the start, to the second, and never at the end.
    let at = |now| pki.verifier.verify_node_certificate(&pki.certificate, now);
    assert_eq!(at(NOW - CLOCK_SKEW_SECONDS), Ok(()));
    assert!(matches!(at(NOW - CLOCK_SKEW_SECONDS - 1), Err(VerifyError::NotYetValid { .. })));
    assert_eq!(at(NOW + DAY - 1), Ok(()));
    let foreign = certificate(&authority(9), &pki.node_seed, ("/", &[]), DAY);
    let refused = pki.verifier.verify_node_certificate(&foreign, NOW).unwrap_err();
    assert_eq!(refused.reason(), "wrong_authority");
}

#[test]
fn trust_needs_something_to_trust() {
    assert!(Trust::new(TRUST_DOMAIN, vec![], None).is_err());
    let certificate = authority(1).certificate().clone();
    assert!(Trust::pki(TRUST_DOMAIN, vec![certificate; 2]).is_err());
    let many = (1..=9).map(|seed| authority(seed).certificate().clone()).collect();
    assert!(Trust::pki(TRUST_DOMAIN, many).is_err());
}
