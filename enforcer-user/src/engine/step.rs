//! The wall clock was set. What was verified or issued before keeps its deadline in boot time; what
//! is judged by the wall clock is judged again: the credential that this node shows, and windows of
//! time in the policy.

use enforcer_common::abi::VerdictValue;

use super::Engine;
use super::clock::{Now, SECOND_NS};
use super::io::{Output, Question, Sweep};
use super::judge::Judged;
use super::verdicts::Verdict;
use super::workloads::Workload;

/// A change of the clocks' difference beyond this is a step; less is slewing, or the reading.
const STEP_NS: u128 = SECOND_NS as u128;

impl Engine {
    /// Takes notice if the wall clock was set since the last time, or slewed by as much as a step.
    pub(super) fn follow_clock(&mut self, now: Now, out: &mut Vec<Output>) {
        let offset = now.offset_ns();
        let before = *self.offset_ns.get_or_insert(offset);
        if before.abs_diff(offset) > STEP_NS {
            self.offset_ns = Some(offset);
            // Some were refused only because of the time it was.
            self.negative.clear();
            self.replace_untimely(now);
            self.judge_by_time(now, out);
        }
    }

    /// A credential that by the new time has not begun, or is due, is followed by another at once:
    /// peers whose clocks were right all along refuse it.
    fn replace_untimely(&mut self, now: Now) {
        let ids: Vec<u16> = self.workloads.iter().map(|workload| workload.id).collect();
        for id in ids {
            if let Some(workload) = self.workloads.get_mut(id)
                && !shows_timely(workload, now)
            {
                workload.rotate_ns = now.boot_ns;
            }
        }
    }

    /// Windows of time in the policy opened or closed.
    fn judge_by_time(&mut self, now: Now, out: &mut Vec<Output>) {
        let policy = self.policy.clone();
        let mut sweep = Sweep::default();
        for asked in self.verdicts.keys_where(|_| true) {
            let Some(verdict) = self.verdicts.peek(&asked).copied() else { continue };
            let judged = self.judge(policy.as_deref(), &asked, now.unix_seconds());
            match judged.and_then(|judged| still(&asked, &verdict, &judged, now)) {
                Some(value) if value == verdict.value => {}
                Some(value) => self.install_verdict(asked, value, now, out),
                None => {
                    if verdict.passes() {
                        sweep.questions.insert(asked);
                    }
                    self.verdicts.remove(&asked);
                    out.push(Output::RemoveVerdict(asked.key(self.epoch)));
                }
            }
        }
        if !sweep.is_empty() {
            out.push(Output::SweepFlows(sweep));
        }
    }
}

/// Whether the credential that the kernel stamps has begun and is not due to be replaced.
fn shows_timely(workload: &Workload, now: Now) -> bool {
    let secret = workload.current().and_then(|own| own.secret.as_ref());
    secret.is_some_and(|own| {
        let due = u64::midpoint(own.not_before(), own.not_after());
        (own.not_before()..due).contains(&now.unix_seconds())
    })
}

/// The same verdict, ending no later than it did; none if the answer is another by the new time.
fn still(asked: &Question, verdict: &Verdict, judged: &Judged, now: Now) -> Option<VerdictValue> {
    let same = judged.answered(*asked) == *asked && judged.passes() == verdict.passes();
    let end = verdict.value.deadline_ns.min(judged.ends_ns(now));
    (same && end > now.boot_ns).then_some(VerdictValue {
        deadline_ns: end,
        rule: judged.rule,
        action: judged.action,
        obligations: judged.obligations,
        ..verdict.value
    })
}
