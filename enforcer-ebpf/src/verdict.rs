//! The verdict cache.

use enforcer_common::{
    abi::{Event, VerdictKey, VerdictValue, verdict_action},
    wire::frame::protocol,
};

use crate::{counter, maps::VERDICTS, scratch::Scratch};

/// The cached answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed until the boot-time nanosecond.
    Allow(u64),
    /// Denied.
    Deny,
    /// Not asked yet, or no longer valid.
    Unknown,
}

/// Asks the cache under the current epoch, for the port and then for all ports.
#[inline(always)]
pub fn ask(s: &Scratch, peer: u64, port: u16, direction: u8) -> Verdict {
    match look_up(s, peer, port, direction) {
        Verdict::Unknown => look_up(s, peer, 0, direction),
        known => known,
    }
}

/// Whether [`ask`] would deny; counts nothing.
#[inline(always)]
pub fn is_denied(s: &Scratch, peer: u64, port: u16, direction: u8) -> bool {
    let live = |port| find(s, peer, port, direction).filter(|v| v.deadline_ns > s.now_ns);
    let found = live(port).or_else(|| live(0));
    found.is_some_and(|v| {
        v.action != verdict_action::ALLOW && v.action != verdict_action::WOULD_DENY
    })
}

#[inline(always)]
fn look_up(s: &Scratch, peer: u64, port: u16, direction: u8) -> Verdict {
    find(s, peer, port, direction).map_or(Verdict::Unknown, |value| judge(s, value))
}

#[inline(always)]
fn find(s: &Scratch, peer: u64, port: u16, direction: u8) -> Option<&'static VerdictValue> {
    let key = VerdictKey {
        peer,
        epoch: s.epoch,
        workload: s.interface.workload,
        port,
        protocol: protocol::TCP,
        direction,
        zero: [0; 6],
    };
    // SAFETY: read only; the daemon replaces the value whole.
    unsafe { VERDICTS.get(&key) }
}

#[inline(always)]
fn judge(s: &Scratch, value: &VerdictValue) -> Verdict {
    if value.deadline_ns <= s.now_ns {
        return Verdict::Unknown;
    }
    match value.action {
        verdict_action::ALLOW => Verdict::Allow(value.deadline_ns),
        verdict_action::WOULD_DENY => {
            counter::count(s, Event::WouldDeny);
            Verdict::Allow(value.deadline_ns)
        }
        _ => Verdict::Deny,
    }
}
