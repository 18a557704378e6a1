//! What the daemon answers, as far as tests read it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `enforcer counters --json`, as far as tests read it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Counters {
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// What else happened.
    pub events: BTreeMap<String, u64>,
}

impl Counters {
    /// Packets dropped for a reason.
    #[must_use]
    pub fn drop(&self, reason: &str) -> u64 {
        self.drops.get(reason).copied().unwrap_or(0)
    }

    /// How often an event happened.
    #[must_use]
    pub fn event(&self, name: &str) -> u64 {
        self.events.get(name).copied().unwrap_or(0)
    }

    /// The rise of every counter since an earlier reading; those that did not move are left out.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            drops: risen(&self.drops, &earlier.drops),
            events: risen(&self.events, &earlier.events),
        }
    }
}

fn risen(now: &BTreeMap<String, u64>, earlier: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let rise = |(name, value): (&String, &u64)| {
        let before = earlier.get(name).copied().unwrap_or(0);
        (name.clone(), value.saturating_sub(before))
    };
    now.iter().map(rise).filter(|(_, rise)| *rise > 0).collect()
}

/// `enforcer status --json`, as far as tests read it.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Whether every workload is attached and enforced.
    pub ready: bool,
    /// The policy epoch in force.
    pub epoch: u64,
    /// How often the policy was loaded.
    pub policy_generation: u64,
    /// Entries of the flow tables.
    pub flows: u64,
}
