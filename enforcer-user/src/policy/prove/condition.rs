//! The condition of a question: one clause of Cedar, checked and asked as any policy's.

use super::super::error::PolicyError;
use super::super::source::SourceFile;
use super::{Action, Policy, Request};

/// What a question asks for beside who and where.
#[derive(Debug)]
pub(super) struct Condition(Policy);

impl Condition {
    /// Reads and checks it.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let wrong = |said: &str| {
            PolicyError::general(format!("the condition `{text}`: {said}"))
                .with_help("expected one in Cedar, such as 'resource.labels.tier == \"db\"'")
        };
        let rule = format!("permit(principal, action, resource) when {{ {text}\n}};");
        let files = [SourceFile::new("condition", rule)];
        let policy = Policy::from_sources(&files, Vec::new()).map_err(|errors| {
            match errors.findings().first() {
                Some(error) => wrong(&error.message),
                None => wrong("it is none"),
            }
        })?;
        // What closes the clause and opens another is more than a condition.
        let [rule] = policy.set().rules() else {
            return Err(wrong("it is more than one condition"));
        };
        let clauses = rule.policy.to_json().ok();
        let clauses = clauses.as_ref().and_then(|json| json.get("conditions")?.as_array());
        if clauses.is_none_or(|clauses| clauses.len() != 1) {
            return Err(wrong("it is more than one condition"));
        }
        Ok(Self(policy))
    }

    /// As rules.
    pub fn policy(&self) -> &Policy {
        &self.0
    }

    /// Whether it holds; one that reads a label that is missing does not.
    pub fn holds(&self, request: &Request<'_>) -> bool {
        self.0.decide(&Request { action: Action::Connect, ..*request }).allow
    }
}
