//! An immutable set of policies behind one `decide()`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy::{Authorizer, Policy, PolicySet as CedarSet, Response};

use super::annotations::Obligations;
use super::asked::{Asked, Missing};
use super::dependencies::Reads;
use super::error::{PolicyError, PolicyErrors};
use super::index::{Bound, Candidates, Index, Rules};
use super::names::nearest;
use super::native::all_hold;
use super::overrides::Override;
use super::parse::{self, Checked, Parsed, rule_of};
use super::request::{Ends, Question, Request, is_below};
use super::rule::Rule;
use super::source::SourceFile;

const SECONDS_A_MINUTE: i64 = 60;

/// Policies that were checked together; they never change.
#[derive(Debug)]
pub struct PolicySet {
    rules: Vec<Rule>,
    pub(super) labels: BTreeMap<String, usize>,
    index: Index,
    authorizer: Authorizer,
}

/// A rule that could not be evaluated, and why.
#[derive(Debug, Clone)]
pub struct RuleFailure<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// For example the label that was missing.
    pub message: Arc<str>,
}

/// A `permit` that goes beyond the bounds of its file.
#[derive(Debug, Clone)]
pub struct Outside<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The namespace whose files set the bounds.
    pub by: String,
    /// The namespace for which they are set.
    pub of: String,
}

/// May the caller connect to the callee, and because of what.
#[derive(Debug, Clone)]
pub struct Decision<'a> {
    /// True only when some `permit` holds, no `forbid` holds and no `forbid` failed.
    pub allow: bool,
    /// The rules that decided, in the order of their files: the permits that hold when allowed;
    /// the forbids that hold or failed when denied, or the permits that oblige to what cannot be
    /// done; none when nothing permits.
    pub rules: Vec<&'a Rule>,
    /// The rules that could not be evaluated. A `permit` among them did not permit, a `forbid` denied.
    pub failures: Vec<RuleFailure<'a>>,
    /// The permits that hold and did not count, because they go beyond what a file above lets theirs permit.
    pub outside: Vec<Outside<'a>>,
    /// The forbids that hold or failed and only observe: enforced, they would deny.
    pub observed: Vec<&'a Rule>,
    /// What the staged policy says, where it denies what is allowed.
    pub staged: Option<Box<Self>>,
    /// What decided over all rules; `rules` then tells what they say.
    pub overridden: Option<&'a Override>,
    /// Why the question could not be put at all; then it is denied.
    pub refused: Option<String>,
    /// The second (Unix time) at which the decision must be asked for again, because a policy that
    /// could take part reads the time (the next full minute) or begins or ceases to be in force
    /// (`@active`). None: it does not depend on the time.
    pub valid_until: Option<i64>,
    /// Whether a policy that took part reads the port. If none did, the decision holds for all ports.
    pub port_matters: bool,
}

/// What came of evaluating one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Holds,
    False,
    Failed(String),
}

impl PolicySet {
    /// Parses and validates the files; all of them or none.
    pub fn from_sources(files: &[SourceFile]) -> Result<Self, PolicyErrors> {
        Self::from_sources_after(None, files)
    }

    /// The same, taking over what stands in an earlier set in the same words: quicker, with the same outcome.
    pub fn from_sources_after(
        earlier: Option<&Self>,
        files: &[SourceFile],
    ) -> Result<Self, PolicyErrors> {
        let earlier = earlier.map(|set| Checked { rules: &set.rules, labels: &set.labels });
        let Parsed { rules, labels } = parse::parse(files, earlier)?;
        let index = Index::build(&rules)?;
        Ok(Self { rules, labels, index, authorizer: Authorizer::new() })
    }

    /// The rules in the order of their files and lines.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Number of rules whose conditions only Cedar can evaluate, each decision about them at many times
    /// the cost.
    #[must_use]
    pub fn left_to_cedar(&self) -> usize {
        self.index.foreign
    }

    /// Every label name that some rule uses; no other label needs to travel in a credential.
    #[must_use]
    pub fn labels_used(&self) -> BTreeSet<&str> {
        self.labels.keys().map(String::as_str).collect()
    }

    /// Warnings about labels that policies read, that nobody here carries, and that are nearly
    /// written as one that somebody carries. No errors: workloads of other hosts may carry them.
    #[must_use]
    pub fn label_warnings(&self, carried: &BTreeSet<&str>) -> Vec<PolicyError> {
        let unknown = self.labels.iter().filter(|(label, _)| !carried.contains(label.as_str()));
        let warning = |(label, first): (&String, &usize)| {
            let near = nearest(label, carried.iter().copied())?;
            let message = format!("no workload here carries the label {label:?}");
            Some(
                self.rules
                    .get(*first)?
                    .finding(message)
                    .with_help(format!("did you mean {near:?}?")),
            )
        };
        unknown.filter_map(warning).collect()
    }

