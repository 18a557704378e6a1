//! What workloads that learn do, as the policy's questions and live flows tell it.

use enforcer_common::abi::direction;

use super::Engine;
use super::clock::{Now, SECOND_NS};
use super::io::Question;
use super::peers::identity_of;
use crate::policy::{Action, Protocol};

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
