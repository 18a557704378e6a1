//! What workloads that learn do, as the policy's questions, live flows and the kernel tell it.

use enforcer_common::abi::direction;

use super::Engine;
use super::change::parity;
use super::clock::{Now, SECOND_NS};
use super::io::{LiveFlow, Question};
use super::networks::ip_address;
use super::peers::identity_of;
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
        let address = ip_address(&flow.key.remote);
        let rule_set = workload.value.rule_sets[parity(self.epoch)];
        let path = workload.identity().path();
        let hosts = self.hosts.at(&path, address);
        if self.networks.allow(rule_set, flow, hosts) {
            return;
        }
        let inbound = flow.direction == direction::INGRESS;
        let direction = if inbound { Direction::Ingress } else { Direction::Egress };
        let service = (flow.port, Protocol::from_number(flow.key.protocol));
        let unix = now.unix_seconds();
        self.learned.note_address(workload.identity(), (direction, address), service, unix);
    }

    /// Notes who is watched, whether or not they do something.
    pub(super) fn watch_learning(&mut self, now: Now) {
        if now.boot_ns < self.watched_ns {
            return;
        }
        self.watched_ns = now.boot_ns + WATCH_NS;
        let learning = self.workloads.iter().filter(|workload| workload.spec.learns);
        let identities = learning.map(super::workloads::Workload::identity);
        self.learned.watch(identities, now.unix_seconds());
    }
}
