//! Policy files.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use enforcer_user::identity::Identity;
use enforcer_user::policy::{Action, PolicySet, Protocol, Request, SourceFile};

use super::pki::TRUST_DOMAIN;

/// Longer files take Cedar longer, and say nothing more.
const MAX_BYTES: usize = 4096;
const FILE: &str = "fuzz.cedar";

static WORKLOADS: LazyLock<[Identity; 3]> = LazyLock::new(|| {
    [("/acme/prod", "shop", "front"), ("/acme/prod/db", "store", "back"), ("/", "stranger", "")]
        .map(|(namespace, name, tier)| {
            let labels = BTreeMap::from([("tier".to_owned(), tier.to_owned())]);
            let namespace = namespace.parse().expect("a namespace");
            Identity::new(TRUST_DOMAIN, namespace, name, labels).expect("plain names")
        })
});

/// `data` is one policy file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.len() > MAX_BYTES {
        return;
    }
    match PolicySet::from_sources(&[SourceFile::new(FILE, text)]) {
        Ok(set) => asked(text, &set),
        Err(errors) => {
            assert!(!errors.findings().is_empty());
            let lines = text.split('\n').count();
            for finding in errors.findings() {
                assert!(finding.line <= lines, "{finding}, of {lines} lines");
                assert!(!finding.message.is_empty());
            }
        }
    }
}

fn asked(text: &str, set: &PolicySet) {
    let lines = text.split('\n').count();
    assert!(set.rules().iter().all(|rule| (1..=lines).contains(&rule.line())));
    for caller in WORKLOADS.iter() {
        for callee in WORKLOADS.iter() {
            let (port, protocol, unix_seconds) = (443, Protocol::TCP, 1_700_000_000);
            for action in Action::ALL {
                let request = Request { action, caller, callee, port, protocol, unix_seconds };
                let decision = set.decide(&request);
                assert_eq!(set.explain(&request).allow, decision.allow, "{request:?}");
                assert!(!decision.allow || !decision.rules.is_empty(), "allowed by nothing");
                assert!(decision.valid_until.is_none_or(|until| until > unix_seconds));
            }
        }
    }
}
