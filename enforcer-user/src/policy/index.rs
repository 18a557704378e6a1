//! Which policies could apply to a request, found by the scope they are written with.
//!
//! A policy's head names at most one entity for the caller and one for the callee: a workload, a
//! namespace, or none. A request can satisfy only heads that name its own two workloads and the
//! namespaces above them, a few dozen keys, whatever the size of the set. The whole of every candidate
//! is still evaluated: the index only leaves out what cannot match.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::PolicySet as CedarSet;

use super::asked::Words;
use super::compile::compile;
use super::dependencies::Reads;
use super::error::PolicyError;
use super::native::Test;
use super::request::{End, Ends};
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
    /// Those that are not always in force.
    timed: Vec<usize>,
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

/// All policies of a set, by the namespace of their file and their head.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_scope: HashMap<Box<str>, Heads>,
    /// Bounds (`@bounds`): by the namespace that they bound, then by the namespace of their file.
    bounds: HashMap<Box<str>, BTreeMap<Box<str>, Heads>>,
    pub words: Words,
    /// Rules that are Cedar's to evaluate.
    pub foreign: usize,
}

/// Everything that could hold a policy which applies to a request.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    pub rules: Vec<&'a Bucket>,
    pub bounds: Vec<Bound<'a>>,
}

/// What the files of one namespace let another one below permit.
#[derive(Debug)]
pub(super) struct Bound<'a> {
    /// The namespace of the files.
    pub by: &'a str,
    /// The namespace whose permits, and those below, count only within.
    pub of: &'a str,
    pub buckets: Vec<&'a Bucket>,
}

impl Index {
    /// Sorts the rules into their buckets.
    pub fn build(rules: &[Rule]) -> Result<Self, PolicyError> {
        let mut index = Self::default();
        for rule in rules {
            let scope = rule.scope.as_str().into();
            let heads = match &rule.annotations.bounds {
                None => index.by_scope.entry(scope).or_default(),
                Some(of) => {
                    let of = index.bounds.entry(of.as_str().into()).or_default();
                    of.entry(scope).or_default()
                }
            };
            let callers = heads.named(rule.caller());
            let native = callers.named(rule.callee()).add(rule, &mut index.words)?;
            index.foreign += usize::from(!native);
        }
        Ok(index)
    }

    /// Everything that could apply: what stands in files that govern the end which is asked.
    pub fn candidates<'a>(&'a self, ends: &'a Ends<'_>) -> Candidates<'a> {
        let scopes = || ends.asked().scopes();
        let rules = scopes().filter_map(|scope| self.by_scope.get(scope));
        let bound = |of| {
            let by = self.bounds.get(of).into_iter().flatten();
            by.map(move |(by, heads)| Bound { by, of, buckets: heads.buckets(ends).collect() })
        };
        Candidates {
            rules: rules.flat_map(|heads| heads.buckets(ends)).collect(),
            bounds: scopes().flat_map(bound).collect(),
        }
    }
}

impl Candidates<'_> {
    /// What their policies read.
    pub fn reads(&self) -> Reads {
        let both = |bucket: &Bucket| bucket.permits.reads.or(bucket.forbids.reads);
        self.buckets().map(both).fold(Reads::default(), Reads::or)
    }

    /// Those that are not always in force.
    pub fn timed(&self) -> impl Iterator<Item = usize> {
        self.buckets()
            .flat_map(|bucket| bucket.permits.timed.iter().chain(&bucket.forbids.timed))
            .copied()
    }

    /// Whether some are Cedar's to evaluate.
    pub fn needs_cedar(&self) -> bool {
        self.buckets()
            .any(|bucket| !bucket.permits.foreign.is_empty() || !bucket.forbids.foreign.is_empty())
    }

    fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        let bounds = self.bounds.iter().flat_map(|bound| &bound.buckets);
        self.rules.iter().chain(bounds).copied()
    }
}

impl Heads {
    /// All that the two ends could pass.
    fn buckets<'a>(&'a self, ends: &'a Ends<'_>) -> impl Iterator<Item = &'a Bucket> {
        self.reached(&ends.caller).flat_map(|by_callee| by_callee.reached(&ends.callee))
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
        if rule.annotations.active.is_some() {
            rules.timed.push(rule.number);
        }
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
