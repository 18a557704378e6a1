//! Workloads at their interfaces: attached, watched, attached again.
//!
//! The kernel tells of interfaces that come, go or change; it does not tell of programs that are
//! detached from a TCX hook, or put in front. So chains are glanced at a few times a second, a bounded
//! number at a time, and everything is looked at in full by the tick.

use std::time::Duration;

use super::core::Core;
use crate::config::WorkloadConfig;
use crate::datapath::{Changes, DatapathError, GuardMode, Health, Mechanism};

/// Between two glances at the chains.
pub(super) const GLANCE: Duration = Duration::from_millis(250);
/// The most workloads glanced at in one go: a fraction of a millisecond.
const GLANCES: usize = 256;

/// A configured workload.
#[derive(Debug)]
pub(super) struct Unit {
    /// Its id in the maps.
    pub(super) id: u16,
    pub(super) workload: WorkloadConfig,
    /// Why it is not enforced; none while it is.
    pub(super) problem: Option<Problem>,
    /// Why its guard is not attached, though it is to have one.
    pub(super) unguarded: Option<String>,
}

/// Why a workload is not enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// There is no interface yet, or no more: nothing can pass.
    NoInterface(String),
    /// Somebody's program is in front. Only the tick tries again.
    Displaced(String),
    /// What passes is not enforced.
    Open(String),
}

impl Problem {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::NoInterface(text) | Self::Displaced(text) | Self::Open(text) => text,
        }
    }
}

impl From<DatapathError> for Problem {
    fn from(error: DatapathError) -> Self {
        let kind = match error {
            DatapathError::NoInterface(_) => Self::NoInterface,
            DatapathError::Displaced { .. } => Self::Displaced,
            _ => Self::Open,
        };
        kind(format!("{:#}", anyhow::Error::new(error)))
    }
}

impl Core {
    /// Attaches every workload that is not.
    pub(super) fn attach_missing(&mut self) {
        for place in 0..self.units.len() {
            self.attach(place);
        }
        self.settle();
    }

    /// Attaches one workload if it is not.
    fn attach(&mut self, place: usize) {
        let Some(unit) = self.units.get_mut(place) else { return };
        let Some(before) = &unit.problem else { return };
        let (interface, workload) = (&unit.workload.interface, &unit.workload.identity);
        let problem = match self.datapath.add_workload(unit.id, &unit.workload) {
            Ok(()) => {
                tracing::info!(%workload, interface, "attached");
                None
            }
            Err(error) => Some(Problem::from(error)),
        };
        match &problem {
            Some(same) if same == before => {}
            Some(Problem::NoInterface(text)) => {
                tracing::warn!(%workload, interface, problem = text, "waits for its interface");
            }
            Some(Problem::Displaced(text)) => {
                self.displaced += 1;
                tracing::error!(%workload, interface, problem = text, "not first at its interface");
            }
            Some(Problem::Open(text)) => {
                tracing::error!(%workload, interface, problem = text, "not attached");
            }
            None => {}
        }
        unit.problem = problem;
        self.guard_unit(place);
    }

    /// Puts the guard on a workload's interface that is to have one. Without it everything is enforced, only dearer.
    fn guard_unit(&mut self, place: usize) {
        let Some(unit) = self.units.get_mut(place) else { return };
        let (interface, workload) = (&unit.workload.interface, &unit.workload.identity);
        let before = self.datapath.guard(unit.id);
        match self.datapath.guard_workload(unit.id, &unit.workload) {
            Ok(mode) => {
                unit.unguarded = None;
                if let Some(mode) = mode.filter(|_| mode != before) {
                    tracing::info!(%workload, interface, mode = mode.as_str(), "guarded");
                }
            }
            Err(error) => {
                let problem = format!("{:#}", anyhow::Error::new(error));
                if unit.unguarded.as_ref() != Some(&problem) {
                    tracing::warn!(%workload, interface, problem, "not guarded; enforced without");
                }
                unit.unguarded = Some(problem);
            }
        }
    }

