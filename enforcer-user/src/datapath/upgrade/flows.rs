//! Flows and half-open connections: programs of both layouts write theirs while places change, so they are
//! brought over three times.

#![allow(clippy::useless_conversion, reason = "a layout may have left a value as it was")]

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::path::Path;

use aya::Pod;
use enforcer_common::abi::{
    AttemptValue, FlowKey, FlowValue, before, flow_flags, flow_state, role,
};
use enforcer_common::datapath::sequence::later;

use super::super::error::DatapathError;
use super::super::maps::Maps;
use super::super::table::Table;

/// When flows are brought over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Before any new program runs.
    First,
    /// The new `to_workload` runs everywhere, the old one nowhere.
    Again,
    /// No old program runs any more.
    Last,
}

/// Brings over what the maps in `old` know of connections and `maps` do not. May be repeated.
///
/// # Errors
/// In the first pass, also a full table. Later ones leave out what does not fit: programs of the new layout
/// fill the table too, and it refuses what is new.
pub(super) fn carry(old: &Path, maps: &mut Maps, pass: Pass) -> Result<(), DatapathError> {
    let half_open = HalfOpen::open(old)?;
    // What is half open is brought over as close as can be to the moment in which places change: whoever
    // sends again meanwhile would begin anew, and the far side knows the first nonce only.
    if pass == Pass::Last {
        half_open.carry(maps)?;
    }
    let flows4 = Table::<before::FlowKey4, before::FlowValue>::open(old, "FLOWS4")?;
    let flows6 = Table::<before::FlowKey6, before::FlowValue>::open(old, "FLOWS6")?;
    let Maps { flows4: to4, flows6: to6, attempts, crowd, .. } = maps;
    let now = [&*attempts, &*crowd];
    let left_out = carry_flows(&flows4, to4, now, pass)? + carry_flows(&flows6, to6, now, pass)?;
    if left_out > 0 {
        tracing::warn!(left_out, "flow table full: flows of the layout before are lost");
    }
    end_flows(&flows4, to4)?;
    end_flows(&flows6, to6)?;
    if pass != Pass::Last {
        half_open.carry(maps)?;
    }
    half_open.end(maps)
}

fn carry_flows<B, K>(
    from: &Table<B, before::FlowValue>,
    to: &mut Table<K, FlowValue>,
    half_open: [&Table<FlowKey, AttemptValue>; 2],
    pass: Pass,
) -> Result<u64, DatapathError>
where
    B: Pod + Debug + Default,
    K: Pod + Debug + Default + From<B> + Into<FlowKey>,
{
    let mut left_out = 0;
    from.try_for_each(|key, value| {
        let (key, before) = (K::from(*key), FlowValue::from(*value));
        let now = to.lookup(&key)?;
        if now.is_none() && is_begun_anew(half_open, &key.into(), &before)? {
            return Ok(());
        }
        let Some(flow) = carried(&before, now.as_ref(), pass) else { return Ok(()) };
        match to.insert(&key, &flow) {
            Err(DatapathError::Full { .. }) if pass != Pass::First => left_out += 1,
            inserted => inserted?,
        }
        Ok(())
    })?;
    Ok(left_out)
}

