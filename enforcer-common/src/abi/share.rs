//! What workloads have in the flow tables.

use super::pod;

/// How many flows of each kind, in each table, as `datapath::share` indexes them: those ever opened, or
/// those of them that are gone. Both wrap; their difference is what is there.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShareValue {
    /// One number for each kind of flow of IPv4, then of IPv6.
    pub flows: [u64; SHARE_COUNTS],
}

pod!(ShareValue = 80);

/// Numbers of a [`ShareValue`].
pub const SHARE_COUNTS: usize = 10;

/// The row of what all workloads have together: its first number is of the table of IPv4, its second of
/// that of IPv6. No workload has this id.
pub const SHARE_OF_ALL: u32 = 0;
