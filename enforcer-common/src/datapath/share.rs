//! Shares of the flow tables for protocols without connections.
//!
//! Programs count what they open and cannot count what goes, since the daemon removes it; the daemon
//! counts what is there. Each writes a number of its own: the flows in the table are at most those
//! opened less those gone.

/// Key of a share: the workload, and whether its own packets open the flows.
#[must_use]
#[inline(always)]
pub const fn key(workload: u16, from_workload: bool) -> u32 {
    workload as u32 | (from_workload as u32) << 16
}

/// How many are gone, after a walk over the tables that began when `opened` had been opened and found
/// `present`. What is opened during the walk counts as present, found or not.
/// Wraps, where the programs lost counts: the difference to what is opened is right all the same.
#[must_use]
pub const fn gone(opened: u64, present: u64) -> u64 {
    opened.wrapping_sub(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_and_directions_have_shares_of_their_own() {
        let keys = [key(1, true), key(1, false), key(2, true), key(u16::MAX, true)];
        assert_eq!(keys, [0x1_0001, 1, 0x1_0002, 0x1_ffff]);
    }

    #[test]
    fn what_is_open_is_what_a_walk_found_and_what_came_since() {
        for (opened, present) in [(10u64, 4), (4, 10), (u64::MAX, 1)] {
            let since = 3;
            let open = opened.wrapping_add(since).wrapping_sub(gone(opened, present));
            assert_eq!(open, present + since);
        }
    }
}