    /// Looks whether the guards are still there, and tries again where they are not.
    fn watch_guards(&mut self) {
        for place in 0..self.units.len() {
            let Some(unit) = self.units.get(place).filter(|unit| unit.workload.guard) else {
                continue;
            };
            match self.datapath.watch_guard(unit.id) {
                Ok(Some(_)) => {}
                Ok(None) => self.guard_unit(place),
                Err(error) => self.log.failure(&error),
            }
        }
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

    /// Looks after the workloads at interfaces of which the kernel says that they changed.
    pub(super) fn on_changes(&mut self, changes: &Changes) {
        let places: Vec<usize> = (0..self.units.len())
            .filter(|place| self.units.get(*place).is_some_and(|unit| self.concerns(unit, changes)))
            .collect();
        for place in places {
            self.look_after(place);
        }
        self.settle();
        self.tell_readiness();
    }

    fn concerns(&self, unit: &Unit, changes: &Changes) -> bool {
        if changes.everything || changes.names.contains(&unit.workload.interface) {
            return true;
        }
        if matches!(unit.problem, Some(Problem::Open(_))) {
            // It may lack an address, which comes with the number of an interface that is not known.
            return !changes.numbers.is_empty();
        }
        let attached = self.datapath.attachments().get(&unit.id);
        attached.is_some_and(|one| {
            let is_own = |number: &u32| *number == one.ifindex;
            changes.numbers.iter().chain(&changes.filters).any(is_own)
        })
    }

    fn look_after(&mut self, place: usize) {
        let Some(unit) = self.units.get(place) else { return };
        let (id, displaced) = (unit.id, matches!(unit.problem, Some(Problem::Displaced(_))));
        match self.datapath.watch_one(id) {
            Ok(Some(health)) if unit.problem.is_none() => self.note_health(id, &health),
            Ok(_) => {}
            Err(error) => self.log.failure(&error),
        }
        if !displaced {
            self.attach(place);
        }
        self.follow_address(place);
    }

    /// Looks at the chains of some of the workloads.
    pub(super) fn on_glance(&mut self) {
        let (moved, next) = self.datapath.glance(self.glanced, GLANCES);
        self.glanced = next;
        let places: Vec<usize> = moved
            .iter()
            .filter_map(|id| self.units.iter().position(|unit| unit.id == *id))
            .filter(|place| self.units.get(*place).is_some_and(|unit| unit.problem.is_none()))
            .collect();
        for place in &places {
            self.look_after(*place);
        }
        if !places.is_empty() {
            self.tell_readiness();
        }
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
        self.watch_guards();
        for place in 0..self.units.len() {
            self.follow_address(place);
        }
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
                if matches!(unit.problem, Some(Problem::Displaced(_))) {
                    return;
                }
                Problem::Open(format!("program {by:?} stands before {program}"))
            }
            Health::Detached { program } => {
                self.detached += 1;
                Problem::Open(format!("{program} was detached by somebody"))
            }
            Health::InterfaceGone => {
                if matches!(unit.problem, Some(Problem::NoInterface(_))) {
                    return;
                }
                Problem::NoInterface("the interface is gone".to_owned())
            }
            Health::InterfaceRecreated { ifindex } => {
                Problem::Open(format!("the interface was made anew, with number {ifindex}"))
            }
        };
        let (interface, text) = (&unit.workload.interface, problem.text());
        tracing::warn!(workload = %unit.workload.identity, interface, problem = text, "attaching again");
        unit.problem = Some(problem);
    }

    /// Addresses of a workload's own interface may change.
    fn follow_address(&mut self, place: usize) {
        let Some(unit) = self.units.get(place) else { return };
        if unit.problem.is_none()
            && unit.workload.addresses.is_empty()
            && let Err(error) = self.datapath.write_addresses(unit.id, &unit.workload)
        {
            self.log.failure(&error);
        }
    }

    /// How a workload's interface is hooked.
    pub(super) fn mechanism(&self, id: u16) -> Option<Mechanism> {
        self.datapath.attachments().get(&id).map(|attachment| attachment.mechanism)
    }

    /// How a workload's interface is guarded.
    pub(super) fn guard_mode(&self, id: u16) -> Option<GuardMode> {
        self.datapath.guard(id)
    }
}
