//! Why a request is allowed or denied, and what would have to be different.

use std::fmt;

use cedar_policy::Policy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::facts::facts;
use super::overrides::Override;
use super::request::{Action, Ends, Question, Request};
use super::rule::{Effect, Head, Rule, RuleReference};
use super::set::{Outcome, Outside, PolicySet};
use crate::identity::Namespace;

/// The most rules shown that nearly permitted.
const MAX_NEAR_MISSES: usize = 3;
/// The most rules whose conditions are tried one by one.
const MAX_TRIED: usize = 64;
/// The most parts of one rule's conditions that are tried.
const MAX_PARTS: usize = 32;

/// The answer to "why".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whose end it is about.
    pub action: Action,
    /// The caller's SPIFFE ID.
    pub caller: String,
    /// The callee's SPIFFE ID.
    pub callee: String,
    /// The callee's port.
    pub port: u16,
    /// The protocol's name.
    pub protocol: String,
    /// The second it was asked for, Unix time.
    pub unix_seconds: i64,
    /// Whether it is allowed.
    pub allow: bool,
    /// Forbids that only observe: enforced, they would deny.
    #[serde(default)]
    pub observed: Vec<RuleReference>,
    /// What the staged policy says of it, where it denies what is allowed.
    #[serde(default)]
    pub staged: Option<Box<Self>>,
    /// What decided over all rules, and whether they would allow it.
    #[serde(default)]
    pub overridden: Option<(String, bool)>,
    /// The rules that decided: permits when allowed, forbids when denied; none when nothing permits.
    pub rules: Vec<RuleReference>,
    /// Rules that could not be evaluated.
    pub failures: Vec<Failure>,
    /// Why the question could not be put at all.
    pub refused: Option<String>,
    /// Permits that held and did not count, and why.
    #[serde(default)]
    pub outside: Vec<Failure>,
    /// What came nearest to keeping them within their bounds, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nearest_bounds: Vec<NearMiss>,
    /// When nothing permits: the rules that came nearest to it, nearest first.
    pub nearest: Vec<NearMiss>,
}

/// What one policy says at both ends of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BothEnds {
    /// The caller's: may it connect?
    pub connect: Explanation,
    /// The callee's: may it accept?
    pub accept: Explanation,
}

/// A rule that could not be evaluated: a `permit` did not permit, a `forbid` denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The rule.
    pub rule: RuleReference,
    /// Why, for example the missing label.
    pub message: String,
}

impl From<&Outside<'_>> for Failure {
    fn from(outside: &Outside<'_>) -> Self {
        let Outside { rule, by, of } = outside;
        let message = format!("it goes beyond the bounds that {by} sets for {of}");
        Self { rule: (*rule).into(), message }
    }
}

/// A `permit` that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleReference,
    /// Everything that kept it from holding.
    pub because: Vec<String>,
}

impl BothEnds {
    /// Whether both allow it.
    #[must_use]
    pub fn allow(&self) -> bool {
        self.connect.allow && self.accept.allow
    }

    /// Each end, once where both say the same.
    pub fn different(&self) -> impl Iterator<Item = &Explanation> {
        let Self { connect, accept } = self;
        let same = *connect == Explanation { action: connect.action, ..accept.clone() };
        std::iter::once(connect).chain((!same).then_some(accept))
    }
}

impl PolicySet {
    /// Decides as [`PolicySet::decide`], and says why.
    #[must_use]
    pub fn explain(&self, asked: &Request<'_>) -> Explanation {
        let decision = self.decide(asked);
        let nothing_permits = !decision.allow && decision.rules.is_empty();
        let ends = Ends::new(asked).ok().filter(|_| nothing_permits);
        let outside = &decision.outside;
        let is_permit = |rule: &Rule| {
            let counts = outside.iter().all(|one| !std::ptr::eq(one.rule, rule));
            rule.bounds().is_none() && counts
        };
        let is_bounds = |rule: &Rule| {
            let (of, by) = (rule.bounds().map(Namespace::as_str), rule.scope().as_str());
            outside.iter().any(|one| of == Some(&one.of) && by == one.by)
        };
        let ends = ends.as_ref();
        let nearest = ends.map(|ends| self.near_misses(asked, ends, is_permit)).unwrap_or_default();
        let nearest_bounds =
            ends.map(|ends| self.near_misses(asked, ends, is_bounds)).unwrap_or_default();
        let failures = decision.failures.iter().map(|failure| Failure {
            rule: failure.rule.into(),
            message: failure.message.to_string(),
        });
        Explanation {
            action: asked.action,
            caller: asked.caller.spiffe_id(),
            callee: asked.callee.spiffe_id(),
            port: asked.port,
            protocol: asked.protocol.to_string(),
            unix_seconds: asked.unix_seconds,
            allow: decision.allow,
            observed: decision.observed.iter().map(|rule| (*rule).into()).collect(),
            staged: None,
            overridden: None,
            rules: decision.rules.iter().map(|rule| (*rule).into()).collect(),
            failures: failures.collect(),
            refused: decision.refused,
            outside: decision.outside.iter().map(Failure::from).collect(),
            nearest_bounds,
            nearest,
        }
    }

