//! What workloads that learn do, as the policy's questions, live flows and the kernel tell it.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use enforcer_common::abi::direction;

use super::Engine;
use super::change::parity;
use super::clock::{Now, SECOND_NS};
use super::io::{LiveFlow, Question};
use super::peers::identity_of;
use super::workloads::Workload;
use crate::learn::{Configured, LearnedReport};
use crate::policy::{Action, Direction, Protocol};

/// How often it is noted that they are watched, in nanoseconds.
const WATCH_NS: u64 = 60 * SECOND_NS;

impl Engine {
    /// Remembers it, if its workload learns.
    pub(super) fn learn(&mut self, asked: &Question, now: Now) {
        let Some(workload) = self.workloads.get(asked.workload).filter(|one| one.spec.learns)
        else {
            return;
        };
        let Some(peer) = self.peers.known(asked.peer).map(identity_of) else { return };
        let inbound = asked.direction == direction::INGRESS;
        let action = if inbound { Action::Accept } else { Action::Connect };
        let service = (asked.port, Protocol::from_number(asked.protocol));
        self.learned.note((workload.identity(), peer), action, service, now.unix_seconds());
    }

    /// Remembers a connection without identity, if its workload learns and no network rule allows it.
    pub(super) fn on_opened(&mut self, flow: &LiveFlow, now: Now) {
        let Some(workload) = self.workloads.get(flow.key.workload).filter(|one| one.spec.learns)
        else {
            return;
        };
        let (far, service) = (flow.far(), flow.service());
        if self.is_allowed(workload, far, service) {
            return;
        }
        self.learned.note_address(workload.identity(), far, service, now.unix_seconds());
    }

    /// Whether a network rule in force allows this.
    fn is_allowed(
        &self,
        workload: &Workload,
        far: (Direction, IpAddr),
        service: (u16, Protocol),
    ) -> bool {
        let rule_set = workload.value.rule_sets[parity(self.epoch)];
        let path = workload.identity().path();
        self.networks.allow(rule_set, far, service, self.hosts.at(&path, far.1))
    }

    /// Ids of workloads that learn.
    #[must_use]
    pub fn learning(&self) -> HashSet<u16> {
        self.workloads.iter().filter(|one| one.spec.learns).map(|one| one.id).collect()
    }

    /// What was learned, and what the configuration says of it by now.
    #[must_use]
    pub fn learned_report(&self) -> LearnedReport {
        let mut report = self.learned.report();
        let own = self.workloads.iter().map(|one| (one.identity().spiffe_id(), one));
        let own: BTreeMap<String, &Workload> = own.collect();
        for one in &mut report.addresses {
            let (Some(workload), Ok(protocol)) = (own.get(&one.workload), one.protocol.parse())
            else {
                continue;
            };
            let far = (one.direction, one.address);
            one.allowed = self.is_allowed(workload, far, (one.port, protocol));
        }
        let rules = self.policy.iter().flat_map(|policy| policy.network_rules());
        report.configured = Some(Configured {
            workloads: own.into_keys().collect(),
            network_rules: rules.map(|rule| rule.name().to_owned()).collect(),
        });
        report
    }

    /// Notes who is watched, whether or not they do something.
    pub(super) fn watch_learning(&mut self, now: Now) {
        if now.boot_ns < self.watched_ns {
            return;
        }
        self.watched_ns = now.boot_ns + WATCH_NS;
        let learning = self.workloads.iter().filter(|workload| workload.spec.learns);
        let identities = learning.map(Workload::identity);
        self.learned.watch(identities, now.unix_seconds());
    }
}