    /// Warnings about bounds of namespaces for which there is no file: perhaps another one is meant.
    #[must_use]
    pub fn bounds_warnings(&self) -> Vec<PolicyError> {
        let warning = |rule: &Rule| {
            let of = rule.bounds()?;
            let is_bound = |other: &Rule| of.contains(other.scope());
            if self.rules.iter().any(is_bound) {
                return None;
            }
            let message = format!(
                "@bounds({:?}) bounds nothing: no file belongs to {of} or below",
                of.as_str()
            );
            let scopes = self.rules.iter().map(|other| other.scope().as_str());
            let near = nearest(of.as_str(), scopes).map(|near| format!("did you mean {near:?}?"));
            let help = near.unwrap_or_else(|| "check its name if there should be one".to_owned());
            Some(rule.finding(message).with_help(help))
        };
        self.rules.iter().filter_map(warning).collect()
    }

    /// Decides. What no rule permits is denied; an empty set denies everything.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Decision<'_> {
        let judged = Ends::new(request).and_then(|ends| {
            let candidates = self.index.candidates(&ends);
            let reads = candidates.reads();
            let foreign = candidates.needs_cedar();
            let question = foreign.then(|| Question::new(request, reads.time)).transpose()?;
            let asked = Asked::new(&self.index.words, request, &ends);
            Ok(Decision {
                valid_until: self.valid_until(&candidates, reads, request.unix_seconds),
                port_matters: reads.port,
                ..self.judge(&asked, question.as_ref(), &candidates)
            })
        });
        judged.unwrap_or_else(Decision::refuse)
    }

    fn valid_until(&self, candidates: &Candidates<'_>, reads: Reads, now: i64) -> Option<i64> {
        let edges = candidates.timed().filter_map(|number| self.rules.get(number)?.next_edge(now));
        let minute = reads.time.then(|| next_minute(now));
        edges.chain(minute).min()
    }

    /// Evaluates one policy that is not part of the set, for explanations.
    pub(super) fn try_alone(&self, policy: Policy, asked: &Question) -> Outcome {
        let Ok(alone) = CedarSet::from_policies([policy]) else {
            return Outcome::Failed("it does not stand alone".to_owned());
        };
        let response = self.authorizer.is_authorized(&asked.request, &alone, &asked.entities);
        let diagnostics = response.diagnostics();
        if let Some(error) = diagnostics.errors().next() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            return Outcome::Failed(error.inner().to_string());
        }
        if diagnostics.reason().next().is_some() { Outcome::Holds } else { Outcome::False }
    }

    /// Allowed or not and why; what the answer depends on is the caller's to add. There is a question
    /// to Cedar if some candidate needs it.
    fn judge(
        &self,
        asked: &Asked<'_>,
        question: Option<&Question>,
        candidates: &Candidates<'_>,
    ) -> Decision<'_> {
        let (mut forbids, mut permits) = (Findings::default(), Findings::default());
        for bucket in &candidates.rules {
            self.evaluate(&bucket.forbids, asked, question, &mut forbids);
            self.evaluate(&bucket.permits, asked, question, &mut permits);
        }
        let outside = self.keep_within(&candidates.bounds, asked, question, &mut permits);
        let observed = forbids.take_observing();
        let permitted = !forbids.any && !permits.holding.is_empty();
        let mut rules = if permitted { permits.holding } else { forbids.holding };
        if !permitted {
            rules.extend(forbids.failed.iter().map(|failure| failure.rule));
        }
        // Nothing encrypts yet: what must not travel in the clear does not travel.
        let allow = permitted && !rules.iter().any(|rule| rule.obligations().encrypt);
        if permitted && !allow {
            rules.retain(|rule| rule.obligations().encrypt);
        }
        rules.sort_by_key(|rule| rule.number);
        let mut failures = forbids.failed;
        failures.extend(permits.failed);
        failures.sort_by_key(|failure| failure.rule.number);
        Decision { allow, rules, failures, outside, observed, ..Decision::nothing() }
    }

    /// Takes permits away that count only within bounds of which none holds, and tells of each.
    fn keep_within<'a>(
        &'a self,
        bounds: &[Bound<'_>],
        asked: &Asked<'_>,
        question: Option<&Question>,
        permits: &mut Findings<'a>,
    ) -> Vec<Outside<'a>> {
        let mut outside = Vec::new();
        for bound in bounds {
            let is_bound = |rule: &Rule| is_below(rule.scope.as_str(), bound.of);
            if !permits.holding.iter().any(|rule| is_bound(rule)) {
                continue;
            }
            let mut found = Findings::default();
            for bucket in &bound.buckets {
                self.evaluate(&bucket.permits, asked, question, &mut found);
            }
            if found.holding.is_empty() {
                let taken = permits.holding.extract_if(.., |rule| is_bound(rule));
                outside.extend(taken.map(|rule| Outside {
                    rule,
                    by: bound.by.to_owned(),
                    of: bound.of.to_owned(),
                }));
                permits.failed.extend(found.failed);
            }
        }
        outside
    }

    /// Evaluates policies that all have one effect.
    fn evaluate<'a>(
        &'a self,
        rules: &Rules,
        asked: &Asked<'_>,
        question: Option<&Question>,
        found: &mut Findings<'a>,
    ) {
        for (number, parts) in rules.native() {
            let outcome = all_hold(parts, asked);
            if outcome != Ok(false) {
                let rule = self.rules.get(number);
                if in_force(rule, asked.unix_seconds) {
                    found.add_native(rule, outcome, asked);
                }
            }
        }
        if rules.foreign.is_empty() {
            return;
        }
        let Some(question) = question else {
            // A forbid that cannot be asked about denies.
            found.any = true;
            return;
        };
        let authorizer = &self.authorizer;
        let response =
            authorizer.is_authorized(&question.request, &rules.foreign, &question.entities);
        found.add(&self.rules, &response, asked.unix_seconds);
    }
}