    /// Of the permits that are meant, those that came nearest to hold.
    fn near_misses(
        &self,
        asked: &Request<'_>,
        ends: &Ends<'_>,
        is_meant: impl Fn(&Rule) -> bool,
    ) -> Vec<NearMiss> {
        let Ok(question) = Question::new(asked, true) else {
            return Vec::new();
        };
        let is_permit = |rule: &&Rule| rule.effect() == Effect::Permit && is_meant(rule);
        let permits = self.rules().iter().filter(is_permit);
        let mut heads: Vec<(usize, &Rule, Vec<String>)> = permits
            .map(|rule| (rule, head_misses(rule, asked, ends)))
            .map(|(rule, misses)| (misses.len(), rule, misses))
            .collect();
        heads.sort_by_key(|(misses, rule, _)| (*misses, rule.number));
        heads.truncate(MAX_TRIED);
        let mut tried: Vec<(usize, usize, NearMiss)> = heads
            .into_iter()
            .map(|(in_head, rule, mut because)| {
                because.extend(self.condition_misses(rule, asked, &question));
                (because.len(), in_head, NearMiss { rule: rule.into(), because })
            })
            .collect();
        tried.sort_by_key(|(all, in_head, _)| (*all, *in_head));
        tried.into_iter().map(|(_, _, miss)| miss).take(MAX_NEAR_MISSES).collect()
    }

    /// Tries each part of the rule's conditions alone; every part must hold for the rule to hold.
    fn condition_misses(
        &self,
        rule: &Rule,
        asked: &Request<'_>,
        question: &Question,
    ) -> Vec<String> {
        let Ok(written) = rule.policy.to_json() else {
            return vec!["its conditions cannot be taken apart".to_owned()];
        };
        let miss = |(kind, body): (&str, &Value)| {
            let policy = alone(kind, body)?;
            let text = condition_text(&policy);
            let values = facts(body, asked);
            let values =
                if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
            match self.try_alone(policy, question) {
                Outcome::Holds => None,
                Outcome::False => Some(format!("`{text}` does not hold{values}")),
                Outcome::Failed(error) if values.is_empty() => {
                    Some(format!("`{text}` cannot be evaluated: {error}"))
                }
                Outcome::Failed(_) => Some(format!("`{text}` cannot be evaluated{values}")),
            }
        };
        parts(&written).into_iter().filter_map(miss).collect()
    }
}

/// What in the rule's head the request does not meet.
fn head_misses(rule: &Rule, asked: &Request<'_>, ends: &Ends<'_>) -> Vec<String> {
    let mut misses = Vec::new();
    let (owner, end) = (rule.scope(), asked.asked());
    if !owner.contains(end.namespace()) {
        misses.push(format!("its file governs only workloads in {owner}, and {end} is none"));
    }
    if !rule.actions().contains(&asked.action) {
        misses.push(format!("its action is not {}", asked.action));
    }
    if !rule.is_active(asked.unix_seconds) {
        let written = rule.policy.annotation("active").unwrap_or_default();
        misses.push(format!("it is not in force now: @active({written:?})"));
    }
    let wanted = rule.caller();
    if !ends.caller.passes(&wanted) {
        misses.push(format!("the caller {} is not {}", asked.caller, wording(&wanted)));
    }
    let wanted = rule.callee();
    if !ends.callee.passes(&wanted) {
        misses.push(format!("the callee {} is not {}", asked.callee, wording(&wanted)));
    }
    misses
}

fn wording(wanted: &Head) -> String {
    match wanted {
        Head::Any => "anybody".to_owned(),
        Head::Namespace(path) => format!("in {path}"),
        Head::Workload(spiffe_id) => spiffe_id.to_string(),
        Head::Other(uid) => uid.id().unescaped().to_owned(),
    }
}

/// The parts that must all hold: `when { a && b }` is two, `unless { a || b }` is two.
fn parts(policy: &Value) -> Vec<(&str, &Value)> {
    let mut found = Vec::new();
    for condition in policy["conditions"].as_array().into_iter().flatten() {
        let kind = condition["kind"].as_str().unwrap_or("when");
        let joined_by = if kind == "unless" { "||" } else { "&&" };
        let mut open = vec![&condition["body"]];
        while let Some(body) = open.pop() {
            match body.get(joined_by) {
                Some(both) if found.len() + open.len() < MAX_PARTS => {
                    open.extend([&both["right"], &both["left"]]);
                }
                _ => found.push((kind, body)),
            }
        }
    }
    found
}

