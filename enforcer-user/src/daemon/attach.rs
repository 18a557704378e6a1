//! Workloads at their interfaces: attached, watched, attached again.

use super::core::Core;
use crate::config::WorkloadConfig;
use crate::datapath::{Health, Mechanism};

/// A configured workload.
#[derive(Debug)]
pub(super) struct Unit {
    /// Its id in the maps.
    pub(super) id: u16,
    pub(super) workload: WorkloadConfig,
    /// Why it is not enforced; none while it is.
    pub(super) problem: Option<String>,
}

impl Core {
    /// Attaches every workload that is not.
    pub(super) fn attach_missing(&mut self) {
        for unit in &mut self.units {
            if unit.problem.is_none() {
                continue;
            }
            let interface = &unit.workload.interface;
            match self.datapath.add_workload(unit.id, &unit.workload) {
                Ok(()) => {
                    unit.problem = None;
                    tracing::info!(workload = %unit.workload.identity, interface, "attached");
                }
                Err(error) => {
                    let problem = format!("{:#}", anyhow::Error::new(error));
                    if unit.problem.as_ref() != Some(&problem) {
                        tracing::error!(workload = %unit.workload.identity, interface, problem, "not attached");
                    }
                    unit.problem = Some(problem);
                }
            }
        }
        self.settle();
    }

    /// Once every workload is attached: takes off what an earlier daemon attached and nobody has
    /// any more. Before that, it may be the very thing that enforces.
    fn settle(&mut self) {
        if self.settled || self.units.iter().any(|unit| unit.problem.is_some()) {
            return;
        }
        self.settled = true;
        match self.datapath.finish_start() {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(removed = removed.join(", "), "taken off"),
            Err(error) => self.log.failure(&error),
        }
        let gone = self.engine.finish_adoption();
        self.apply(gone);
    }

    /// Looks after the attachments, and repairs what can be repaired.
    pub(super) fn watch_attachments(&mut self) {
        match self.datapath.watch() {
            Ok(found) => {
                for (id, health) in found {
                    self.note_health(id, &health);
                }
            }
            Err(error) => self.log.failure(&error),
        }
        self.restore_pins();
        self.attach_missing();
        self.follow_addresses();
    }

    fn restore_pins(&mut self) {
        match self.datapath.restore_pins() {
            Ok(restored) => {
                self.problems.remove("pins");
                if !restored.is_empty() {
                    tracing::warn!(
                        pins = restored.join(", "),
                        "somebody removed pins; pinned again"
                    );
                }
            }
            Err(error) => {
                let problem = format!("{:#}", anyhow::Error::new(error));
                self.log.problem(&problem);
                self.problems.insert("pins", problem);
            }
        }
    }

    fn note_health(&mut self, id: u16, health: &Health) {
        let Some(unit) = self.units.iter_mut().find(|unit| unit.id == id) else { return };
        let problem = match health {
            Health::InPlace => return,
            Health::Displaced { program, by } => {
                format!("program {by:?} stands before {program}")
            }
            Health::Detached { program } => format!("{program} was detached by somebody"),
            Health::InterfaceGone => "the interface is gone".to_owned(),
            Health::InterfaceRecreated { ifindex } => {
                format!("the interface was made anew, with number {ifindex}")
            }
        };
        let interface = &unit.workload.interface;
        tracing::warn!(workload = %unit.workload.identity, interface, problem, "attaching again");
        unit.problem = Some(problem);
    }

    /// Addresses of a workload's own interface may change.
    fn follow_addresses(&mut self) {
        for unit in self.units.iter().filter(|unit| unit.problem.is_none()) {
            if unit.workload.addresses.is_empty()
                && let Err(error) = self.datapath.write_addresses(unit.id, &unit.workload)
            {
                self.log.failure(&error);
            }
        }
    }

    /// How a workload's interface is hooked.
    pub(super) fn mechanism(&self, id: u16) -> Option<Mechanism> {
        self.datapath.attachments().get(&id).map(|attachment| attachment.mechanism)
    }
}
