//! Network rules: what may be exchanged with addresses that have no identity.
//!
//! `[[network_rule]] -> check -> NetworkRule -> compile for one workload -> longest-prefix table`.

mod compile;
mod host;
mod rule;

pub use compile::{
    HostEntries, MAX_ENTRIES_A_PREFIX, MAX_TABLES, NetworkEntry, NetworkPrefix, NetworkTable,
    NetworkTables, compile,
};
pub use host::{HostPattern, host_name};
pub use rule::{
    Direction, MAX_CIDRS, MAX_HOSTS, MAX_PORT_RANGES, MAX_RULES, NetworkRule, NetworkRuleError,
    NetworkRuleSpec, check_rules,
};

#[cfg(test)]
mod tests;
