//! Counts why packets are dropped and what else happens, and samples drops for the daemon's log.

use enforcer_common::{
    abi::{
        BucketKey, BucketValue, COUNTER_BLOCKS as BLOCKS, CounterBlock, CounterKey, DropReason,
        Event, ReportedSegment, flow_flags, obligation, record_kind, workload_flags,
    },
    datapath::bucket,
};

use crate::{
    maps::{BUCKETS, CONFIG, COUNTER_BLOCKS, COUNTERS, REJECTED},
    scratch::Scratch,
    workload,
};

const BPF_ANY: u64 = 0;

/// What a token bucket limits.
#[derive(Clone, Copy)]
#[repr(u16)]
pub enum Limit {
    /// Segments of unknown peers handed to the daemon.
    Cold = 1,
    /// Sampled drops.
    Samples = 2,
    /// Half-open connections without a place of their own.
    Attempts = 3,
    /// Questions to name servers and answers handed to the daemon.
    Names = 4,
    /// Connections without identity that are reported: of a workload, and of one far end of it.
    Opened = 5,
}

/// Counts an event of the packet's workload.
#[inline(always)]
pub fn count(s: &Scratch, event: Event) {
    add(s.interface.workload, event as u16);
}

/// Counts a number of either kind.
#[inline(never)]
pub fn add(workload: u16, counter: u16) {
    if let Some(count) = own_count(workload, counter) {
        *count += 1;
        return;
    }
    let key = CounterKey { workload, counter };
    if let Some(value) = COUNTERS.get_ptr_mut(&key) {
        // SAFETY: a per-CPU value; programs of one CPU do not run at the same time, except nested
        // through a clone, which does not happen between this load and store.
        unsafe { *value += 1 };
        return;
    }
    // A full table loses the count, never the decision.
    let _ = COUNTERS.insert(&key, &1u64, BPF_ANY);
}

/// The number in the workload's block, unless that is another's on this CPU.
#[inline(always)]
fn own_count(workload: u16, counter: u16) -> Option<&'static mut u64> {
    let number = u32::from(workload) & (BLOCKS - 1);
    let block = COUNTER_BLOCKS.get_ptr_mut(number)?;
    // SAFETY: a per-CPU value, as in `add`.
    let block = unsafe { &mut *block };
    if !block.is_owned(number) {
        block.owner = u32::from(workload);
    }
    if block.owner != u32::from(workload) {
        return None;
    }
    block.counts.get_mut(CounterBlock::place(counter))
}

/// Counts a drop and, within the sampling rate, reports it, unless it is held: the daemon has that one.
#[inline(never)]
pub fn drop_counted(s: &mut Scratch, reason: u16, from_workload: u32) -> u32 {
    add(s.interface.workload, reason);
    if reason == DropReason::Held as u16 {
        return 0;
    }
    let Some(config) = CONFIG.get(0) else { return 0 };
    if !take(s.interface.workload, [0; 8], Limit::Samples, s.now_ns, config.samples_per_second) {
        return 0;
    }
    if report(s, record_kind::REJECTED, reason, from_workload) {
        count(s, Event::Sampled);
    }
    1
}

/// Reports a connection that is open now, if its verdict obliges to that.
#[inline(never)]
pub fn connected(s: &mut Scratch) -> u32 {
    if s.obligations & u32::from(obligation::LOG) != 0 {
        let reported = report(s, record_kind::CONNECTED, 0, 0);
        count(s, if reported { Event::Reported } else { Event::Unreported });
    }
    0
}

/// Reports a second: of a workload, and of a far end and port of it, which are the same again and again.
const OPENED_PER_SECOND: u32 = 100;
const OPENED_ALIKE_PER_SECOND: u32 = 1;

