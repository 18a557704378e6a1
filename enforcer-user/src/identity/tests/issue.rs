use super::*;
use crate::identity::IssueError;

#[test]
fn each_credential_is_another_one() {
    let pki = Pki::new();
    let (psk_issuer, psk_verifier) = psk_pair();
    for (issuer, verifier) in [(&pki.issuer, &pki.verifier), (&psk_issuer, &psk_verifier)] {
        let web = identity("/acme/prod/shop");
        let (a, b) =
            (issuer.issue(&web, NOW, LIMITS).unwrap(), issuer.issue(&web, NOW, LIMITS).unwrap());
        assert_ne!(a.handle(), b.handle());
        assert_eq!(a.identity_id(), b.identity_id());
        assert_eq!(verifier.verify(a.bytes(), NOW).unwrap().identity, web);
        assert_eq!((a.not_before(), a.not_after()), (NOW, NOW + 3600));
    }
}

#[test]
fn a_credential_ends_with_its_node_certificate() {
    let pki = Pki::new();
    let web = identity("/acme/prod/shop");
    let local = pki.issuer.issue(&web, NOW + DAY - 60, LIMITS).unwrap();
    assert_eq!(local.not_after(), NOW + DAY);
    let late = pki.issuer.issue(&web, NOW + DAY, LIMITS).unwrap_err();
    assert!(matches!(late, IssueError::NodeUntimely { .. }), "{late}");
    assert!(pki.issuer.issue(&web, NOW - 31, LIMITS).is_err());
    let early = pki.issuer.issue(&web, NOW - 30, LIMITS).unwrap();
    assert_eq!((early.not_before(), early.not_after()), (NOW, NOW + 3570));
}

#[test]
fn labels_that_do_not_fit_are_named_with_their_bytes() {
    let pki = Pki::new();
    let labels = BTreeMap::from([
        ("note".to_owned(), "x".repeat(200)),
        ("tier".to_owned(), "front".to_owned()),
    ]);
    let web = Identity::new(TRUST_DOMAIN, namespace("/acme/prod"), "web", labels).unwrap();
    let local = pki.issuer.issue(&web, NOW, LIMITS).unwrap();
    let size = local.bytes().len();
    let exact = Limits { max_bytes: size, ..LIMITS };
    assert!(pki.issuer.issue(&web, NOW, exact).is_ok());
    let refused =
        pki.issuer.issue(&web, NOW, Limits { max_bytes: size - 1, ..LIMITS }).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains(&format!("{size} bytes, {} are allowed", size - 1)), "{text}");
    assert!(text.contains(&format!("note={} (207 bytes), tier=front (11 bytes)", "x".repeat(200))));
}

#[test]
fn the_budget_never_exceeds_what_verifiers_accept() {
    let pki = Pki::new();
    let labels = (0..4).map(|n| (format!("k{n}"), "x".repeat(250))).collect();
    let web = Identity::new(TRUST_DOMAIN, namespace("/acme/prod"), "web", labels).unwrap();
    let refused = pki.issuer.issue(&web, NOW, Limits { max_bytes: 9000, ..LIMITS }).unwrap_err();
    assert!(matches!(refused, IssueError::TooLarge { limit: 1120, .. }), "{refused}");
}

#[test]
fn what_may_not_be_signed_is_said() {
    let pki = Pki::new();
    let refused = |identity: &Identity| pki.issuer.issue(identity, NOW, LIMITS).unwrap_err();
    let text = refused(&identity("/acme/production")).to_string();
    assert!(text.contains("/acme/production") && text.contains("allows /acme/prod only"), "{text}");
    let foreign = Identity::new("example.net", namespace("/acme/prod"), "w", BTreeMap::new());
    assert!(matches!(refused(&foreign.unwrap()), IssueError::TrustDomain { .. }));
    let labels = (0..65).map(|n| (format!("k{n}"), String::new())).collect();
    let labelled = Identity::new(TRUST_DOMAIN, namespace("/acme/prod"), "w", labels);
    assert!(matches!(refused(&labelled.unwrap()), IssueError::TooManyLabels { count: 65, .. }));
    for lifetime_seconds in [0, 3601] {
        let limits = Limits { lifetime_seconds, ..LIMITS };
        let refused = pki.issuer.issue(&identity("/acme/prod"), NOW, limits).unwrap_err();
        assert_eq!(refused, IssueError::Lifetime(lifetime_seconds));
    }
}

#[test]
fn sixty_four_labels_can_be_issued_and_verified() {
    let (issuer, verifier) = psk_pair();
    let labels: BTreeMap<String, String> =
        (0..64).map(|n| (format!("k{n}"), "v".to_owned())).collect();
    let many = Identity::new(TRUST_DOMAIN, namespace("/"), "w", labels).unwrap();
    let local = issuer.issue(&many, NOW, LIMITS).unwrap();
    assert_eq!(verifier.verify(local.bytes(), NOW).unwrap().identity, many);
}

#[test]
fn a_node_key_needs_its_own_certificate() {
    let pki = Pki::new();
    let other = SigningKey::from_seed(&[3; 32]);
    let refused = Issuer::node(other, pki.certificate.clone()).unwrap_err();
    assert!(matches!(refused, IssueError::ForeignKey { .. }));
    assert!(Issuer::psk(preshared_key(3), "Example.org").is_err());
}