impl Decision<'_> {
    /// What the permits that hold oblige to; nothing where something overrides them.
    #[must_use]
    pub fn obligations(&self) -> Obligations {
        let rules = self.rules.iter().filter(|_| self.overridden.is_none());
        rules.map(|rule| rule.obligations()).fold(Obligations::default(), Obligations::or)
    }

    fn refuse(message: String) -> Self {
        Self { refused: Some(message), ..Self::nothing() }
    }

    fn nothing() -> Self {
        Self {
            allow: false,
            rules: Vec::new(),
            failures: Vec::new(),
            outside: Vec::new(),
            observed: Vec::new(),
            staged: None,
            overridden: None,
            refused: None,
            valid_until: None,
            port_matters: false,
        }
    }
}

/// What became of the policies of one effect.
#[derive(Debug, Default)]
struct Findings<'a> {
    holding: Vec<&'a Rule>,
    failed: Vec<RuleFailure<'a>>,
    /// Labels that were missing, and what is said of each.
    missing: Vec<(Missing, Arc<str>)>,
    /// Whether any policy held or failed, whether or not its rule was found again.
    any: bool,
}

impl<'a> Findings<'a> {
    fn add_native(
        &mut self,
        rule: Option<&'a Rule>,
        outcome: Result<bool, Missing>,
        asked: &Asked<'_>,
    ) {
        self.any |= !matches!(outcome, Ok(false)) && is_enforced(rule);
        match outcome {
            Ok(false) => {}
            Ok(true) => self.holding.extend(rule),
            Err(missing) => {
                // One text, however many rules read the label.
                let known = self.missing.iter().find(|(known, _)| *known == missing);
                let message = known
                    .map_or_else(|| asked.message(missing).into(), |(_, text)| Arc::clone(text));
                if known.is_none() {
                    self.missing.push((missing, Arc::clone(&message)));
                }
                self.failed.extend(rule.map(|rule| RuleFailure { rule, message }));
            }
        }
    }

    /// Takes rules away that only observe.
    fn take_observing(&mut self) -> Vec<&'a Rule> {
        let observes = |rule: &Rule| rule.observes();
        let mut taken: Vec<&Rule> = self.holding.extract_if(.., |rule| observes(rule)).collect();
        let failed = self.failed.extract_if(.., |failure| observes(failure.rule));
        taken.extend(failed.map(|failure| failure.rule));
        taken.sort_by_key(|rule| rule.number);
        taken
    }

    fn add(&mut self, rules: &'a [Rule], response: &Response, now: i64) {
        let diagnostics = response.diagnostics();
        for id in diagnostics.reason() {
            let rule = rule_of(rules, id);
            if in_force(rule, now) {
                self.any |= is_enforced(rule);
                self.holding.extend(rule);
            }
        }
        for error in diagnostics.errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            let rule = rule_of(rules, error.policy_id());
            if in_force(rule, now) {
                self.any |= is_enforced(rule);
                let message = error.inner().to_string().into();
                self.failed.extend(rule.map(|rule| RuleFailure { rule, message }));
            }
        }
    }
}

/// A rule that is not found again counts: it may be a forbid.
fn in_force(rule: Option<&Rule>, now: i64) -> bool {
    rule.is_none_or(|rule| rule.is_active(now))
}

fn is_enforced(rule: Option<&Rule>) -> bool {
    rule.is_none_or(|rule| !rule.observes())
}

fn next_minute(now: i64) -> i64 {
    (now.div_euclid(SECONDS_A_MINUTE) + 1) * SECONDS_A_MINUTE
}
