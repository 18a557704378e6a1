//! Can anybody of one kind ever reach anybody of another? Answered for every workload that could exist, whatever its
//! name and labels, by Cedar's symbolic compiler and an SMT solver.
//!
//! What is asked is whether the policies of the caller's end and those of the callee's allow one request together.
//! Where the question says more than the policies do, it errs on the side of "reaches": what is always in force is taken
//! to be, what is in force for hours only is taken to be if it permits, and left out if it forbids. So "never" holds. A
//! connection that the solver finds is put to the engine that decides at the ends; one that it does not allow is no
//! answer. Without a solver, or where it gives up, the answer is "undecided".

mod condition;
mod encode;
mod facts;
mod failure;
mod solve;
mod witness;

use std::time::Duration;

use cedar_policy_symcc::err::Error as SymbolicError;

use super::error::PolicyError;
use super::explain::BothEnds;
use super::overrides::Whom;
use super::{Action, Policy, Request};
use crate::identity::Identity;

use condition::Condition;

pub use solve::Solver;

/// The most policies, of both ends and with what is known of workloads, that are put to the solver.
pub const MAX_PROVED: usize = 20_000;

/// Who would reach whom.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who calls.
    pub from: Whom,
    /// Who is called.
    pub to: Whom,
    /// The callee's port; none for any.
    pub port: Option<u16>,
    /// A condition in Cedar, on `principal`, `resource` and `context`; none for any.
    pub when: Option<String>,
}

/// Those whose policies decide.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// Of the caller's node.
    pub connect: &'a Policy,
    /// Of the callee's node.
    pub accept: &'a Policy,
}

/// What is known then.
#[derive(Debug)]
pub enum Answer {
    /// Nobody ever reaches anybody, whatever their labels and whatever the hour.
    Never,
    /// Somebody does.
    Reaches(Box<Witness>),
    /// Neither is known, and why.
    Undecided(String),
}

/// A connection that both ends allow.
#[derive(Debug)]
pub struct Witness {
    /// Who calls.
    pub caller: Identity,
    /// Who is called.
    pub callee: Identity,
    /// The callee's port.
    pub port: u16,
    /// When, in seconds since 1970.
    pub unix_seconds: i64,
    /// Why it is allowed.
    pub why: BothEnds,
}

/// Answers a question. `now` (seconds since 1970) is tried first where the time matters.
///
/// # Errors
/// The condition of the question is no condition.
pub fn prove(
    sides: Sides<'_>,
    question: &Question,
    solver: &Solver,
    now: i64,
) -> Result<Answer, PolicyError> {
    let condition = question.when.as_deref().map(Condition::parse).transpose()?;
    let problem = match encode::encode(sides, question, condition.as_ref()) {
        Ok(problem) => problem,
        Err(why) => return Ok(Answer::Undecided(why)),
    };
    let found = match solver.solve(&problem) {
        Ok(None) => return Ok(Answer::Never),
        Ok(Some(found)) => found,
        Err(why) => return Ok(Answer::Undecided(why)),
    };
    let asked = witness::Asked { sides, question, condition: condition.as_ref() };
    let confirmed = witness::confirm(asked, &problem, &found, now);
    Ok(confirmed.map_or_else(
        || {
            let why = "the solver found a connection that the engine does not allow: what it assumed of hours, of \
                       labels that are missing or of names is no workload's";
            Answer::Undecided(why.to_owned())
        },
        |witness| Answer::Reaches(Box::new(witness)),
    ))
}

/// What the symbolic compiler or the solver said, with what would help.
fn undecided(error: &SymbolicError, patience: Duration) -> String {
    match error {
        SymbolicError::SolverUnknown => format!(
            "the solver gave up (it was given {} s): --timeout gives it more, --port and --when ask less",
            patience.as_secs()
        ),
        other => format!("the solver gave no answer: {other}"),
    }
}
