//! What is aimed at, and whether it is met.

use serde::Serialize;

use super::bypass::Bypasses;
use super::cold::Cold;
use super::engine::Costs;
use super::figures::{Figures, Samples, Spread, percentile_99};
use super::flood::{Floods, Kind};
use super::flows::{Flows, Memory, Point};
use super::process::{Processes, Usage};
use super::program::Programs;
use super::report::Measured;
use super::rounds::{CLIENTS, P50, P99, STREAMS, rate_name, stream_name};
use super::stage::Setting;

/// One aim.
#[derive(Debug, Clone, Serialize)]
pub struct Budget {
    /// What is limited.
    pub name: String,
    /// The limit, in the unit that the name ends with; ratios are to native unless the name says otherwise.
    pub limit: f64,
    /// What was measured: the median of the rounds or samples.
    pub value: f64,
    /// Whether the value keeps the limit.
    pub met: bool,
    /// Whether the limit is the least that is wanted; otherwise it is the most.
    pub at_least: bool,
}

impl Budget {
    fn at_least(name: impl Into<String>, limit: f64, value: f64) -> Self {
        Self { name: name.into(), limit, value, met: value >= limit, at_least: true }
    }

    fn at_most(name: impl Into<String>, limit: f64, value: f64) -> Self {
        Self { name: name.into(), limit, value, met: value <= limit, at_least: false }
    }
}

/// All of them.
pub fn all(measured: &Measured) -> Vec<Budget> {
    let Measured { rounds, processes, .. } = measured;
    let mut budgets = connections(rounds);
    budgets.extend(cold(&measured.cold));
    for streams in STREAMS {
        let value = ratio(rounds, &stream_name(streams), Setting::Native);
        budgets.push(Budget::at_least(format!("throughput_{streams}_ratio"), 0.98, value));
    }
    budgets.extend(programs(&measured.programs));
    budgets.push(Budget::at_most("daemon_resident_mb", 30.0, resident_mb(processes)));
    budgets.push(warm(&processes.warm));
    budgets.extend(engine(&measured.engine));
    budgets.extend(floods(&measured.flood));
    budgets.extend(bypasses(&measured.bypass));
    budgets.extend(flows(&measured.flows));
    budgets
}

/// Rate and latency of warm connections.
pub fn connections(rounds: &[Figures]) -> Vec<Budget> {
    let mut budgets = Vec::new();
    for clients in CLIENTS {
        let value = ratio(rounds, &rate_name(clients), Setting::Native);
        budgets.push(Budget::at_least(format!("connection_rate_{clients}_ratio"), 0.95, value));
    }
    for clients in CLIENTS {
        let value = ratio(rounds, &rate_name(clients), Setting::Nftables);
        let name = format!("connection_rate_{clients}_ratio_to_nftables");
        budgets.push(Budget::at_least(name, 1.0, value));
    }
    let to_native = |measure| ratio(rounds, measure, Setting::Native);
    budgets.push(Budget::at_most("connect_p50_ratio", 1.10, to_native(P50)));
    budgets.push(Budget::at_most("connect_p99_ratio", 1.25, to_native(P99)));
    budgets
}

/// The median ratio of the enforced setting to another.
fn ratio(rounds: &[Figures], measure: &str, to: Setting) -> f64 {
    Samples { rounds, measure }.ratio(Setting::Enforced, to).median
}

/// What both daemons may use for a warm connection: nothing, within what a tick of the clock of process times is worth.
pub fn warm(usage: &Usage) -> Budget {
    Budget::at_most("daemons_warm_connection_us", 1.0, usage.micros_per_connection())
}

/// What a first contact may add to a connect, at the median and at the 99th percentile.
pub fn cold(cold: &Cold) -> Vec<Budget> {
    let Cold { native_us, first_us, native_pods_us, met_us, .. } = cold;
    let contact = |name, (limit, limit_p99), first: &[f64], native: &[f64]| {
        let [median, p99] = added(first, native);
        [
            Budget::at_most(format!("{name}_added_us"), limit, median),
            Budget::at_most(format!("{name}_p99_added_us"), limit_p99, p99),
        ]
    };
    let limits = (300.0, 1000.0);
    let met = contact("first_contact", limits, met_us, native_pods_us);
    let new = contact("first_contact_of_new_daemons", limits, first_us, native_us);
    met.into_iter().chain(new).collect()
}

