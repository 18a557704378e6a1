//! Break-glass: what root says for a while over every rule, with a reason.
//!
//! An override is not a rule: it overrules `forbid` and `permit` alike, at every end that this node is asked about, and
//! ends by itself. One that denies goes before one that allows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::annotations::MAX_ANNOTATION_BYTES;
use super::error::PolicyError;
use super::request::{Request, datetime};
use crate::identity::{Identity, NameError, Namespace};

/// The most overrides at a time.
pub const MAX_OVERRIDES: usize = 64;
/// The longest one, in seconds: what is needed for longer is a rule.
pub const MAX_OVERRIDE_SECONDS: u64 = 24 * 3600;

/// What root said for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Names it; counted from 1.
    pub number: u64,
    /// Whether it allows, or denies.
    pub allow: bool,
    /// Who calls.
    pub from: Whom,
    /// Who is called.
    pub to: Whom,
    /// The callee's port; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The second (Unix time) at which it ends.
    pub until_unix: i64,
    /// Why.
    pub reason: String,
    /// The user who said so.
    pub uid: u32,
}

/// One side of an override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Whom {
    /// Everybody: `*`.
    Everybody,
    /// Whoever lives in a namespace or below: `/acme/shop`.
    Namespace(Namespace),
    /// One workload: `spiffe://example.org/acme/shop/till`.
    Workload(Box<str>),
}

/// Why a text names nobody.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?}: expected a SPIFFE ID, a namespace such as \"/acme/shop\" or \"*\"")]
pub struct WhomError {
    text: String,
}

impl Override {
    /// Whether it is an override that can be made now; the error names what is wrong.
    pub fn check(&self, now: i64) -> Result<(), String> {
        let most = i64::try_from(MAX_OVERRIDE_SECONDS).unwrap_or(i64::MAX);
        if self.until_unix <= now || self.until_unix > now.saturating_add(most) {
            return Err(format!("an override lasts from 1 to {MAX_OVERRIDE_SECONDS} seconds"));
        }
        let len = self.reason.len();
        if len == 0 || len > MAX_ANNOTATION_BYTES || self.reason.chars().any(char::is_control) {
            return Err(format!(
                "reason: expected 1 to {MAX_ANNOTATION_BYTES} printable bytes, found {len}"
            ));
        }
        Ok(())
    }

    /// Whether it is in force at this second.
    #[must_use]
    pub fn is_active(&self, unix_seconds: i64) -> bool {
        unix_seconds < self.until_unix
    }

    fn is_between(&self, asked: &Request<'_>) -> bool {
        self.from.is(asked.caller) && self.to.is(asked.callee)
    }

    fn holds(&self, asked: &Request<'_>) -> bool {
        self.is_between(asked) && self.port.is_none_or(|port| port == asked.port)
    }
}

/// What overrides have to do with a request.
#[derive(Debug, Default)]
pub(super) struct Overriding<'a> {
    /// The one that decides.
    pub by: Option<&'a Override>,
    /// When one of this pair ends.
    pub until: Option<i64>,
    /// Whether one of this pair is for a single port.
    pub port_matters: bool,
}

/// Finds those of the request's pair.
pub(super) fn overriding<'a>(all: &'a [Override], asked: &Request<'_>) -> Overriding<'a> {
    let mut found = Overriding::default();
    let active =
        all.iter().filter(|one| one.is_active(asked.unix_seconds) && one.is_between(asked));
    for one in active {
        found.until = Some(found.until.map_or(one.until_unix, |until| until.min(one.until_unix)));
        found.port_matters |= one.port.is_some();
        if one.holds(asked) && found.by.is_none_or(|before| before.allow && !one.allow) {
            found.by = Some(one);
        }
    }
    found
}

/// What is wrong with a list of them, if anything is.
pub(super) fn check(all: &[Override]) -> Result<(), PolicyError> {
    if all.len() > MAX_OVERRIDES {
        let message = format!("{} overrides, at most {MAX_OVERRIDES} are allowed", all.len());
        return Err(PolicyError::general(message).with_help("end some, or write a rule"));
    }
    Ok(())
}

impl Whom {
    /// Whether the workload is meant.
    #[must_use]
    pub fn is(&self, identity: &Identity) -> bool {
        match self {
            Self::Everybody => true,
            Self::Namespace(namespace) => namespace.contains(identity.namespace()),
            Self::Workload(spiffe_id) => **spiffe_id == identity.spiffe_id(),
        }
    }
}

impl FromStr for Whom {
    type Err = WhomError;

    fn from_str(text: &str) -> Result<Self, WhomError> {
        let refused = || WhomError { text: text.to_owned() };
        let named = |_: NameError| refused();
        if text == "*" {
            return Ok(Self::Everybody);
        }
        if text.starts_with('/') {
            return text.parse().map(Self::Namespace).map_err(named);
        }
        let identity = Identity::from_spiffe_id(text, std::collections::BTreeMap::new());
        identity.map(|found| Self::Workload(found.spiffe_id().into())).map_err(named)
    }
}

impl TryFrom<String> for Whom {
    type Error = WhomError;

    fn try_from(text: String) -> Result<Self, WhomError> {
        text.parse()
    }
}

