//! One policy of a set: its name, its place, and what it reads.

use std::collections::BTreeSet;
use std::fmt;

use cedar_policy::{EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::error::PolicyError;
use crate::identity::Namespace;

/// Whether a rule opens or closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Opens, unless a `forbid` closes.
    Permit,
    /// Closes, whatever permits.
    Forbid,
}

/// A policy as the rest of the enforcer knows it.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) number: usize,
    pub(super) name: String,
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) reason: Option<String>,
    pub(super) effect: Effect,
    pub(super) scope: Namespace,
    pub(super) reads: Reads,
    pub(super) policy: Policy,
}

impl Rule {
    /// The `@id` annotation, or `file:line`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file it was read from.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line it begins at, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// The `@reason` annotation.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whether it permits or forbids.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// The namespace whose file it stands in.
    #[must_use]
    pub fn scope(&self) -> &Namespace {
        &self.scope
    }

    /// The one entity that the caller must be or be in; none when the scope lets any caller pass.
    pub(super) fn caller_scope(&self) -> Option<EntityUid> {
        match self.policy.principal_constraint() {
            PrincipalConstraint::In(uid)
            | PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::IsIn(_, uid) => Some(uid),
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
        }
    }

    /// The one entity that the callee must be or be in; none when the scope lets any callee pass.
    pub(super) fn callee_scope(&self) -> Option<EntityUid> {
        match self.policy.resource_constraint() {
            ResourceConstraint::In(uid)
            | ResourceConstraint::Eq(uid)
            | ResourceConstraint::IsIn(_, uid) => Some(uid),
            ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
        }
    }

    pub(super) fn finding(&self, message: impl Into<String>) -> PolicyError {
        let (file, message) = (self.file.clone(), message.into());
        PolicyError { file, line: self.line, column: 0, message, help: None }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RuleReference::from(self).serialize(serializer)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RuleReference::from(self).fmt(f)
    }
}

/// A rule as it is told of: in log lines, denials and over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReference {
    /// The `@id` annotation, or `file:line`.
    pub name: String,
    /// Whether it permits or forbids.
    pub effect: Effect,
    /// The file it was read from.
    pub file: String,
    /// The line it begins at, from 1.
    pub line: usize,
    /// The `@reason` annotation.
    pub reason: Option<String>,
}

impl From<&Rule> for RuleReference {
    fn from(rule: &Rule) -> Self {
        Self {
            name: rule.name.clone(),
            effect: rule.effect,
            file: rule.file.clone(),
            line: rule.line,
            reason: rule.reason.clone(),
        }
    }
}

impl fmt::Display for RuleReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let place = format!("{}:{}", self.file, self.line);
        if self.name != place {
            write!(f, " ({place})")?;
        }
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// What a policy's conditions read, besides the two workloads. Errs towards too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads {
    /// `context.port`.
    pub port: bool,
    /// `context.time`.
    pub time: bool,
}

impl Reads {
    const ALL: Self = Self { port: true, time: true };

    /// What either of the two reads.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { port: self.port || other.port, time: self.time || other.time }
    }
}

/// What a policy's text depends on.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    pub reads: Reads,
    pub labels: BTreeSet<String>,
    /// Whether labels are used in a way that does not say which.
    pub unnamed_labels: bool,
}

/// Finds the context attributes and labels that a policy names.
///
/// A context that is used otherwise than by the name of an attribute counts as read in whole.
/// Identifiers cannot be written with escapes, so a text with neither word nor escape is not looked at.
pub(super) fn dependencies(policy: &Policy) -> Dependencies {
    let mut found = Dependencies::default();
    let text = policy.to_cedar().unwrap_or_default();
    if ["context", "labels", "\\"].into_iter().any(|word| text.contains(word)) {
        match policy.to_json() {
            Ok(json) => walk(&json, &mut found),
            Err(_) => {
                found = Dependencies {
                    reads: Reads::ALL,
                    unnamed_labels: true,
                    ..Dependencies::default()
                }
            }
        }
    }
    found
}