/// Whether a new connection of the same tuple was begun since: the new programs removed the flow.
fn is_begun_anew(
    half_open: [&Table<FlowKey, AttemptValue>; 2],
    key: &FlowKey,
    flow: &FlowValue,
) -> Result<bool, DatapathError> {
    for table in half_open {
        if table.lookup(key)?.is_some_and(|attempt| attempt.created_ns > flow.seen_ns) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the new table must hold of a flow that the old one holds as `before`; `None` if it is right as it
/// is.
fn carried(before: &FlowValue, now: Option<&FlowValue>, pass: Pass) -> Option<FlowValue> {
    let mut flow = match now {
        // Traffic is counted from nothing until the last pass, so that it can be added then.
        None => FlowValue { packets_out: 0, packets_in: 0, bytes_out: 0, bytes_in: 0, ..*before },
        Some(now) if now.flags & flow_flags::CARRIED != 0 => together(before, now),
        // The old programs know who it is that the new ones met without an attempt.
        Some(now) if is_adopted(now) && !is_adopted(before) => FlowValue {
            flags: before.flags | now.flags & !flow_flags::ADOPTED & !flow_flags::PLAIN,
            ..together(before, now)
        },
        // The new programs opened it themselves: it is younger.
        Some(_) => return None,
    };
    flow.flags |= flow_flags::CARRIED;
    if pass == Pass::Last {
        flow.flags &= !flow_flags::CARRIED;
        flow.packets_out = flow.packets_out.wrapping_add(before.packets_out);
        flow.packets_in = flow.packets_in.wrapping_add(before.packets_in);
        flow.bytes_out = flow.bytes_out.wrapping_add(before.bytes_out);
        flow.bytes_in = flow.bytes_in.wrapping_add(before.bytes_in);
    }
    (now != Some(&flow)).then_some(flow)
}

fn is_adopted(flow: &FlowValue) -> bool {
    flow.flags & flow_flags::ADOPTED != 0
}

/// A flow that programs of both layouts have seen packets of, with the traffic of the new ones.
fn together(before: &FlowValue, now: &FlowValue) -> FlowValue {
    let traffic = FlowValue {
        packets_out: now.packets_out,
        packets_in: now.packets_in,
        bytes_out: now.bytes_out,
        bytes_in: now.bytes_in,
        ..*before
    };
    if now.packets_out == 0 && now.packets_in == 0 {
        return traffic;
    }
    // States are numbered in the order in which a flow goes through them, and cutting is the last.
    let further = if now.state >= before.state { now } else { before };
    FlowValue {
        state: further.state,
        deadline_ns: further.deadline_ns,
        epoch: further.epoch,
        flags: before.flags | now.flags,
        seen_ns: before.seen_ns.max(now.seen_ns),
        local_next: later(before.local_next, now.local_next),
        local_ack: later(before.local_ack, now.local_ack),
        remote_next: later(before.remote_next, now.remote_next),
        remote_end: if now.flags & flow_flags::FIN_IN != 0 { now } else { before }.remote_end,
        remote_ack: later(before.remote_ack, now.remote_ack),
        ..traffic
    }
}

/// Removes copies of flows that the old programs removed since: a new connection has the tuple.
fn end_flows<B, K>(
    from: &Table<B, before::FlowValue>,
    to: &mut Table<K, FlowValue>,
) -> Result<(), DatapathError>
where
    B: Pod + Debug + Default,
    K: Pod + Debug + Default + From<B> + Eq + Hash,
{
    let mut present = HashSet::new();
    from.for_each(|key, _| {
        present.insert(K::from(*key));
    })?;
    to.remove_if(|key, flow| flow.flags & flow_flags::CARRIED != 0 && !present.contains(key))?;
    Ok(())
}

/// The half-open connections of the layout before.
struct HalfOpen {
    placed: Table<before::FlowKey, before::AttemptValue>,
    crowd: Table<before::FlowKey, before::AttemptValue>,
}

impl HalfOpen {
    fn open(old: &Path) -> Result<Self, DatapathError> {
        Ok(Self { placed: Table::open(old, "ATTEMPTS")?, crowd: Table::open(old, "CROWD")? })
    }

    fn carry(&self, maps: &mut Maps) -> Result<(), DatapathError> {
        for (table, in_crowd) in [(&self.placed, false), (&self.crowd, true)] {
            table.try_for_each(|key, value| {
                carry_attempt(maps, FlowKey::from(*key), &AttemptValue::from(*value), in_crowd)
            })?;
        }
        Ok(())
    }

    /// Removes copies of attempts that a proof has ended since: repeated, it must not open the flow again.
    fn end(&self, maps: &mut Maps) -> Result<(), DatapathError> {
        let mut present = HashSet::new();
        for table in [&self.placed, &self.crowd] {
            table.for_each(|key, _| {
                present.insert(FlowKey::from(*key));
            })?;
        }
        let mut ended = Vec::new();
        for table in [&maps.attempts, &maps.crowd] {
            table.try_for_each(|key, attempt| {
                if attempt.role != role::CLIENT
                    && !present.contains(key)
                    && maps.flow(key)?.is_some_and(|flow| came_of(&flow, attempt))
                {
                    ended.push(*key);
                }
                Ok(())
            })?;
        }
        for key in ended {
            maps.attempts.remove(&key)?;
            maps.crowd.remove(&key)?;
        }
        Ok(())
    }
}

fn carry_attempt(
    maps: &mut Maps,
    key: FlowKey,
    before: &AttemptValue,
    in_crowd: bool,
) -> Result<(), DatapathError> {
    let placed = maps.attempts.lookup(&key)?;
    let now = placed.or(maps.crowd.lookup(&key)?);
    // The new programs ended theirs.
    let opened = maps
        .flow(&key)?
        .is_some_and(|flow| flow.flags & flow_flags::CARRIED == 0 && came_of(&flow, before));
    let ended = before.role != role::CLIENT && opened;
    if ended || now.is_some_and(|now| !is_further(before, &now)) {
        return Ok(());
    }
    // It keeps the place that the new programs gave it.
    let crowded = if now.is_some() { placed.is_none() } else { in_crowd };
    let table = if crowded { &mut maps.crowd } else { &mut maps.attempts };
    table.insert(&key, before)
}

/// Whether a flow may be what an attempt led to, and not the connection that had the tuple before it.
fn came_of(flow: &FlowValue, attempt: &AttemptValue) -> bool {
    flow.state != flow_state::UNCONFIRMED && attempt.created_ns < flow.seen_ns
}

/// Whether the old programs took an attempt further than the new ones did; or it is a call that the new
/// ones, which did not know it, began once more: the far side has the first nonce.
fn is_further(before: &AttemptValue, now: &AttemptValue) -> bool {
    let is_same = before.created_ns == now.created_ns && before.answered > now.answered;
    let is_first = before.role == role::CLIENT
        && before.local_isn == now.local_isn
        && before.created_ns < now.created_ns
        && now.answered == 0;
    is_same || is_first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(state: u8, next: u32) -> FlowValue {
        FlowValue {
            peer: 7,
            state,
            local_next: next,
            remote_next: next,
            packets_out: 5,
            packets_in: 3,
            bytes_out: 500,
            bytes_in: 300,
            seen_ns: 10,
            ..FlowValue::default()
        }
    }

    fn traffic(flow: &FlowValue) -> [u64; 4] {
        [flow.packets_out.into(), flow.packets_in.into(), flow.bytes_out, flow.bytes_in]
    }

    #[test]
    fn traffic_of_both_layouts_adds_up_once() {
        let before = flow(flow_state::ESTABLISHED, 100);
        let mut now = carried(&before, None, Pass::First).unwrap();
        assert_eq!(traffic(&now), [0; 4]);
        now.packets_out = 2;
        now.bytes_out = 80;
        assert_eq!(carried(&before, Some(&now), Pass::Again), None, "nothing is new");
        let before = FlowValue { packets_in: 4, bytes_in: 340, seen_ns: 20, ..before };
        let again = carried(&before, Some(&now), Pass::Again).unwrap();
        assert_eq!(traffic(&again), [2, 0, 80, 0]);
        let last = carried(&before, Some(&again), Pass::Last).unwrap();
        assert_eq!(traffic(&last), [7, 4, 580, 340]);
        assert_eq!(last.flags, 0);
        assert_eq!(carried(&before, Some(&last), Pass::Last), None, "repeated");
    }

    #[test]
    fn a_flow_that_only_the_old_programs_know_comes_whole() {
        let before = flow(flow_state::CLOSING, 100);
        assert_eq!(carried(&before, None, Pass::Last), Some(before));
    }

    #[test]
    fn bounds_and_states_never_go_back() {
        let before = FlowValue { local_next: 200, ..flow(flow_state::ESTABLISHED, 100) };
        let flags = flow_flags::CARRIED | flow_flags::FIN_IN;
        let now = flow(flow_state::CLOSING, 100);
        let now = FlowValue { remote_next: 300, remote_end: 300, flags, ..now };
        let last = carried(&before, Some(&now), Pass::Last).unwrap();
        assert_eq!((last.local_next, last.remote_next, last.remote_end), (200, 300, 300));
        assert_eq!((last.state, last.flags), (flow_state::CLOSING, flow_flags::FIN_IN));
        let cut = FlowValue { state: flow_state::CUT, ..before };
        assert_eq!(carried(&cut, Some(&now), Pass::Last).unwrap().state, flow_state::CUT);
    }

    #[test]
    fn a_copy_that_saw_no_packet_is_replaced_by_what_the_old_programs_made_of_it() {
        let copy = carried(&flow(flow_state::ESTABLISHED, u32::MAX), None, Pass::First).unwrap();
        let other = flow(flow_state::ESTABLISHED, 1 << 31);
        let again = carried(&other, Some(&copy), Pass::Again).unwrap();
        assert_eq!(again.local_next, 1 << 31);
    }

    #[test]
    fn a_flow_that_the_new_programs_opened_stays_as_it_is() {
        let (before, now) = (flow(flow_state::CLOSING, 1), flow(flow_state::ESTABLISHED, 9));
        assert_eq!(carried(&before, Some(&now), Pass::Again), None);
        assert_eq!(carried(&before, Some(&now), Pass::Last), None);
    }

    #[test]
    fn a_flow_that_was_met_without_an_attempt_gets_its_identity_back() {
        let flags = flow_flags::ADOPTED | flow_flags::PLAIN;
        let now = FlowValue { peer: 0, flags, ..flow(flow_state::ESTABLISHED, 9) };
        let last = carried(&flow(flow_state::ESTABLISHED, 8), Some(&now), Pass::Last).unwrap();
        assert_eq!((last.peer, last.flags, last.local_next), (7, 0, 9));
    }

    #[test]
    fn an_attempt_is_replaced_only_by_what_the_far_side_knows_of_it() {
        let asked = AttemptValue { created_ns: 5, ..AttemptValue::default() };
        let answered = AttemptValue { answered: 1, ..asked };
        assert!(is_further(&answered, &asked));
        assert!(!is_further(&asked, &asked));
        assert!(!is_further(&AttemptValue { created_ns: 4, ..answered }, &asked));
        let call = AttemptValue { role: role::CLIENT, local_isn: 9, ..asked };
        let again = AttemptValue { created_ns: 6, ..call };
        assert!(is_further(&call, &again));
        assert!(!is_further(&again, &call));
        assert!(!is_further(&call, &AttemptValue { local_isn: 8, ..again }));
    }
}
