//! Which policies could apply to a request, found by the scope they are written with.
//!
//! A policy's head names at most one entity for the caller and one for the callee: a workload, a
//! namespace, or none. A request can satisfy only heads that name its own two workloads and the
//! namespaces above them, a few dozen keys, whatever the size of the set. The whole of every candidate
//! is still evaluated: the index only leaves out what cannot match.

use std::collections::HashMap;

use cedar_policy::PolicySet as CedarSet;

use super::asked::Words;
use super::compile::compile;
use super::dependencies::Reads;
use super::error::PolicyError;
use super::native::Test;
use super::request::{End, Ends, is_below};
use super::rule::{Effect, Head, Rule};

/// Policies with the same head.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub permits: Rules,
    pub forbids: Rules,
}

/// Policies of one head and effect.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Those that need no Cedar.
    native: Vec<Native>,
    /// The parts of their conditions, side by side: many alike are read from front to back.
    parts: Vec<Test>,
    /// The others, as Cedar takes them.
    pub foreign: CedarSet,
    pub reads: Reads,
}

/// A rule that needs no Cedar.
#[derive(Debug)]
struct Native {
    number: usize,
    /// Its parts, which must all hold, end here and begin where those of the rule before end.
    end: usize,
}

/// Something by what one side of a head names.
#[derive(Debug)]
struct Keyed<V> {
    any: Option<V>,
    namespaces: HashMap<Box<str>, V>,
    workloads: HashMap<Box<str>, V>,
}

type Heads = Keyed<Keyed<Bucket>>;

/// All policies of a set, by owner and head.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_scope: HashMap<Box<str>, Heads>,
    pub words: Words,
    /// Rules that are Cedar's to evaluate.
    pub foreign: usize,
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
            let heads = index.by_scope.entry(rule.scope.as_str().into()).or_default();
            let callers = heads.named(rule.caller());
            let native = callers.named(rule.callee()).add(rule, &mut index.words)?;
            index.foreign += usize::from(!native);
        }
        Ok(index)
    }

    /// Every bucket that could hold a policy which applies.
    pub fn candidates<'a>(&'a self, ends: &'a Ends<'_>) -> Vec<Candidate<'a>> {
        let mut found = Vec::new();
        for (heads, permits_apply) in self.scopes(ends) {
            for by_callee in heads.reached(&ends.caller) {
                let buckets = by_callee.reached(&ends.callee);
                found.extend(buckets.map(|bucket| Candidate { bucket, permits_apply }));
            }
        }
        found
    }

    /// The owners above either end; a permit needs its owner above both.
    fn scopes<'a>(&'a self, ends: &'a Ends<'_>) -> impl Iterator<Item = (&'a Heads, bool)> {
        let (caller, callee) = (ends.caller.namespace, ends.callee.namespace);
        let of_caller = ends.caller.scopes().map(|owner| (owner, is_below(callee, owner)));
        let of_callee_only = ends.callee.scopes().filter(|owner| !is_below(caller, owner));
        of_caller
            .chain(of_callee_only.map(|owner| (owner, false)))
            .filter_map(|(owner, both)| self.by_scope.get(owner).map(|heads| (heads, both)))
    }
}

impl Candidate<'_> {
    /// What its policies read, as far as they apply.
    pub fn reads(&self) -> Reads {
        let permits = if self.permits_apply { self.bucket.permits.reads } else { Reads::default() };
        self.bucket.forbids.reads.or(permits)
    }

    /// Whether some that apply are Cedar's to evaluate.
    pub fn needs_cedar(&self) -> bool {
        !self.bucket.forbids.foreign.is_empty()
            || (self.permits_apply && !self.bucket.permits.foreign.is_empty())
    }
}

impl Bucket {
    /// Whether the rule needs no Cedar.
    fn add(&mut self, rule: &Rule, words: &mut Words) -> Result<bool, PolicyError> {
        let rules = match rule.effect {
            Effect::Permit => &mut self.permits,
            Effect::Forbid => &mut self.forbids,
        };
        rules.reads = rules.reads.or(rule.reads);
        if let Some(test) = compile(&rule.policy, words) {
            rules.add(test, rule.number);
            return Ok(true);
        }
        let added = rules.foreign.add(rule.policy.clone());
        added.map(|()| false).map_err(|error| rule.finding(error.to_string()))
    }
}

impl Rules {
    fn add(&mut self, test: Test, number: usize) {
        match test {
            Test::All(parts) => self.parts.extend(parts),
            other => self.parts.push(other),
        }
        self.native.push(Native { number, end: self.parts.len() });
    }

    /// The number of each rule that needs no Cedar, and the parts of its condition.
    pub fn native(&self) -> impl Iterator<Item = (usize, &[Test])> {
        let mut rest = self.parts.as_slice();
        let mut begin = 0;
        self.native.iter().map_while(move |rule| {
            let (parts, behind) = rest.split_at_checked(rule.end - begin)?;
            (rest, begin) = (behind, rule.end);
            Some((rule.number, parts))
        })
    }
}

impl<V> Default for Keyed<V> {
    fn default() -> Self {
        Self { any: None, namespaces: HashMap::new(), workloads: HashMap::new() }
    }
}

impl<V: Default> Keyed<V> {
    fn named(&mut self, head: Head) -> &mut V {
        match head {
            Head::Namespace(path) => self.namespaces.entry(path).or_default(),
            Head::Workload(spiffe_id) => self.workloads.entry(spiffe_id).or_default(),
            // What names neither passes no request: Cedar says so each time.
            Head::Any | Head::Other(_) => self.any.get_or_insert_default(),
        }
    }
}

impl<V> Keyed<V> {
    /// All that a workload could pass.
    fn reached<'a>(&'a self, end: &'a End<'_>) -> impl Iterator<Item = &'a V> {
        let namespaces = end.scopes().filter_map(|path| self.namespaces.get(path));
        let workload = self.workloads.get(end.spiffe_id.as_str());
        self.any.iter().chain(workload).chain(namespaces)
    }
}