/// What the programs cost.
pub fn programs(programs: &Programs) -> Vec<Budget> {
    let packet = programs.established.from_workload.median;
    let packet = packet.max(programs.established.to_workload.median);
    vec![Budget::at_most("established_packet_ns", 80.0, packet)]
}

/// What packets may cost that need no identity.
pub fn bypasses(bypasses: &Bypasses) -> Vec<Budget> {
    vec![
        Budget::at_most("bypassed_packet_ns", 30.0, bypasses.most(false)),
        Budget::at_most("udp_datagram_ns", 30.0, bypasses.most(true)),
    ]
}

/// What a flow may take, and what finding it among a million may cost. An element is what grows with each flow; the
/// buckets of the table come on top of it. Flat is what a look-up costs in a table of any size while its flow is in the
/// processor's caches; how many flows these hold is nothing that a table could change.
pub fn flows(flows: &Flows) -> Vec<Budget> {
    let most = |of: fn(&Point) -> f64| flows.most(1_000_000, of);
    let grown = |of: fn(&Point) -> f64| flows.most(1_000_000, of) / flows.most(1_000, of);
    let memory = flows.memory.iter().find(|memory| memory.family == "ipv4");
    let bytes = |of: fn(&Memory) -> f64| memory.map_or(f64::NAN, of);
    vec![
        Budget::at_most("flow_bytes", 160.0, bytes(|memory| memory.element)),
        Budget::at_most("flow_with_buckets_bytes", 160.0, bytes(Memory::each)),
        Budget::at_most("flow_lookup_1m_ns", 80.0, most(|point| point.one.median)),
        Budget::at_most("flow_lookup_1m_to_1k", 1.25, grown(|point| point.one.median)),
    ]
}

/// What the daemon's mind may cost.
#[must_use]
pub fn engine(costs: &Costs) -> Vec<Budget> {
    vec![
        Budget::at_most("cold_decision_p99_us", 200.0, costs.decide_p99_us),
        Budget::at_least("identities_met_per_second", 10_000.0, costs.met_per_second),
        Budget::at_most(
            "policy_change_ms",
            1000.0,
            costs.policy_reload_ms + costs.policy_change_ms,
        ),
        Budget::at_most(
            "policy_replaced_ms",
            1000.0,
            costs.policy_load_ms + costs.policy_change_ms,
        ),
        Budget::at_most("identity_bytes", 1024.0, costs.identity_bytes),
    ]
}

/// What known identities keep under floods.
#[must_use]
pub fn floods(floods: &Floods) -> Vec<Budget> {
    let mut budgets = Vec::new();
    for kind in Kind::ALL {
        let name = format!("flood_{}_rate_ratio", kind.name());
        let median = |values| Spread::of(values).median;
        let kept = median(floods.kept(Setting::Enforced, kind));
        budgets.push(Budget::at_least(&name, 0.9, kept));
        let to_nftables = median(floods.kept_to_nftables(kind));
        budgets.push(Budget::at_least(format!("{name}_to_nftables"), 0.9, to_nftables));
    }
    budgets.push(Budget::at_most("flood_failed_connections", 0.0, floods.failed()));
    budgets
}

/// What first contacts add to the median connect, microseconds: their median and their slowest (of 31 samples, the last
/// but one).
fn added(first: &[f64], native: &[f64]) -> [f64; 2] {
    let connect = Spread::of(native.to_vec()).median;
    [Spread::of(first.to_vec()).median - connect, percentile_99(first.to_vec()) - connect]
}

/// The larger daemon's resident memory, MB.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn resident_mb(processes: &Processes) -> f64 {
    let kib = processes.resident_kib.iter().max().copied().unwrap_or(0);
    (kib * 1024) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert!(!Budget::at_least("a", 0.95, f64::NAN).met);
        assert!(!Budget::at_most("a", 1.1, f64::NAN).met);
        assert!(Budget::at_least("a", 0.95, 0.95).met);
        assert!(!Budget::at_most("a", 1.1, 1.11).met);
    }
}
