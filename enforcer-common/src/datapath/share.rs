//! Shares of the flow tables: how much of a table a workload may hold with flows of one kind.
//!
//! A share may hold a multiple of what is *free* (the dynamic thresholds of Choudhury and Hahne, "Dynamic
//! queue length thresholds for shared-memory packet switches", 1998). Who is alone gets most of the table,
//! many greedy ones get equal parts, and whatever they do something stays free for who has nothing yet.
//!
//! Programs count what they open, less what they end themselves, the daemon what it removes; each writes a
//! number of its own, and what is in the table is the difference. What neither sees (a daemon that died
//! between removing and counting) the daemon's next walk over the tables puts right.

use crate::abi::{SHARE_COUNTS, flow_flags};
use crate::wire::frame::protocol;

/// Kinds of flows that have shares of their own, so that none of them can take from another.
mod kind {
    /// Not TCP, opened from outside.
    pub const DATAGRAMS_IN: usize = 0;
    /// Not TCP, opened by the workload.
    pub const DATAGRAMS_OUT: usize = 1;
    /// TCP that somebody without identity opened, or that was open before.
    pub const STRANGERS: usize = 2;
    /// TCP that a proven peer opened.
    pub const PEERS: usize = 3;
    /// TCP that the workload opened, with an identity or without.
    pub const CALLS: usize = 4;
    /// How many there are.
    pub const ALL: usize = 5;
}

const _: () = assert!(SHARE_COUNTS == 2 * kind::ALL);

/// Where a share's value holds the flows of a protocol and of [`flow_flags`], in the table of a family (4
/// or 6). These do not change while a flow lives.
#[must_use]
#[inline(always)]
pub const fn index(ip_protocol: u8, flags: u8, family: u8) -> usize {
    let initiator = flags & flow_flags::INITIATOR != 0;
    let kind = if ip_protocol != protocol::TCP {
        if initiator { kind::DATAGRAMS_OUT } else { kind::DATAGRAMS_IN }
    } else if initiator {
        kind::CALLS
    } else if flags & flow_flags::PLAIN != 0 {
        kind::STRANGERS
    } else {
        kind::PEERS
    };
    if family == 4 { kind } else { kind::ALL + kind }
}

/// Where the value of [`crate::abi::SHARE_OF_ALL`] holds all flows of the table that an [`index`] is of.
#[must_use]
#[inline(always)]
pub const fn table(index: usize) -> usize {
    (index >= kind::ALL) as usize
}

/// Flows that are there, of those opened and those gone. The two are read one after the other, and none
/// is less than nothing.
#[must_use]
#[inline(always)]
pub const fn held(opened: u64, gone: u64) -> u64 {
    let held = opened.wrapping_sub(gone);
    if held > i64::MAX as u64 { 0 } else { held }
}

/// Whether a share that holds `held` flows may open one more in its table of `entries`, of which all shares
/// hold `in_table`.
///
/// Alone, a share gets 15/16 of the table with proven peers and the workload's own calls, 3/4 with strangers
/// and 1/4 with datagrams.
#[must_use]
#[inline(always)]
pub const fn has_room(index: usize, entries: u32, held: u64, in_table: u64) -> bool {
    let free = (entries as u64).saturating_sub(in_table);
    let kind = if index >= kind::ALL { index - kind::ALL } else { index };
    match kind {
        kind::DATAGRAMS_IN | kind::DATAGRAMS_OUT => held < free.div_ceil(3),
        kind::STRANGERS => held < free * 3,
        _ => held < free * 15,
    }
}