/// Counts a connection without identity that is open now, and reports it if its workload is only observed: if it were
/// enforced, a network rule might be missing. Who opened what is older than the attachment is not known, so that is not
/// reported.
#[inline(never)]
pub fn plain_opened(s: &mut Scratch) -> u32 {
    count(s, Event::PlainOpened);
    let is_observed = workload::find(s).is_ok_and(|one| one.flags & workload_flags::OBSERVE != 0);
    if !is_observed || s.flow.flags & flow_flags::ADOPTED != 0 {
        return 0;
    }
    let (id, now_ns) = (s.interface.workload, s.now_ns);
    // First, so that a flood makes no more buckets a second than reports: they would displace others.
    let may = !is_dry(id, [0; 8], Limit::Opened, now_ns, OPENED_PER_SECOND);
    if may && !take(id, far_end(s), Limit::Opened, now_ns, OPENED_ALIKE_PER_SECOND) {
        return 0;
    }
    let by_workload = u32::from(s.flow.flags & flow_flags::INITIATOR != 0);
    let reported = may
        && take(id, [0; 8], Limit::Opened, now_ns, OPENED_PER_SECOND)
        && report(s, record_kind::OPENED, 0, by_workload);
    count(s, if reported { Event::Reported } else { Event::Unreported });
    0
}

/// Whom the flow at hand is with, at which port and by which protocol. Addresses are mixed down to 32 bits: of two that
/// are alike in that, which neighbours are not, the second is told a second later.
#[inline(always)]
fn far_end(s: &Scratch) -> [u8; 8] {
    /// The golden ratio's, as in Fibonacci hashing (Knuth, TAOCP 3, 6.4).
    const MULTIPLIER: u32 = 0x9e37_79b1;
    let mut mixed = 0u32;
    for word in s.key.remote.as_chunks().0 {
        mixed = (mixed.rotate_left(5) ^ u32::from_ne_bytes(*word)).wrapping_mul(MULTIPLIER);
    }
    let opened = [s.key.protocol, s.flow.flags & flow_flags::INITIATOR];
    let service = u32::from(s.flow.port) << 16 | u32::from(u16::from_ne_bytes(opened));
    (u64::from(mixed) << 32 | u64::from(service)).to_ne_bytes()
}

/// Puts the packet at hand into the ring for the log; `false` if that is full.
#[inline(always)]
fn report(s: &mut Scratch, kind: u32, reason: u16, from_workload: u32) -> bool {
    s.reported = ReportedSegment {
        kind,
        ifindex: s.ifindex,
        time_ns: s.now_ns,
        key: s.key,
        peer: s.peer,
        reason,
        from_workload: from_workload as u8,
        tcp_flags: s.packet.flags,
        zero: 0,
    };
    REJECTED.output_untyped::<ReportedSegment>(&s.reported, 0).is_ok()
}

/// Takes a token of a workload and source; `false` when none is left or the table refuses.
#[inline(always)]
pub fn take(workload: u16, source: [u8; 8], kind: Limit, now_ns: u64, per_second: u32) -> bool {
    let key = BucketKey { source, workload, kind: kind as u16, zero: [0; 4] };
    if let Some(value) = BUCKETS.get_ptr_mut(&key) {
        // SAFETY: a live map value; two CPUs that race may grant a token twice, which a limit
        // meant as a bound on load can bear.
        return bucket::take(unsafe { &mut *value }, now_ns, per_second);
    }
    let mut fresh = BucketValue::default();
    let granted = bucket::take(&mut fresh, now_ns, per_second);
    BUCKETS.insert(&key, &fresh, BPF_ANY).is_ok() && granted
}

/// Whether [`take`] would find no token; takes none.
#[inline(always)]
pub fn is_dry(workload: u16, source: [u8; 8], kind: Limit, now_ns: u64, per_second: u32) -> bool {
    let key = BucketKey { source, workload, kind: kind as u16, zero: [0; 4] };
    // SAFETY: a live map value, of which a copy is judged.
    let value = unsafe { BUCKETS.get(&key) }.copied().unwrap_or_default();
    bucket::is_dry(value, now_ns, per_second)
}

/// Gives a token back; a bucket that is gone was as good as full.
#[inline(always)]
pub fn give_back(workload: u16, source: [u8; 8], kind: Limit, per_second: u32) {
    let key = BucketKey { source, workload, kind: kind as u16, zero: [0; 4] };
    if let Some(value) = BUCKETS.get_ptr_mut(&key) {
        // SAFETY: as in `take`.
        bucket::give_back(unsafe { &mut *value }, per_second);
    }
}
