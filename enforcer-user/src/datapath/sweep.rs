//! Ends flows: those that nothing can come of any more, and those that a policy change denied,
//! idle ones too. A denied flow is reset at both ends first. Half-open connections that came to nothing
//! go the same way as flows that did.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use enforcer_common::abi::{
    FlowKey, FlowValue, ReinjectTrailer, VerdictKey, direction, flow_flags, flow_state,
    verdict_action,
};
use enforcer_common::datapath::flow::idle_limit_ns;

use super::error::DatapathError;
use super::maps::{AttemptPosition, FlowPosition, Maps};
use super::pace::Pace;
use super::reinject::Reinjector;
use super::reset::resets;
use super::shares::Shares;
use crate::fault::{self, KillPoint};

/// Batches of flows looked at in one step.
const BATCHES: usize = 16;

/// Batches of half-open connections looked at in one step: two tables of the ordinary size within seconds.
const ATTEMPT_BATCHES: usize = 4;

/// Flows reset in one step.
const RESETS: usize = 1024;

/// How long a cut flow stays, so that its resets pass the hooks.
const LEAVE_NS: u64 = 10_000_000;

/// How long after its deadline an idle flow may still get a new verdict.
const GRACE_NS: u64 = 5_000_000_000;

/// How long a cut flow's entry is kept alive for its resets.
const CUT_DEADLINE_NS: u64 = 1_000_000_000;

/// The interface that a workload's packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub ifindex: u32,
    /// Whether it is the host side of the workload's veth.
    pub host_side: bool,
}

impl Port {
    /// Whether a frame towards the workload enters at the ingress of the interface.
    #[must_use]
    pub fn workload_is_ingress(self) -> bool {
        !self.host_side
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows removed because nothing could come of them.
    pub garbage: u64,
    /// Half-open connections removed for the same reason.
    pub half_open: u64,
    /// Flows that were denied or expired and were cut.
    pub cut: u64,
    /// Reset frames sent.
    pub resets: u64,
    /// Reset frames that could not be sent.
    pub failed: u64,
}

/// The work in progress.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    position: FlowPosition,
    pace: Pace,
    half_open: AttemptPosition,
    half_open_pace: Pace,
    denied: VecDeque<FlowKey>,
    leaving: VecDeque<(u64, FlowKey)>,
    /// What workloads have of the tables.
    shares: Shares,
    /// Everything in both queues, so that no flow is cut twice.
    queued: HashSet<FlowKey>,
}

/// What a step works with.
pub(super) struct Tools<'a> {
    pub(super) maps: &'a mut Maps,
    pub(super) reinjector: &'a mut Reinjector,
    pub(super) port: &'a dyn Fn(u16) -> Option<Port>,
    /// Whether both ends are told.
    pub(super) reset: bool,
}

impl Sweeper {
    /// Takes flows that are denied under the current epoch; the next steps end them. `limit` is
    /// what the flow tables hold: more cannot be meant.
    pub(super) fn cut(&mut self, keys: impl IntoIterator<Item = FlowKey>, limit: usize) {
        let room = limit.saturating_sub(self.queued.len());
        for key in keys.into_iter().take(room) {
            self.enqueue(key);
        }
    }

    fn enqueue(&mut self, key: FlowKey) {
        if self.queued.insert(key) {
            self.denied.push_back(key);
        }
    }

    /// Whether denied flows wait for a further step.
    pub(super) fn is_busy(&self) -> bool {
        !self.denied.is_empty() || !self.leaving.is_empty()
    }

    /// One bounded step.
    pub(super) fn step(
        &mut self,
        tools: &mut Tools<'_>,
        now_ns: u64,
    ) -> Result<Swept, DatapathError> {
        let mut swept = Swept::default();
        self.finish_leaving(tools.maps, now_ns)?;
        self.cut_denied(tools, now_ns, &mut swept)?;
        if self.pace.is_due(now_ns) {
            let begun = Instant::now();
            let walked = self.collect(tools.maps, now_ns, &mut swept)?;
            self.pace.stepped(begun, walked, now_ns);
        }
        if self.half_open_pace.is_due(now_ns) {
            let begun = Instant::now();
            let walked = self.collect_half_open(tools.maps, now_ns, &mut swept)?;
            self.half_open_pace.stepped(begun, walked, now_ns);
        }
        Ok(swept)
    }

