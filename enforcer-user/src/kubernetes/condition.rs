//! Conditions of Cedar's, put together as text.

use std::fmt;

use super::selector::{Requirement, Selector, Test};
use crate::policy::quoted;

/// One of the workloads of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    Callee,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller => "principal",
            Self::Callee => "resource",
        })
    }
}

/// What a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Always,
    Never,
    /// Stands by itself or in brackets.
    Text(String),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "true",
            Self::Never => "false",
            Self::Text(text) => text,
        })
    }
}

impl From<String> for Condition {
    fn from(text: String) -> Self {
        match text.as_str() {
            "true" => Self::Always,
            "false" => Self::Never,
            _ => Self::Text(text),
        }
    }
}

/// All of them hold.
pub(super) fn all(parts: impl IntoIterator<Item = Condition>) -> Condition {
    joined(parts, " && ", &Condition::Always, Condition::Never)
}

/// At least one of them holds.
pub(super) fn any(parts: impl IntoIterator<Item = Condition>) -> Condition {
    joined(parts, " || ", &Condition::Never, Condition::Always)
}

fn joined(
    parts: impl IntoIterator<Item = Condition>,
    with: &str,
    nothing: &Condition,
    everything: Condition,
) -> Condition {
    let mut texts = Vec::new();
    for part in parts {
        match part {
            part if part == everything => return everything,
            Condition::Text(text) => texts.push(text),
            _ => {}
        }
    }
    match texts.as_slice() {
        [] => nothing.clone(),
        [one] => Condition::Text(one.clone()),
        _ => Condition::Text(format!("({})", texts.join(with))),
    }
}

impl Condition {
    /// It does not hold.
    pub(super) fn not(self) -> Self {
        match self {
            Self::Always => Self::Never,
            Self::Never => Self::Always,
            Self::Text(text) => Self::Text(format!("!({text})")),
        }
    }

    pub(super) fn namespace_is_one_of(side: Side, namespaces: &[String]) -> Self {
        let literals: Vec<String> =
            namespaces.iter().map(|path| format!("Namespace::{}", quoted(path))).collect();
        Self::Text(match literals.as_slice() {
            [] => return Self::Never,
            [one] => format!("{side}.namespace == {one}"),
            several => format!("[{}].contains({side}.namespace)", several.join(", ")),
        })
    }

    pub(super) fn name_is_one_of(side: Side, names: &[&str]) -> Self {
        Self::Text(match names {
            [] => return Self::Never,
            [one] => format!("{side}.name == {}", quoted(one)),
            names => format!("{}.contains({side}.name)", list(names)),
        })
    }

    /// Both ends of the span belong to it.
    pub(super) fn port_within(first: u16, last: u16) -> Self {
        Self::Text(if first == last {
            format!("context.port == {first}")
        } else {
            format!("(context.port >= {first} && context.port <= {last})")
        })
    }
}

impl Selector {
    /// The labels of that side are selected.
    pub(super) fn condition(&self, side: Side) -> Condition {
        all(self.requirements().iter().map(|requirement| requirement.condition(side)))
    }
}

impl Requirement {
    fn condition(&self, side: Side) -> Condition {
        let key = quoted(&self.key);
        let has = format!("{side}.labels has {key}");
        let is_one = |values: &[String]| match values {
            [one] => format!("{side}.labels[{key}] == {}", quoted(one)),
            values => format!("{}.contains({side}.labels[{key}])", list(values)),
        };
        Condition::Text(match &self.test {
            Test::Exists => has,
            Test::DoesNotExist => format!("!({has})"),
            Test::In(values) => format!("({has} && {})", is_one(values)),
            Test::NotIn(values) => format!("(!({has}) || !({}))", is_one(values)),
        })
    }
}

fn list(texts: &[impl AsRef<str>]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}