/// Walks Cedar's JSON policy form ("JSON policy format", Cedar reference manual).
fn walk(node: &Value, found: &mut Dependencies) {
    match node {
        Value::Object(fields) => {
            for (operator, operand) in fields {
                match operator.as_str() {
                    "." => walk_access(operand, found),
                    "has" => walk_has(operand, found),
                    "Var" if operand == "context" => found.reads = Reads::ALL,
                    _ => walk(operand, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        _ => {}
    }
}

/// `left.attribute`.
fn walk_access(operand: &Value, found: &mut Dependencies) {
    let (left, attribute) = (&operand["left"], operand["attr"].as_str().unwrap_or_default());
    // Reached here and not through the label's own access: the labels go elsewhere as a whole.
    found.unnamed_labels |= attribute == "labels";
    walk_named(left, attribute, found);
}

/// `left has attribute`, or `left has first.second`.
fn walk_has(operand: &Value, found: &mut Dependencies) {
    let left = &operand["left"];
    match &operand["attr"] {
        Value::String(attribute) => walk_named(left, attribute, found),
        Value::Array(path) => {
            let path: Vec<&str> = path.iter().filter_map(Value::as_str).collect();
            for pair in path.windows(2).filter(|pair| pair[0] == "labels") {
                found.labels.insert(pair[1].to_owned());
            }
            walk_named(left, path.first().copied().unwrap_or_default(), found);
        }
        _ => walk(operand, found),
    }
}

/// Notes an attribute of the context or a label; anything else on the left is walked.
fn walk_named(left: &Value, attribute: &str, found: &mut Dependencies) {
    if left["Var"] == "context" {
        found.reads.port |= attribute == "port";
        found.reads.time |= attribute == "time";
    } else if left["."]["attr"] == "labels" {
        found.labels.insert(attribute.to_owned());
        walk(&left["."]["left"], found);
    } else {
        walk(left, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(condition: &str) -> Dependencies {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        dependencies(&Policy::parse(None, text).unwrap())
    }

    #[test]
    fn what_a_condition_reads_is_found_in_every_spelling() {
        let (none, port) = (Reads::default(), Reads { port: true, time: false });
        let time = Reads { port: false, time: true };
        for (condition, reads) in [
            ("principal.name == \"context.port\"", none),
            ("context.protocol == \"tcp\"", none),
            ("context.port == 80", port),
            ("context[\"port\"] == 80", port),
            ("context[\"p\\u{6f}rt\"] == 80", port),
            ("context has port", port),
            ("if context.protocol == \"tcp\" then context.port < 9 else false", port),
            ("context.time < datetime(\"2030-01-01\")", time),
            ("context.time.toTime() > duration(\"1h\")", time),
            ("[context.port].contains(3) && context.time == context.time", Reads::ALL),
            ("context == context", Reads::ALL),
            ("{\"a\": context}.a.port == 80", Reads::ALL),
            ("context has port.value", port),
        ] {
            assert_eq!(of(condition).reads, reads, "{condition}");
        }
    }

    #[test]
    fn labels_are_found_in_every_spelling() {
        for (condition, labels) in [
            ("principal.labels.tier == \"front\"", vec!["tier"]),
            ("resource[\"labels\"][\"app/name\"] like \"*\"", vec!["app/name"]),
            ("principal.labels has zone", vec!["zone"]),
            ("principal has labels.team", vec!["team"]),
            ("(if true then principal else resource).labels.a == \"labels.b\"", vec!["a"]),
            ("principal.labels.b == resource.labels.a", vec!["a", "b"]),
            ("principal[\"l\\u{61}bels\"] has x", vec!["x"]),
            ("principal.name == \"labels\"", vec![]),
        ] {
            let found = of(condition);
            assert_eq!(found.labels.into_iter().collect::<Vec<_>>(), labels, "{condition}");
            assert!(!found.unnamed_labels, "{condition}");
        }
    }

    #[test]
    fn labels_that_go_elsewhere_as_a_whole_are_noticed() {
        for condition in [
            "principal.labels == resource.labels",
            "(if true then principal.labels else resource.labels) has tier",
            "{\"a\": principal.labels}.a.tier == \"front\"",
            "[principal.labels].contains(resource.labels)",
        ] {
            assert!(of(condition).unnamed_labels, "{condition}");
        }
    }
}
