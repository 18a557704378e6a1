//! One policy of a set: its name, its place, and what it reads.

use std::fmt;

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use serde::{Deserialize, Serialize, Serializer};

use super::annotations::{Annotations, Obligations};
use super::dependencies::Reads;
use super::error::PolicyError;
use super::request::Action;
use super::schema;
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

/// BLAKE3 of a policy's text.
pub(super) type TextHash = [u8; 32];

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
    /// The labels that it reads.
    pub(super) labels: Box<[String]>,
    /// What is written in front of it.
    pub(super) annotations: Annotations,
    /// Of its text, if it was checked by itself.
    pub(super) text: Option<TextHash>,
    pub(super) policy: Policy,
}

impl Rule {
    /// Its place among the rules of its set, from 0.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

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

    /// The namespace whose files it keeps from permitting more (`@bounds`).
    #[must_use]
    pub fn bounds(&self) -> Option<&Namespace> {
        self.annotations.bounds.as_ref()
    }

    /// The namespace whose file it stands in.
    #[must_use]
    pub fn scope(&self) -> &Namespace {
        &self.scope
    }

    /// What the head names for the caller.
    pub(super) fn caller(&self) -> Head {
        match self.policy.principal_constraint() {
            PrincipalConstraint::In(uid)
            | PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::IsIn(_, uid) => Head::of(uid),
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => Head::Any,
        }
    }

    /// What the head names for the callee.
    pub(super) fn callee(&self) -> Head {
        match self.policy.resource_constraint() {
            ResourceConstraint::In(uid)
            | ResourceConstraint::Eq(uid)
            | ResourceConstraint::IsIn(_, uid) => Head::of(uid),
            ResourceConstraint::Any | ResourceConstraint::Is(_) => Head::Any,
        }
    }

    /// Whether it is in force at this second (Unix time).
    #[must_use]
    pub fn is_active(&self, unix_seconds: i64) -> bool {
        self.annotations.active.as_ref().is_none_or(|active| active.holds(unix_seconds))
    }

    /// The next second (Unix time) at which it may begin or cease to be in force.
    pub(super) fn next_edge(&self, unix_seconds: i64) -> Option<i64> {
        self.annotations.active.as_ref()?.next_edge(unix_seconds)
    }

    /// Whether it only tells what it would deny (`@mode("observe")`).
    #[must_use]
    pub fn observes(&self) -> bool {
        self.annotations.observes
    }

    /// What it asks for beside its answer.
    #[must_use]
    pub fn obligations(&self) -> Obligations {
        self.annotations.obligations
    }

    /// The actions that its head lets pass.
    pub(super) fn actions(&self) -> Vec<Action> {
        let named = match self.policy.action_constraint() {
            ActionConstraint::Any => return Action::ALL.to_vec(),
            ActionConstraint::Eq(action) => vec![action],
            ActionConstraint::In(actions) => actions,
        };
        let is_named = |action: &Action| named.contains(schema::action_uid(*action));
        Action::ALL.into_iter().filter(is_named).collect()
    }

    pub(super) fn finding(&self, message: impl Into<String>) -> PolicyError {
        let (file, message) = (self.file.clone(), message.into());
        PolicyError { file, line: self.line, column: 0, message, help: None }
    }
}

/// The one entity that a side of a policy's head names: who passes is it or is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Head {
    /// None: anybody passes.
    Any,
    /// A namespace, by its path.
    Namespace(Box<str>),
    /// A workload, by its SPIFFE ID.
    Workload(Box<str>),
    /// Something that no workload is or is in.
    Other(Box<EntityUid>),
}

impl Head {
    fn of(uid: EntityUid) -> Self {
        if schema::is_namespace(&uid) {
            Self::Namespace(uid.id().unescaped().into())
        } else if schema::is_workload(&uid) {
            Self::Workload(uid.id().unescaped().into())
        } else {
            Self::Other(Box::new(uid))
        }
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
