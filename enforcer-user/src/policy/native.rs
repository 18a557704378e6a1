//! Conditions in a form of their own, which is evaluated without Cedar: what nearly every rule is made of.
//!
//! A condition holds, does not hold, or fails, exactly as Cedar says of it: in the same order, so that it
//! fails only where Cedar would come to the label that is missing. Property tests hold them against each
//! other. What has no form here is Cedar's to evaluate ([`super::compile`]).

use cedar_policy_core::ast::Pattern;

use super::asked::{Asked, Literal, Missing, Side, Slot};
use super::request::{Action, is_below};

/// A condition.
#[derive(Debug)]
pub(super) enum Test {
    Constant(bool),
    /// This is what is asked.
    Asks(Action),
    /// All hold: [`all_hold`].
    All(Box<[Self]>),
    /// One holds; those behind it are not looked at.
    Any(Box<[Self]>),
    Not(Box<Self>),
    /// If the first holds, the second, else the third.
    If(Box<[Self; 3]>),
    /// The text is this one.
    Is(Slot, Literal),
    /// The text is one of these, which are sorted.
    OneOf(Slot, Box<[Literal]>),
    /// Both texts are the same.
    Same(Slot, Slot),
    /// The text is like the pattern.
    Like(Slot, Box<Pattern>),
    /// The workload carries the label.
    Carries(Slot),
    /// The workload lives in this namespace or below.
    Below(Side, Box<str>),
    /// The first workload lives in the namespace of the second or below.
    BelowOther(Side, Side),
    PortIs(i64),
    PortBelow(i64),
    PortAtMost(i64),
    /// The port is one of these, which are sorted.
    PortOneOf(Box<[i64]>),
}

impl Test {
    /// Whether it holds; an error if it reads a label that is missing.
    pub fn holds(&self, asked: &Asked<'_>) -> Result<bool, Missing> {
        Ok(match self {
            Self::Constant(holds) => *holds,
            Self::Asks(action) => asked.action == *action,
            Self::All(tests) => all_hold(tests, asked)?,
            Self::Any(tests) => {
                for test in tests {
                    if test.holds(asked)? {
                        return Ok(true);
                    }
                }
                false
            }
            Self::Not(test) => !test.holds(asked)?,
            Self::If(parts) => {
                let [test, then, otherwise] = &**parts;
                let taken = if test.holds(asked)? { then } else { otherwise };
                taken.holds(asked)?
            }
            Self::Is(slot, literal) => asked.literal(*slot)? == Some(*literal),
            Self::OneOf(slot, literals) => {
                asked.literal(*slot)?.is_some_and(|found| literals.binary_search(&found).is_ok())
            }
            Self::Same(left, right) => asked.text(*left)? == asked.text(*right)?,
            Self::Like(slot, pattern) => pattern.wildcard_match(asked.text(*slot)?),
            Self::Carries(slot) => asked.has(*slot),
            Self::Below(side, namespace) => is_below(asked.namespace(*side), namespace),
            Self::BelowOther(inner, outer) => {
                is_below(asked.namespace(*inner), asked.namespace(*outer))
            }
            Self::PortIs(port) => asked.port == *port,
            Self::PortBelow(port) => asked.port < *port,
            Self::PortAtMost(port) => asked.port <= *port,
            Self::PortOneOf(ports) => ports.binary_search(&asked.port).is_ok(),
        })
    }
}

/// Whether all hold; those behind the first that does not are not looked at.
pub(super) fn all_hold(tests: &[Test], asked: &Asked<'_>) -> Result<bool, Missing> {
    for test in tests {
        if !test.holds(asked)? {
            return Ok(false);
        }
    }
    Ok(true)
}