    fn finish_leaving(&mut self, maps: &mut Maps, now_ns: u64) -> Result<(), DatapathError> {
        while self.leaving.front().is_some_and(|(due_ns, _)| *due_ns <= now_ns) {
            let Some((_, key)) = self.leaving.pop_front() else { break };
            self.queued.remove(&key);
            // A new connection of the same tuple replaced it: that one was judged anew.
            let cut = maps.flow(&key)?.filter(|flow| flow.state == flow_state::CUT);
            if let Some(flow) = cut
                && maps.remove_flow(&key)?
            {
                self.shares.removed_aside(&key, &flow);
            }
        }
        // Not only with the next walk, before which there may be a rest.
        self.shares.write(maps)
    }

    fn cut_denied(
        &mut self,
        tools: &mut Tools<'_>,
        now_ns: u64,
        swept: &mut Swept,
    ) -> Result<(), DatapathError> {
        let epoch = tools.maps.config()?.epoch;
        for _ in 0..RESETS {
            let Some(key) = self.denied.pop_front() else { break };
            self.queued.remove(&key);
            let Some(flow) = tools.maps.flow(&key)? else { continue };
            // Denied under the current epoch, it passes nothing but a reset from here on, and
            // its sequence numbers stand still. A live deadline lets the resets pass.
            let cut = FlowValue {
                state: flow_state::CUT,
                epoch,
                deadline_ns: now_ns.saturating_add(CUT_DEADLINE_NS),
                ..flow
            };
            if !tools.maps.replace_flow(&key, &cut)? {
                continue;
            }
            swept.cut += 1;
            fault::reached(KillPoint::FlowCut);
            if tools.reset {
                send_resets(tools, &key, &flow, swept);
                fault::reached(KillPoint::FlowReset);
            }
            self.queued.insert(key);
            self.leaving.push_back((now_ns.saturating_add(LEAVE_NS), key));
        }
        Ok(())
    }

    /// Looks at the next part of the flow tables; `true` when their end was reached.
    fn collect(
        &mut self,
        maps: &mut Maps,
        now_ns: u64,
        swept: &mut Swept,
    ) -> Result<bool, DatapathError> {
        if self.position.is_start() {
            self.shares.begin(maps)?;
        }
        let mut idle = Vec::new();
        let mut doubtful = Vec::new();
        let mut walked = false;
        for _ in 0..BATCHES {
            let done = maps.visit_some_flows(&mut self.position, |key, flow| {
                if is_idle(flow, now_ns) {
                    idle.push(*key);
                    return;
                }
                self.shares.found(key, flow);
                if flow.state == flow_state::CUT || has_expired(flow, now_ns) {
                    doubtful.push(*key);
                }
            })?;
            if done {
                walked = true;
                break;
            }
        }
        for key in idle {
            // Read again: a packet may have revived it.
            let idle = maps.flow(&key)?.filter(|flow| is_idle(flow, now_ns));
            if let Some(flow) = idle
                && maps.remove_flow(&key)?
            {
                self.shares.removed(&key, &flow);
                swept.garbage += 1;
            }
        }
        // As soon as they are gone: a busy workload's share is for what is there, and not for what was there
        // when the walk began.
        self.shares.write(maps)?;
        if walked {
            self.shares.settle(maps)?;
        }
        let epoch = maps.config()?.epoch;
        for key in doubtful {
            let Some(flow) = maps.flow(&key)? else { continue };
            if is_over(maps, &key, &flow, epoch, now_ns)? {
                self.enqueue(key);
            }
        }
        Ok(walked)
    }

