//! Policies as their authors meet them: decisions, refusals, and properties over random sets.

mod decisions;
mod delegation;
mod documentation;
mod explanations;
mod loading;
mod properties;
mod reloading;
mod whole;

use super::{Action, Policy, PolicyErrors, PolicySet, Protocol, Request, SourceFile};
use crate::identity::Identity;

/// 2026-03-02, a Monday, 10:30:20 UTC.
pub(super) const MONDAY: i64 = 1_772_447_420;

fn set(text: &str) -> PolicySet {
    try_set(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// A policy of one file.
pub(super) fn set_of(text: &str) -> Policy {
    Policy::from_sources(&[SourceFile::new("test.cedar", text)], Vec::new()).unwrap()
}

fn try_set(text: &str) -> Result<PolicySet, PolicyErrors> {
    PolicySet::from_sources(&[SourceFile::new("test.cedar", text)])
}

/// What begins with `@` is no label: `@image`, `@node.zone`.
pub(super) fn workload(path: &str, labels: &[(&str, &str)]) -> Identity {
    let (namespace, name) = path.rsplit_once('/').unwrap();
    let namespace = if namespace.is_empty() { "/" } else { namespace };
    let (others, labels): (Vec<_>, Vec<_>) =
        labels.iter().partition(|(name, _)| name.starts_with('@'));
    let owned = |(k, v): (&str, &str)| (k.trim_start_matches('@').to_owned(), v.to_owned());
    let labels = labels.into_iter().map(owned).collect();
    let identity = Identity::new("example.org", namespace.parse().unwrap(), name, labels).unwrap();
    identity.described(&others.into_iter().map(owned).collect()).unwrap()
}

pub(super) fn tcp<'a>(caller: &'a Identity, callee: &'a Identity, port: u16) -> Request<'a> {
    let (action, protocol) = (Action::Connect, Protocol::TCP);
    Request { action, caller, callee, port, protocol, unix_seconds: MONDAY }
}

/// Whether both ends allow it.
fn both_allow(set: &PolicySet, asked: &Request<'_>) -> bool {
    Action::ALL.into_iter().all(|action| set.decide(&Request { action, ..*asked }).allow)
}
