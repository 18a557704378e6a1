//! Keeps one segment from circling between kernel and daemon.

use std::collections::HashMap;

use enforcer_common::abi::FlowKey;

use super::clock::{Now, SECOND_NS};

/// How often one segment is re-injected within a second.
pub const MAX_REINJECTIONS: u8 = 2;
/// The most segments that are remembered; beyond it nothing more is re-injected in that second.
const MAX_SEGMENTS: usize = 65_536;

/// What tells a segment from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentId {
    /// Its tuple.
    pub key: FlowKey,
    /// Its sequence number.
    pub sequence: u32,
    /// Its TCP flags.
    pub flags: u8,
}

/// Counts re-injections in windows of a second.
#[derive(Debug, Default)]
pub struct Guard {
    window_ns: u64,
    seen: HashMap<SegmentId, u8>,
}

impl Guard {
    /// Whether the segment may go once more; counts it if so.
    pub fn admits(&mut self, segment: SegmentId, now: Now) -> bool {
        if now.boot_ns.saturating_sub(self.window_ns) >= SECOND_NS {
            self.window_ns = now.boot_ns;
            self.seen.clear();
        }
        if self.seen.len() >= MAX_SEGMENTS && !self.seen.contains_key(&segment) {
            return false;
        }
        let times = self.seen.entry(segment).or_insert(0);
        let admitted = *times < MAX_REINJECTIONS;
        *times += u8::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_a_second_and_no_more() {
        let at = |boot_ns| Now { boot_ns, unix_ns: 0 };
        let segment = SegmentId { key: FlowKey::default(), sequence: 1, flags: 2 };
        let mut guard = Guard::default();
        let seen: Vec<bool> =
            (0..4).map(|n| guard.admits(segment, at(5 * SECOND_NS + n))).collect();
        assert_eq!(seen, [true, true, false, false]);
        assert!(guard.admits(SegmentId { sequence: 2, ..segment }, at(5 * SECOND_NS)));
        assert!(guard.admits(segment, at(6 * SECOND_NS)));
    }
}