impl From<Whom> for String {
    fn from(whom: Whom) -> Self {
        whom.to_string()
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("*"),
            Self::Namespace(namespace) => namespace.fmt(f),
            Self::Workload(spiffe_id) => f.write_str(spiffe_id),
        }
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, from, to, uid, reason, .. } = self;
        let verb = if self.allow { "allows" } else { "denies" };
        let port = self.port.map_or_else(String::new, |port| format!(" port {port}"));
        let until = datetime(self.until_unix).unwrap_or_default();
        write!(
            f,
            "override {number} {verb} {from} -> {to}{port} until {until}, by uid {uid}: {reason}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MONDAY, set_of, tcp, workload};
    use super::*;
    use crate::policy::Policy;

    fn one(allow: bool, from: &str, to: &str, port: Option<u16>) -> Override {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let reason = "the pager rang".to_owned();
        Override { number: 1, allow, from, to, port, until_unix: MONDAY + 60, reason, uid: 0 }
    }

    fn policy(text: &str, overrides: Vec<Override>) -> Policy {
        set_of(text).with_overrides(overrides).unwrap()
    }

    #[test]
    fn they_go_before_every_rule_and_end_alone() {
        let shut = "forbid(principal, action, resource);";
        let opened = policy(shut, vec![one(true, "/a", "spiffe://example.org/b/db", None)]);
        let (web, db, other) =
            (workload("/a/web", &[]), workload("/b/db", &[]), workload("/b/x", &[]));
        let asked = tcp(&web, &db, 5432);
        let decision = opened.decide(&asked);
        assert!(decision.allow && decision.overridden.is_some());
        assert_eq!(decision.valid_until, Some(MONDAY + 60));
        assert!(!opened.decide(&tcp(&db, &web, 5432)).allow);
        assert!(!opened.decide(&tcp(&web, &other, 5432)).allow);
        let later = Request { unix_seconds: MONDAY + 60, ..asked };
        let decision = opened.decide(&later);
        assert!(!decision.allow && decision.overridden.is_none() && decision.valid_until.is_none());

        let open = "permit(principal, action, resource);";
        let closed = policy(open, vec![one(true, "*", "*", None), one(false, "*", "/b", Some(22))]);
        assert!(!closed.decide(&tcp(&web, &db, 22)).allow);
        let elsewhere = closed.decide(&tcp(&web, &db, 23));
        assert!(elsewhere.allow && elsewhere.port_matters);
    }

    #[test]
    fn what_cannot_be_asked_is_denied_even_so() {
        let opened = policy("", vec![one(true, "*", "*", None)]);
        let web = workload("/a/web", &[]);
        let foreign = Identity::from_spiffe_id(
            "spiffe://example.com/a/web",
            std::collections::BTreeMap::new(),
        )
        .unwrap();
        assert!(opened.decide(&tcp(&web, &web, 1)).allow);
        let decision = opened.decide(&tcp(&foreign, &web, 1));
        assert!(!decision.allow && decision.refused.is_some());
    }

    #[test]
    fn explanations_name_them_and_what_the_policy_says() {
        let opened =
            policy("forbid(principal, action, resource);", vec![one(true, "*", "/b", Some(80))]);
        let (web, db) = (workload("/a/web", &[]), workload("/b/db", &[]));
        let told = opened.explain_both(&tcp(&web, &db, 80)).to_string();
        let expected = "allow: spiffe://example.org/a/web -> spiffe://example.org/b/db port 80/tcp\n  \
             override 1 allows * -> /b port 80 until 2026-03-02T10:31:20Z, by uid 0: the pager rang\n  \
             without it: deny\n    forbidden by test.cedar:1";
        assert_eq!(told, expected);
    }

    #[test]
    fn generations_differ_with_them_and_too_many_are_refused() {
        let plain = policy("", Vec::new()).generation();
        assert_ne!(plain, policy("", vec![one(true, "*", "*", None)]).generation());
        assert_eq!(
            plain,
            policy("", vec![one(true, "*", "*", None)])
                .with_overrides(Vec::new())
                .unwrap()
                .generation()
        );
        let many = vec![one(true, "*", "*", None); MAX_OVERRIDES + 1];
        assert!(set_of("").with_overrides(many).is_err());
    }

    #[test]
    fn bounds_of_time_and_reason_hold() {
        let good = one(true, "*", "*", None);
        good.check(MONDAY).unwrap();
        let refused = |change: &dyn Fn(&mut Override)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.check(MONDAY).unwrap_err()
        };
        assert!(refused(&|bad| bad.until_unix = MONDAY).contains("seconds"));
        assert!(refused(&|bad| bad.until_unix = MONDAY + 86_401).contains("seconds"));
        assert!(refused(&|bad| bad.until_unix = i64::MAX).contains("seconds"));
        assert!(refused(&|bad| bad.reason = String::new()).contains("reason"));
        assert!(refused(&|bad| bad.reason = "a\nb".to_owned()).contains("reason"));
    }

    #[test]
    fn they_read_back_what_they_write() {
        let made = one(true, "/acme/shop", "spiffe://example.org/b/db", Some(443));
        let text = serde_json::to_string(&made).unwrap();
        assert_eq!(serde_json::from_str::<Override>(&text).unwrap(), made);
        for text in ["", "acme", "/a b", "spiffe://", "spiffe://example.org", "**"] {
            assert!(text.parse::<Whom>().is_err(), "{text:?}");
        }
    }
}