    /// The same for half-open connections.
    fn collect_half_open(
        &mut self,
        maps: &mut Maps,
        now_ns: u64,
        swept: &mut Swept,
    ) -> Result<bool, DatapathError> {
        for _ in 0..ATTEMPT_BATCHES {
            let (removed, walked) = maps.remove_some_attempts(&mut self.half_open, now_ns)?;
            swept.half_open += removed;
            if walked {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn send_resets(tools: &mut Tools<'_>, key: &FlowKey, flow: &FlowValue, swept: &mut Swept) {
    let Some(port) = (tools.port)(key.workload) else { return };
    let both = resets(key, flow);
    let inward = both.to_workload.iter().map(|frame| (frame, port.workload_is_ingress()));
    let outward = both.to_remote.iter().map(|frame| (frame, !port.workload_is_ingress()));
    for (frame, ingress) in inward.chain(outward) {
        let to = ReinjectTrailer { ifindex: port.ifindex, ingress: ingress.into(), mark: 0 };
        match tools.reinjector.send(frame, to) {
            Ok(()) => swept.resets += 1,
            Err(error) => {
                swept.failed += 1;
                tracing::debug!(%error, "reset not sent");
            }
        }
    }
}

fn is_idle(flow: &FlowValue, now_ns: u64) -> bool {
    now_ns.saturating_sub(flow.seen_ns) >= idle_limit_ns(flow)
}

fn has_expired(flow: &FlowValue, now_ns: u64) -> bool {
    now_ns >= flow.deadline_ns.saturating_add(GRACE_NS)
}

/// Whether a flow that was cut, or is past its deadline, has no verdict that would let its next
/// packet pass. The kernel takes a new verdict over only with a packet, so an idle flow's own
/// deadline says nothing.
fn is_over(
    maps: &Maps,
    key: &FlowKey,
    flow: &FlowValue,
    epoch: u32,
    now_ns: u64,
) -> Result<bool, DatapathError> {
    if flow.state == flow_state::CUT {
        return Ok(true);
    }
    if !has_expired(flow, now_ns) {
        return Ok(false);
    }
    let initiator = flow.flags & flow_flags::INITIATOR != 0;
    let mut verdict = VerdictKey {
        peer: flow.peer,
        epoch,
        workload: key.workload,
        port: flow.port,
        protocol: key.protocol,
        direction: if initiator { direction::EGRESS } else { direction::INGRESS },
        zero: [0; 6],
    };
    for port in [flow.port, 0] {
        verdict.port = port;
        if let Some(value) = maps.verdicts.lookup(&verdict)? {
            let passes = matches!(value.action, verdict_action::ALLOW | verdict_action::WOULD_DENY);
            return Ok(!passes || value.deadline_ns <= now_ns);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_enter_where_the_workload_and_the_far_side_would_see_them() {
        let own = Port { ifindex: 2, host_side: false };
        let host = Port { ifindex: 2, host_side: true };
        assert!(own.workload_is_ingress());
        assert!(!host.workload_is_ingress());
    }

    #[test]
    fn an_expired_flow_is_doubtful_only_after_the_grace() {
        let flow = FlowValue {
            deadline_ns: 1000,
            seen_ns: 1000,
            state: flow_state::ESTABLISHED,
            ..FlowValue::default()
        };
        assert!(!has_expired(&flow, 1000));
        assert!(has_expired(&flow, 1000 + GRACE_NS));
        assert!(!is_idle(&flow, 1000 + GRACE_NS));
        let never = FlowValue { deadline_ns: u64::MAX, ..flow };
        assert!(!has_expired(&never, u64::MAX - 1));
    }

    #[test]
    fn what_waits_is_bounded_by_the_tables() {
        let mut sweeper = Sweeper::default();
        let keys = |range: std::ops::Range<u16>| {
            range.map(|local_port| FlowKey { local_port, ..FlowKey::default() })
        };
        sweeper.cut(keys(0..3), 4);
        sweeper.cut(keys(0..3), 4);
        assert_eq!(sweeper.denied.len(), 3);
        sweeper.cut(keys(3..10), 4);
        assert_eq!(sweeper.denied.len(), 4);
        assert!(sweeper.is_busy());
    }
}
