//! The mirror of the kernel's verdicts under the current epoch.

use std::collections::BTreeSet;

use enforcer_common::abi::{VerdictValue, verdict_action};

use super::clock::Now;
use super::io::Question;
use super::shares::Shares;

/// A verdict in the kernel's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What the kernel has.
    pub value: VerdictValue,
    /// Boot time at which it was written.
    pub installed_ns: u64,
    /// Boot time at which a live flow was last seen to stand on it.
    pub used_ns: u64,
}

impl Verdict {
    /// Whether packets pass on it.
    pub fn passes(&self) -> bool {
        matches!(self.value.action, verdict_action::ALLOW | verdict_action::WOULD_DENY)
    }
}

/// Verdicts, shared among workloads.
#[derive(Debug)]
pub struct Verdicts {
    limit: usize,
    table: Shares<Question, Verdict, u16>,
    /// Deadlines in order, for finding those that run out.
    ends: BTreeSet<(u64, Question)>,
}

impl Verdicts {
    /// Room for `limit` verdicts.
    pub fn new(limit: usize) -> Self {
        Self { limit, table: Shares::new(limit), ends: BTreeSet::new() }
    }

    /// An empty mirror with the same room.
    pub fn emptied(&self) -> Self {
        Self::new(self.limit)
    }

    /// Number of verdicts.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// All verdicts.
    pub fn iter(&self) -> impl Iterator<Item = (&Question, &Verdict)> {
        self.table.iter()
    }

    /// The verdict of exactly this question.
    pub fn peek(&self, question: &Question) -> Option<&Verdict> {
        self.table.peek(question)
    }

    /// Records a verdict that is being written; returns the one that had to go for it.
    pub fn insert(&mut self, question: Question, verdict: Verdict) -> Option<Question> {
        self.remove(&question);
        self.ends.insert((verdict.value.deadline_ns, question));
        let (displaced, gone) = self.table.insert(question, verdict, question.workload)?;
        self.ends.remove(&(gone.value.deadline_ns, displaced));
        Some(displaced)
    }

    /// Removes a verdict.
    pub fn remove(&mut self, question: &Question) -> Option<Verdict> {
        let gone = self.table.remove(question)?;
        self.ends.remove(&(gone.value.deadline_ns, *question));
        Some(gone)
    }

    /// Notes that a live flow stands on the verdict for this port, or on that for all ports.
    pub fn mark_used(&mut self, question: &Question, now: Now) {
        for asked in [*question, question.any_port()] {
            if let Some(verdict) = self.table.touch(&asked) {
                verdict.used_ns = now.boot_ns;
            }
        }
    }

    /// Questions whose verdicts end at `boot_ns` or before, the earliest first.
    pub fn ending(&self, boot_ns: u64) -> Vec<Question> {
        self.ends
            .iter()
            .take_while(|(end, _)| *end <= boot_ns)
            .map(|(_, question)| *question)
            .collect()
    }

    /// Questions for which `wanted` holds.
    pub fn keys_where(&self, wanted: impl Fn(&Question) -> bool) -> Vec<Question> {
        self.table.keys_where(|question, _| wanted(question))
    }
}
