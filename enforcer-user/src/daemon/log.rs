//! Lines for people: denied connections, sampled drops and failures, so many a second.

use enforcer_common::abi::{DropReason, ReportedSegment, direction, record_kind};

use crate::datapath::DatapathError;
use crate::engine::{Denial, Engine, Now, Question, Refusal, SECOND_NS, ip_address};
use crate::identity::Identity;

/// Failures logged a second; a full map fails for every segment.
const FAILURES_PER_SECOND: u32 = 10;
/// Connections logged a second, of those whose rules want it (`@log`).
const CONNECTIONS_PER_SECOND: u32 = 1000;

/// At most so many a second.
#[derive(Debug)]
struct Rate {
    limit: u32,
    second: u64,
    used: u32,
    suppressed: u64,
}

impl Rate {
    fn new(limit: u32) -> Self {
        Self { limit, second: 0, used: 0, suppressed: 0 }
    }

    /// Whether one more may be logged; `Some(n)` with how many were not since the last.
    fn admit(&mut self, boot_ns: u64) -> Option<u64> {
        let second = boot_ns / SECOND_NS;
        if second != self.second {
            self.second = second;
            self.used = 0;
        }
        if self.used < self.limit {
            self.used += 1;
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed += 1;
        None
    }
}

/// The log of denials and failures.
#[derive(Debug)]
pub(super) struct Log {
    denials: Rate,
    failures: Rate,
    connections: Rate,
}

impl Log {
    pub(super) fn new(denials_per_second: u32) -> Self {
        Self {
            denials: Rate::new(denials_per_second),
            failures: Rate::new(FAILURES_PER_SECOND),
            connections: Rate::new(CONNECTIONS_PER_SECOND),
        }
    }

    /// A connection that the policy denies.
    pub(super) fn denial(&mut self, engine: &Engine, denial: &Denial, now: Now) {
        let Some(suppressed) = self.denials.admit(now.boot_ns) else { return };
        let verb = if denial.observed { "would be denied" } else { "denied" };
        tracing::info!(
            workload = denial.workload,
            peer = denial.peer,
            port = denial.port,
            direction = denial.direction,
            because = why(engine, denial, now),
            suppressed,
            "connection {verb}"
        );
    }

    /// A credential that does not verify. What is quoted of it was not proven by anybody.
    pub(super) fn refusal(&mut self, engine: &Engine, refusal: &Refusal) {
        let Some(suppressed) = self.denials.admit(crate::datapath::boot_ns()) else { return };
        let key = &refusal.key;
        let workload = engine.workload_identity(key.workload);
        tracing::info!(
            workload = workload.map_or_else(String::new, Identity::spiffe_id),
            local = %format_args!("{}:{}", ip_address(&key.local), key.local_port),
            remote = %format_args!("{}:{}", ip_address(&key.remote), key.remote_port),
            because = refusal.because,
            suppressed,
            "credential refused"
        );
    }

    /// What the kernel reports.
    pub(super) fn reported(&mut self, engine: &Engine, segment: &ReportedSegment, now: Now) {
        match segment.kind {
            record_kind::CONNECTED => self.connected(engine, segment, now),
            _ => self.rejected(engine, segment, now),
        }
    }

    /// A connection whose rule wants it logged.
    fn connected(&mut self, engine: &Engine, segment: &ReportedSegment, now: Now) {
        let Some(suppressed) = self.connections.admit(now.boot_ns) else { return };
        let asked = question(segment);
        let key = &segment.key;
        let explained =
            engine.identity(segment.peer).and_then(|peer| engine.explain(&asked, peer, now));
        tracing::info!(
            workload = name(engine.workload_identity(key.workload)),
            peer = name(engine.identity(segment.peer)),
            local = %format_args!("{}:{}", ip_address(&key.local), key.local_port),
            remote = %format_args!("{}:{}", ip_address(&key.remote), key.remote_port),
            direction = if asked.direction == direction::EGRESS { "egress" } else { "ingress" },
            because = explained.map_or_else(String::new, |explained| explained.line()),
            suppressed,
            "connected"
        );
    }

    /// A drop that the kernel reports.
    fn rejected(&mut self, engine: &Engine, segment: &ReportedSegment, now: Now) {
        // A held segment is not refused: the engine says what becomes of it.
        if segment.reason == DropReason::Held as u16 {
            return;
        }
        let Some(suppressed) = self.denials.admit(now.boot_ns) else { return };
        let key = &segment.key;
        let reason = DropReason::from_number(segment.reason).map_or("unknown", DropReason::name);
        let from_workload = segment.from_workload != 0;
        let denied = segment.reason == DropReason::PolicyDenied as u16;
        let denial = if denied { engine.denial(&question(segment), now) } else { None };
        let because = denial.map(|denial| why(engine, &denial, now));
        tracing::info!(
            workload = name(engine.workload_identity(key.workload)),
            peer = if segment.peer == 0 { "none".to_owned() } else { name(engine.identity(segment.peer)) },
            local = %format_args!("{}:{}", ip_address(&key.local), key.local_port),
            remote = %format_args!("{}:{}", ip_address(&key.remote), key.remote_port),
            protocol = key.protocol,
            direction = if from_workload { "from the workload" } else { "to the workload" },
            reason,
            because = because.as_deref().unwrap_or(""),
            suppressed,
            "segment dropped"
        );
    }

    /// A map or interface that refused.
    pub(super) fn failure(&mut self, error: &DatapathError) {
        if let Some(suppressed) = self.failures.admit(crate::datapath::boot_ns()) {
            let error: &dyn std::error::Error = error;
            tracing::warn!(error, suppressed, "datapath");
        }
    }

    /// Something that did not work, if it did not.
    pub(super) fn problem_unless(&mut self, worked: bool, problem: &str) {
        if !worked {
            self.problem(problem);
        }
    }

    /// Something else that did not work.
    pub(super) fn problem(&mut self, problem: &str) {
        if let Some(suppressed) = self.failures.admit(crate::datapath::boot_ns()) {
            tracing::warn!(suppressed, "{problem}");
        }
    }
}

fn name(identity: Option<&Identity>) -> String {
    identity.map_or_else(|| "unknown".to_owned(), Identity::spiffe_id)
}

/// As `enforcer explain` says it; what passes is told by its rule alone. Only for what is logged: it looks at every rule.
fn why(engine: &Engine, denial: &Denial, now: Now) -> String {
    let explained = engine.explain(&denial.asked, &denial.peer_identity, now);
    let explained = explained.filter(|explained| !explained.allow);
    explained.map_or_else(|| denial.because.clone(), |explained| explained.line())
}

/// What the policy was or would be asked for a segment of a handshake.
fn question(segment: &ReportedSegment) -> Question {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let (key, from_workload) = (&segment.key, segment.from_workload != 0);
    let answer = segment.tcp_flags & (SYN | ACK) == SYN | ACK;
    let egress = from_workload != answer;
    Question {
        peer: segment.peer,
        workload: key.workload,
        port: if egress { key.remote_port } else { key.local_port },
        protocol: key.protocol,
        direction: if egress { direction::EGRESS } else { direction::INGRESS },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_logged_is_counted_and_told_with_the_next_line() {
        let mut rate = Rate::new(2);
        let admitted: Vec<Option<u64>> = (0..5).map(|_| rate.admit(SECOND_NS)).collect();
        assert_eq!(admitted, [Some(0), Some(0), None, None, None]);
        assert_eq!(rate.admit(2 * SECOND_NS), Some(3));
        assert_eq!(Rate::new(0).admit(SECOND_NS), None);
    }
}
