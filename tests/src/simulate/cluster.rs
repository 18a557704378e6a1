//! The cluster on paper: which service has which place, and who calls whom.
//!
//! A *place* is where a workload runs: node times workloads of a node, plus its number there. Places are given
//! to services at random. Each service depends on [`DEPENDENCIES`] others, chosen by Zipf's law, and each of
//! its workloads calls so many replicas of these. Who replaces a workload has its place, its callers and what
//! it calls, but another identity, credential and address.

use super::options::Options;
use super::random::source;

/// Services that each service calls.
pub const DEPENDENCIES: usize = 10;

/// What random numbers are for.
mod purpose {
    pub const SERVICE: u64 = 1;
    pub const DEPENDENCY: u64 = 2;
    pub const CALL: u64 = 3;
}

/// One workload calls another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// The place on the node that is simulated, by its number there.
    pub local: u32,
    /// The place of the other.
    pub remote: u32,
    /// Whether the node's workload is who calls.
    pub outgoing: bool,
}

/// The whole cluster.
#[derive(Debug)]
pub struct Cluster {
    seed: u64,
    workloads: u32,
    calls: usize,
    service_of: Vec<u16>,
    replicas: Vec<Vec<u32>>,
    dependencies: Vec<[u16; DEPENDENCIES]>,
}

impl Cluster {
    /// The cluster of these options; the same for the same seed.
    pub fn new(options: &Options) -> Self {
        let services = usize::try_from(options.rules).unwrap_or(usize::MAX) / DEPENDENCIES;
        let services = services.max(2);
        let places = options.nodes * options.workloads;
        let mut replicas = vec![Vec::new(); services];
        let service_of: Vec<u16> = (0..places)
            .map(|place| {
                let service =
                    source(options.seed, purpose::SERVICE, place.into()).usize(..services);
                replicas[service].push(place);
                number(service)
            })
            .collect();
        let shares = shares(services, options.popularity);
        let dependencies =
            (0..services).map(|service| depends_on(options.seed, service, &shares)).collect();
        let calls = usize::try_from(options.calls).unwrap_or(usize::MAX);
        let (seed, workloads) = (options.seed, options.workloads);
        Self { seed, workloads, calls, service_of, replicas, dependencies }
    }

    /// The service of a place.
    pub fn service(&self, place: u32) -> u16 {
        self.service_of[place as usize]
    }

    /// What each service depends on.
    pub fn dependencies(&self) -> &[[u16; DEPENDENCIES]] {
        &self.dependencies
    }

    /// The node of a place.
    pub fn node(&self, place: u32) -> u32 {
        place / self.workloads
    }

    /// The node that as many are called less as are called more, or the one that is called the most.
    pub fn choose(&self, busiest: bool) -> u32 {
        let mut called = vec![0_u32; self.service_of.len() / self.workloads as usize];
        self.each_call(|_, callee| called[self.node(callee) as usize] += 1);
        let mut nodes: Vec<(u32, u32)> = called.into_iter().zip(0..).collect();
        nodes.sort_unstable();
        let chosen = if busiest { nodes.last() } else { nodes.get(nodes.len() / 2) };
        chosen.map_or(0, |(_, node)| *node)
    }

    /// Every call from a node or to it. Calls within the node are left out.
    pub fn calls_of(&self, node: u32) -> Vec<Call> {
        let mut found = Vec::new();
        self.each_call(|caller, callee| {
            let outgoing = self.node(caller) == node;
            if outgoing == (self.node(callee) == node) {
                return;
            }
            let (local, remote) = if outgoing { (caller, callee) } else { (callee, caller) };
            found.push(Call { local: local % self.workloads, remote, outgoing });
        });
        found.sort_unstable();
        found
    }

    fn each_call(&self, mut visit: impl FnMut(u32, u32)) {
        let mut callees = Vec::new();
        for (caller, service) in (0..).zip(&self.service_of) {
            let mut random = source(self.seed, purpose::CALL, caller.into());
            let dependencies = &self.dependencies[usize::from(*service)];
            callees.clear();
            for dependency in dependencies.iter().cycle().take(self.calls) {
                let replicas = &self.replicas[usize::from(*dependency)];
                callees.extend(random.choice(replicas).copied());
            }
            // The same replica twice is one workload that is called.
            callees.sort_unstable();
            callees.dedup();
            callees.iter().filter(|callee| **callee != caller).for_each(|to| visit(caller, *to));
        }
    }
}

/// The part of all choices that falls on each service or one before it.
fn shares(services: usize, exponent: f64) -> Vec<f64> {
    let ranks = (1..=u32::try_from(services).unwrap_or(u32::MAX)).map(f64::from);
    let mut sum = 0.0;
    let mut shares: Vec<f64> = ranks
        .map(|rank| {
            sum += rank.powf(-exponent);
            sum
        })
        .collect();
    for share in &mut shares {
        *share /= sum;
    }
    shares
}

/// Different services by their popularity, itself among them if it so happens; fewer than there is room for are
/// named again.
fn depends_on(seed: u64, service: usize, shares: &[f64]) -> [u16; DEPENDENCIES] {
    let mut random = source(seed, purpose::DEPENDENCY, service as u64);
    let mut chosen: Vec<u16> = Vec::with_capacity(DEPENDENCIES);
    let wanted = DEPENDENCIES.min(shares.len());
    while chosen.len() < wanted {
        let drawn = random.f64();
        let found = number(shares.partition_point(|share| *share < drawn).min(shares.len() - 1));
        if !chosen.contains(&found) {
            chosen.push(found);
        }
    }
    std::array::from_fn(|n| chosen[n % wanted])
}

fn number(service: usize) -> u16 {
    // At most 60,000 rules, ten for each.
    u16::try_from(service).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn cluster(arguments: &[&str]) -> Cluster {
        Cluster::new(&Options::parse_from([&["simulate"], arguments].concat()))
    }

    #[test]
    fn every_call_is_seen_from_both_ends() {
        let cluster = cluster(&["--nodes", "20", "--workloads", "10", "--rules", "200"]);
        let (mut out, mut in_) = (0, 0);
        for node in 0..20 {
            for call in cluster.calls_of(node) {
                assert_ne!(cluster.node(call.remote), node);
                *(if call.outgoing { &mut out } else { &mut in_ }) += 1;
            }
        }
        let mut between = 0;
        cluster.each_call(|a, b| between += u32::from(cluster.node(a) != cluster.node(b)));
        assert_eq!((out, in_), (between, between));
        assert!(between > 2000, "{between}");
    }

    #[test]
    fn popularity_is_what_sets_the_busiest_node_apart() {
        let called = |arguments: &[&str]| {
            let base = ["--nodes", "50", "--workloads", "10", "--rules", "1000"];
            let cluster = cluster(&[&base, arguments].concat());
            let count = |busiest| {
                let calls = cluster.calls_of(cluster.choose(busiest));
                calls.iter().filter(|call| !call.outgoing).count()
            };
            (count(false), count(true))
        };
        let (even, even_most) = called(&["--popularity", "0"]);
        let (middle, most) = called(&["--popularity", "1"]);
        assert!(even_most < 2 * even, "{even_most} of {even}");
        assert!(most > 2 * middle, "{most} of {middle}");
    }
}
