//! Reads the clocks for the engine.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::datapath::boot_ns;
use crate::engine::{Now, SECOND_NS};
use crate::fault;

/// What time it is.
pub(super) fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ns = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
    let offset_ns = fault::clock_offset_seconds().saturating_mul(SECOND_NS.cast_signed());
    Now { boot_ns: boot_ns(), unix_ns: unix_ns.saturating_add_signed(offset_ns) }
}