/// How many must count as gone after a walk over a table that found `found` flows, where programs had
/// opened, less what they ended, `opened` when it began and `opened_now` when it ended, and `gone` counts as
/// gone now.
///
/// What came during the walk was found or not, so this many more may be there; what programs ended may have
/// been found before. A count within these bounds stays as it is, and another is moved to the nearer one.
/// Flows that come and end in equal numbers during one walk are not seen: the next walk puts that right.
#[must_use]
pub const fn settled(opened: u64, opened_now: u64, gone: u64, found: u64) -> u64 {
    let most = found + held(opened_now, opened);
    let least = found.saturating_sub(held(opened, opened_now));
    let counted = opened_now.wrapping_sub(gone).cast_signed();
    let present = if counted < least.cast_signed() {
        least
    } else if counted > most.cast_signed() {
        most
    } else {
        return gone;
    };
    opened_now.wrapping_sub(present)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UDP: u8 = 17;
    const ENTRIES: u32 = 1024;

    /// Every index, by protocol, flags and family.
    fn indices() -> Vec<usize> {
        let of = |family| {
            [
                index(UDP, 0, family),
                index(UDP, flow_flags::INITIATOR | flow_flags::PLAIN, family),
                index(protocol::TCP, flow_flags::PLAIN, family),
                index(protocol::TCP, 0, family),
                index(protocol::TCP, flow_flags::INITIATOR, family),
            ]
        };
        [of(4), of(6)].concat()
    }

    /// Fills what each of `shares` may have, in turns, until none has room.
    fn filled(shares: &[usize]) -> Vec<u64> {
        let mut held = vec![0; shares.len()];
        loop {
            let before = held.clone();
            for (share, index) in shares.iter().enumerate() {
                let all = held.iter().sum();
                held[share] += u64::from(has_room(*index, ENTRIES, held[share], all));
            }
            if held == before {
                return held;
            }
        }
    }

    #[test]
    fn every_kind_and_family_has_a_number_of_its_own() {
        assert_eq!(indices(), (0..SHARE_COUNTS).collect::<Vec<_>>());
        let own = index(protocol::TCP, flow_flags::INITIATOR | flow_flags::PLAIN, 4);
        assert_eq!(
            own,
            kind::CALLS,
            "a workload's own calls are its own, with an identity or without"
        );
        let tables: Vec<usize> = indices().into_iter().map(table).collect();
        assert_eq!(tables, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn alone_a_share_gets_most_of_the_table_and_something_stays_free() {
        let entries = u64::from(ENTRIES);
        for (kind, parts) in [
            (kind::DATAGRAMS_IN, entries / 4),
            (kind::DATAGRAMS_OUT, entries / 4),
            (kind::STRANGERS, entries * 3 / 4),
            (kind::PEERS, entries * 15 / 16),
            (kind::CALLS, entries * 15 / 16),
        ] {
            assert_eq!(filled(&[kind]), [parts], "{kind}");
            assert_eq!(filled(&[kind::ALL + kind]), [parts], "{kind} of the other family");
        }
    }

    #[test]
    fn many_greedy_shares_leave_room_for_one_that_has_nothing() {
        for many in 1..=60 {
            let mut shares = vec![kind::CALLS; many];
            let all: u64 = filled(&shares).iter().sum();
            assert!(all < u64::from(ENTRIES), "{many}: {all}");
            shares.push(kind::PEERS);
            assert!(has_room(kind::PEERS, ENTRIES, 0, all));
        }
    }

    #[test]
    fn strangers_of_several_workloads_leave_proven_peers_their_part() {
        let held: u64 = filled(&[kind::STRANGERS; 3]).iter().sum();
        let free = u64::from(ENTRIES) - held;
        assert_eq!(free, 102, "a tenth");
        let peers = (0..free).take_while(|n| has_room(kind::PEERS, ENTRIES, *n, held + n)).count();
        assert!(peers > 90, "{peers}");
    }

    #[test]
    fn a_difference_below_nothing_is_nothing() {
        assert_eq!(held(5, 6), 0);
        assert_eq!(held(1, u64::MAX), 2);
        assert!(has_room(kind::CALLS, ENTRIES, held(5, 6), 0));
        assert!(!has_room(kind::CALLS, ENTRIES, 0, u64::from(ENTRIES) + 9));
    }

    #[test]
    fn a_count_that_a_walk_cannot_doubt_stays() {
        assert_eq!(settled(100, 150, 60, 40), 60, "50 came, 40 were found, 90 are counted");
        assert_eq!(settled(100, 150, 90, 60), 90, "the very number");
    }

    #[test]
    fn a_count_beside_what_a_walk_found_is_moved_to_it() {
        assert_eq!(held(150, settled(100, 150, 0, 40)), 90, "too many: as many as may be there");
        assert_eq!(held(150, settled(100, 150, 140, 40)), 40, "too few");
        assert_eq!(
            held(0, settled(0, 0, 0, 7)),
            7,
            "nobody counted what another layout had opened"
        );
    }

    #[test]
    fn what_programs_end_during_a_walk_is_not_counted_again() {
        assert_eq!(settled(100, 0, 0, 100), 0, "all were found, and have ended since");
        assert_eq!(held(40, settled(100, 40, 0, 100)), 40, "some have");
        assert_eq!(held(90, settled(100, 90, 60, 100)), 90, "too few: ten have ended");
    }

    proptest! {
        #[test]
        fn a_walk_leaves_a_count_between_what_it_found_and_what_came_since(
            opened: u64, came in 0u64..1 << 40, gone: u64, found in 0u64..1 << 40,
        ) {
            let now = opened.wrapping_add(came);
            let left = now.wrapping_sub(settled(opened, now, gone, found));
            prop_assert!((found..=found + came).contains(&left));
        }

        #[test]
        fn a_right_count_is_left_alone(
            opened: u64, came in 0u64..1 << 20, missed in 0u64..1 << 20, found in 0u64..1 << 20,
        ) {
            let now = opened.wrapping_add(came);
            let present = found + missed.min(came);
            let gone = now.wrapping_sub(present);
            prop_assert_eq!(settled(opened, now, gone, found), gone);
        }

        #[test]
        fn a_right_count_is_left_alone_when_programs_end_flows(
            opened: u64, ended in 0u64..1 << 20, missed in 0u64..1 << 20, kept in 0u64..1 << 20,
        ) {
            let now = opened.wrapping_sub(ended);
            let gone = now.wrapping_sub(kept);
            let found = kept + ended - missed.min(ended);
            prop_assert_eq!(settled(opened, now, gone, found), gone);
        }
    }
}
