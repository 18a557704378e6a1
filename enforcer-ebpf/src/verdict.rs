//! The verdict cache.

use enforcer_common::{
    abi::{Event, VerdictKey, VerdictValue, obligation, verdict_action},
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

/// Asks the cache under the current epoch, for the port and then for all ports. What it obliges to is in
/// `s.obligations`.
#[inline(always)]
pub fn ask(s: &mut Scratch, peer: u64, port: u16, direction: u8) -> Verdict {
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
    found.is_some_and(|v| answer(v) != ALLOW && answer(v) != WOULD_DENY)
}

#[inline(always)]
fn look_up(s: &mut Scratch, peer: u64, port: u16, direction: u8) -> Verdict {
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
fn judge(s: &mut Scratch, value: &VerdictValue) -> Verdict {
    if value.deadline_ns <= s.now_ns {
        return Verdict::Unknown;
    }
    s.obligations = u32::from(value.obligations);
    match answer(value) {
        ALLOW => Verdict::Allow(value.deadline_ns),
        WOULD_DENY => {
            counter::count(s, Event::WouldDeny);
            Verdict::Allow(value.deadline_ns)
        }
        _ => Verdict::Deny,
    }
}

const ALLOW: u32 = verdict_action::ALLOW as u32;
const WOULD_DENY: u32 = verdict_action::WOULD_DENY as u32;

/// The action; none that is known where this program cannot do what the verdict obliges to. One number, so that the
/// verifier walks no path of its own for it.
#[inline(always)]
fn answer(value: &VerdictValue) -> u32 {
    let unknown = value.obligations & !obligation::HONOURED;
    let unknown = if cfg!(feature = "mutate-obligation") { 0 } else { u32::from(unknown) };
    u32::from(value.action) | unknown << 8
}