/// A policy of nothing but this condition.
fn alone(kind: &str, body: &Value) -> Option<Policy> {
    let any = json!({ "op": "All" });
    let policy = json!({
        "effect": "permit",
        "principal": any,
        "action": any,
        "resource": any,
        "conditions": [{ "kind": kind, "body": body }],
    });
    Policy::from_json(None, policy).ok()
}

/// The text of the one condition, as Cedar writes it.
fn condition_text(policy: &Policy) -> String {
    let text = policy.to_cedar().unwrap_or_default();
    let from = ["when", "unless"].into_iter().filter_map(|word| text.find(word)).min();
    let condition = from.and_then(|from| text.get(from..)).unwrap_or(&text);
    condition.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches(';').to_owned()
}

impl Explanation {
    /// Who, to whom and whether.
    fn headline(&self, allow: bool) -> String {
        let Self { caller, callee, port, protocol, .. } = self;
        format!("{}: {caller} -> {callee} port {port}/{protocol}", verdict(allow))
    }

    /// The same with what overrules it.
    pub(super) fn overridden_by(self, by: &Override) -> Self {
        Self { allow: by.allow, overridden: Some((by.to_string(), self.allow)), ..self }
    }

    /// Why, a line each; what belongs to the line before begins with two spaces.
    fn because(&self) -> Vec<String> {
        let mut lines = self.by_override_or_rules();
        if let Some(staged) = &self.staged {
            lines.push("the staged policy: deny".to_owned());
            lines.extend(staged.by_rules().into_iter().map(|line| format!("  {line}")));
        }
        lines
    }

    fn by_override_or_rules(&self) -> Vec<String> {
        let Some((by, otherwise)) = &self.overridden else { return self.by_rules() };
        let mut lines = vec![by.clone(), format!("without it: {}", verdict(*otherwise))];
        lines.extend(self.by_rules().into_iter().map(|line| format!("  {line}")));
        lines
    }

    fn by_rules(&self) -> Vec<String> {
        let allow = self.overridden.as_ref().map_or(self.allow, |(_, otherwise)| *otherwise);
        let mut lines = Vec::new();
        lines.extend(self.refused.iter().map(|refused| format!("it cannot be asked: {refused}")));
        lines.extend(self.rules.iter().map(|rule| {
            let verb = if rule.effect == Effect::Permit { "permitted" } else { "forbidden" };
            let but = if rule.effect == Effect::Permit && !allow { UNENCRYPTED } else { "" };
            format!("{verb} by {rule}{but}")
        }));
        if !allow && self.rules.is_empty() && self.refused.is_none() {
            lines.push("nothing permits it".to_owned());
        }
        lines.extend(
            self.observed
                .iter()
                .map(|rule| format!("would be forbidden by {rule}, which only observes")),
        );
        lines.extend(
            self.outside.iter().map(|outside| {
                format!("does not count: {}: {}", outside.rule.name, outside.message)
            }),
        );
        lines.extend(self.failures.iter().map(|failure| {
            format!("could not be evaluated: {}: {}", failure.rule.name, failure.message)
        }));
        let bounds = self.nearest_bounds.iter().map(|miss| ("bounds", miss));
        for (what, miss) in bounds.chain(self.nearest.iter().map(|miss| ("permit", miss))) {
            lines.push(format!("nearest {what}: {}", miss.rule));
            lines.extend(miss.because.iter().map(|because| format!("  {because}")));
        }
        lines
    }
}

/// Said of a permit that obliges to encryption.
pub const UNENCRYPTED: &str =
    ", which asks for encryption (@encrypt): this version has none, so it is refused";

fn verdict(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline(self.allow))?;
        self.because().iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl Explanation {
    /// Why, in one line: for a log.
    #[must_use]
    pub fn line(&self) -> String {
        let lines = self.because();
        let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
        lines.join("; ")
    }
}

impl fmt::Display for BothEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends: Vec<&Explanation> = self.different().collect();
        if let [one] = ends.as_slice() {
            return one.fmt(f);
        }
        f.write_str(&self.connect.headline(self.allow()))?;
        for end in ends {
            let whose = match end.action {
                Action::Connect => "caller",
                Action::Accept => "callee",
            };
            write!(f, "\n  the {whose}'s end ({}): {}", end.action, verdict(end.allow))?;
            end.because().iter().try_for_each(|line| write!(f, "\n    {line}"))?;
        }
        Ok(())
    }
}
