//! Which policies could apply to a request, found by the scope they are written with.
//!
//! A policy's head names at most one entity for the caller and one for the callee: a workload, a
//! namespace, or none. A request can satisfy only heads that name its own two workloads and the
//! namespaces above them, a few dozen keys, whatever the size of the set. Cedar still evaluates
//! the whole of every candidate: the index only leaves out what cannot match.

use std::collections::HashMap;

use cedar_policy::{EntityUid, PolicySet as CedarSet};

use super::dependencies::Reads;
use super::error::PolicyError;
use super::request::{End, Ends};
use super::rule::{Effect, Rule};
use crate::identity::Namespace;

/// What one side of a head names; none for any workload.
type Key = Option<EntityUid>;

/// Policies with the same head and effect, as Cedar takes them.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub permits: CedarSet,
    pub forbids: CedarSet,
    pub permit_reads: Reads,
    pub forbid_reads: Reads,
}

#[derive(Debug, Default)]
struct Heads(HashMap<Key, HashMap<Key, Bucket>>);

/// All policies of a set, by owner and head.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_scope: HashMap<Namespace, Heads>,
}

/// A bucket that a request reaches, and which of its effects the owner's scope lets through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub bucket: &'a Bucket,
    pub permits_apply: bool,
}

impl Index {
    /// Sorts the rules into their buckets.
    pub fn build(rules: &[Rule]) -> Result<Self, PolicyError> {
        let mut index = Self::default();
        for rule in rules {
            let heads = index.by_scope.entry(rule.scope.clone()).or_default();
            let callers = heads.0.entry(rule.caller_scope()).or_default();
            callers.entry(rule.callee_scope()).or_default().add(rule)?;
        }
        Ok(index)
    }

    /// Every bucket that could hold a policy which applies.
    pub fn candidates<'a>(&'a self, ends: &Ends) -> Vec<Candidate<'a>> {
        let (callers, callees) = (keys(&ends.caller), keys(&ends.callee));
        let mut found = Vec::new();
        for (heads, permits_apply) in self.scopes(ends) {
            for by_callee in callers.iter().filter_map(|key| heads.0.get(key)) {
                let buckets = callees.iter().filter_map(|key| by_callee.get(key));
                found.extend(buckets.map(|bucket| Candidate { bucket, permits_apply }));
            }
        }
        found
    }

    /// The owners above either end; a permit needs its owner above both.
    fn scopes<'a>(&'a self, ends: &Ends) -> impl Iterator<Item = (&'a Heads, bool)> {
        let (caller, callee) = (&ends.caller.scopes, &ends.callee.scopes);
        let of_caller = caller.iter().map(|owner| (owner, callee.contains(owner)));
        let of_callee_only = callee.iter().filter(|owner| !caller.contains(owner));
        of_caller
            .chain(of_callee_only.map(|owner| (owner, false)))
            .filter_map(|(owner, both)| self.by_scope.get(owner).map(|heads| (heads, both)))
    }
}

impl Candidate<'_> {
    /// What its policies read, as far as they apply.
    pub fn reads(&self) -> Reads {
        let permits = if self.permits_apply { self.bucket.permit_reads } else { Reads::default() };
        self.bucket.forbid_reads.or(permits)
    }
}

impl Bucket {
    fn add(&mut self, rule: &Rule) -> Result<(), PolicyError> {
        let (set, reads) = match rule.effect {
            Effect::Permit => (&mut self.permits, &mut self.permit_reads),
            Effect::Forbid => (&mut self.forbids, &mut self.forbid_reads),
        };
        *reads = reads.or(rule.reads);
        set.add(rule.policy.clone()).map_err(|error| rule.finding(error.to_string()))
    }
}

fn keys(end: &End) -> Vec<Key> {
    let named = std::iter::once(&end.workload).chain(&end.namespaces).cloned().map(Some);
    std::iter::once(None).chain(named).collect()
}
