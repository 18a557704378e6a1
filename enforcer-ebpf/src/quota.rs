//! Who may begin how many connections: places among the half-open ones, and shares of the flow tables.
//! A flood is held to what it may take, and what it takes is its own.

use enforcer_common::{
    abi::{Address, AddressKey, BucketValue, DropReason, SHARE_OF_ALL},
    datapath::{bucket, share},
    wire::frame::protocol,
};

use crate::{
    atomic,
    counter::{self, Limit},
    maps::{ATTEMPTS, CONFIG, CROWD, SHARES_GONE, SHARES_OPENED, STANDING},
    scratch::Scratch,
};

/// A workload's own calls have this many times a source's rate.
const OWN_CALLS: u32 = 4;

/// On whose behalf an attempt is made.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Asker {
    /// The workload calls.
    Workload = 0,
    /// The workload is refused a call.
    Refused = 1,
    /// S1 of a known credential arrives, which anybody who saw it may have sent.
    Peer = 2,
    /// A SYN without identity arrives.
    Stranger = 3,
}

impl Asker {
    const fn is_workload(self) -> bool {
        matches!(self, Self::Workload | Self::Refused)
    }
}

/// Inserts `s.attempt` among those that its asker's standing gives a place to, or in the crowd.
#[inline(never)]
pub fn insert_attempt(s: &mut Scratch, asker: Asker) -> u32 {
    match try_insert_attempt(s, asker) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_insert_attempt(s: &mut Scratch, asker: Asker) -> Result<(), DropReason> {
    let each = CONFIG.get(0).ok_or(DropReason::Internal)?.attempts_per_source;
    let placed = match asker {
        Asker::Workload => has_place(s, [0; 16], each * OWN_CALLS, true),
        Asker::Peer => has_place(s, s.key.remote, each, false),
        Asker::Refused | Asker::Stranger => false,
    };
    let inserted = if placed {
        // Absence is what is wanted; an error can only mean that.
        let _ = CROWD.remove(&s.key);
        ATTEMPTS.insert(&s.key, &s.attempt, 0)
    } else {
        let source = if asker.is_workload() { [0; 8] } else { source(s) };
        if !counter::take(s.interface.workload, source, Limit::Attempts, s.now_ns, each) {
            return Err(DropReason::AttemptRateLimited);
        }
        let _ = ATTEMPTS.remove(&s.key);
        CROWD.insert(&s.key, &s.attempt, 0)
    };
    inserted.map_err(|_| DropReason::AttemptTableFull)
}

#[inline(always)]
fn has_place(s: &Scratch, address: Address, per_second: u32, from_start: bool) -> bool {
    let key = standing_key(s, address);
    if let Some(value) = STANDING.get_ptr_mut(&key) {
        // SAFETY: a live map value; CPUs that race may grant a token twice, which a quota can bear.
        return bucket::take(unsafe { &mut *value }, s.now_ns, per_second);
    }
    // An empty bucket fills up when it is first taken from.
    from_start && STANDING.insert(&key, &BucketValue::default(), 0).is_ok()
}

#[inline(always)]
fn standing_key(s: &Scratch, address: Address) -> AddressKey {
    AddressKey { address, workload: s.interface.workload, zero: [0; 6] }
}

/// The peer proved itself from this address: its next calls from there have a place.
#[inline(always)]
pub fn peer_proved(s: &Scratch) {
    give_back(s, s.key.remote, 1, true);
}

/// A call of the workload was answered, so it no longer counts as half-open.
#[inline(always)]
pub fn call_answered(s: &Scratch) {
    give_back(s, [0; 16], OWN_CALLS, false);
}

/// A connection without identity that came from outside is open.
#[inline(always)]
pub fn stranger_opened(s: &Scratch) {
    if let Some(config) = CONFIG.get(0) {
        let each = config.attempts_per_source;
        counter::give_back(s.interface.workload, source(s), Limit::Attempts, each);
    }
}

#[inline(always)]
fn give_back(s: &Scratch, address: Address, times: u32, or_begin: bool) {
    let Some(config) = CONFIG.get(0) else { return };
    let key = standing_key(s, address);
    if let Some(value) = STANDING.get_ptr_mut(&key) {
        // SAFETY: as in `has_place`.
        bucket::give_back(unsafe { &mut *value }, config.attempts_per_source * times);
    } else if or_begin {
        // A full table costs the standing, not the connection.
        let _ = STANDING.insert(&key, &BucketValue::default(), 0);
    }
}

/// The source as the limit tells them apart: an IPv4 address; of IPv6 the /64, since whoever has one
/// address of it has them all.
#[inline(always)]
fn source(s: &Scratch) -> [u8; 8] {
    let a = &s.key.remote;
    if s.packet.family == 4 {
        [0xff, 0xff, 0, 0, a[12], a[13], a[14], a[15]]
    } else {
        [a[0] | 1, a[1], a[2], a[3], a[4], a[5], a[6], a[7]]
    }
}

/// Counts `s.flow`, which is about to be inserted, against the workload's share of the table. Not zero:
/// there is no room, and nothing was counted.
#[inline(never)]
pub fn take_flow(s: &mut Scratch) -> u32 {
    let (protocol, flags) = (s.key.protocol, s.flow.flags);
    note_share(s, protocol, flags);
    match try_take_flow(s) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// Leaves in the scratch which number the flows of the packet's tuple count in: through memory, so that the
/// verifier walks what follows once and not once for each.
#[inline(always)]
fn note_share(s: &mut Scratch, protocol: u8, flags: u8) {
    s.share.set(share::index(protocol, flags, s.packet.family) as u32);
}

#[inline(always)]
fn try_take_flow(s: &Scratch) -> Result<(), DropReason> {
    let entries = CONFIG.get(0).ok_or(DropReason::Internal)?.flows;
    let index = s.share.value() as usize;
    let workload = u32::from(s.interface.workload);
    let (own, all) = (opened(workload, index)?, opened(SHARE_OF_ALL, share::table(index))?);
    // SAFETY: live map values; CPUs that race may each take the last place, which a share can bear.
    let (own_now, all_now) = unsafe { (*own, *all) };
    let held = share::held(own_now, gone(workload, index));
    let in_table = share::held(all_now, gone(SHARE_OF_ALL, share::table(index)));
    if !share::has_room(index, entries, held, in_table) {
        let is_tcp = s.key.protocol == protocol::TCP;
        return Err(if is_tcp { DropReason::FlowShare } else { DropReason::DatagramShare });
    }
    // SAFETY: as above, and only atomics write them.
    unsafe {
        atomic::add(own, 1);
        atomic::add(all, 1);
    }
    Ok(())
}

/// A flow that [`take_flow`] counted was not inserted.
#[inline(always)]
pub fn give_back_flow(s: &Scratch) {
    uncount(s);
}

/// A flow of the packet's tuple, with these flags, was removed.
#[inline(always)]
pub fn flow_removed(s: &mut Scratch, flags: u8) {
    let protocol = s.key.protocol;
    note_share(s, protocol, flags);
    uncount(s);
}

#[inline(never)]
fn uncount(s: &Scratch) -> u32 {
    let index = s.share.value() as usize;
    for (workload, index) in
        [(u32::from(s.interface.workload), index), (SHARE_OF_ALL, share::table(index))]
    {
        if let Ok(opened) = opened(workload, index) {
            // SAFETY: a live map value that only atomics write.
            unsafe { atomic::add(opened, u64::MAX) };
        }
    }
    0
}

/// The number of a share's flows that were opened.
#[inline(always)]
fn opened(workload: u32, index: usize) -> Result<*mut u64, DropReason> {
    let value = SHARES_OPENED.get_ptr_mut(workload).ok_or(DropReason::Internal)?;
    // SAFETY: a live map value.
    let number = unsafe { (*value).flows.get_mut(index) };
    number.map(core::ptr::from_mut).ok_or(DropReason::Internal)
}

#[inline(always)]
fn gone(workload: u32, index: usize) -> u64 {
    SHARES_GONE.get(workload).and_then(|value| value.flows.get(index)).map_or(0, |gone| *gone)
}
