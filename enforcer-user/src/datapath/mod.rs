//! The edge to the kernel: loads, attaches and removes the programs, writes their maps, reads their
//! events and puts held segments back.
//!
//! Start: pin folder -> maps (made, adopted, or taken over from the layout before) -> programs loaded -> helper interface -> state of
//! each workload written -> programs attached -> what nobody claims is taken off. At no time is a
//! workload attached but unenforced: the programs drop what they have no state for, and those of an
//! earlier daemon are swapped in place.

mod attach;
mod changes;
mod clock;
mod clsact;
mod counters;
mod detach;
mod error;
mod events;
mod folder;
mod guard;
mod interface;
mod interfaces;
mod keep;
mod load;
mod maps;
mod netlink;
mod pace;
pub mod record;
mod reinject;
mod remembered;
pub(crate) mod reset;
mod rows;
mod shares;
mod sweep;
mod sys;
mod table;
mod tcx;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::abi::{
    FlowKey, FlowValue, InterfaceValue, config_flags, direction, flow_flags, interface_flags,
};

use crate::config::{Config, Side, WorkloadConfig};
use crate::engine::{Adopted, AdoptedPeer, LiveFlow, Output, Sweep};
use crate::fault::{self, KillPoint};

pub use attach::{Attachment, Health, Mechanism};
pub use changes::{Changes, Watcher};
pub use clock::boot_ns;
pub use detach::Report;
pub use error::DatapathError;
pub use events::{EventCounters, Events, Readers};
pub use folder::PinFolder;
pub use guard::GuardMode;
pub use interface::address;
pub use load::{Loaded, Settings, object};
pub use maps::Maps;
pub use netlink::LinkFacts;
pub use reinject::Reinjector;
pub use sweep::{Port, Swept};
pub use table::Table;

use folder::PinFolder as Folder;
use guard::Guard;
use keep::Keeper;
use remembered::Remembered;
use sweep::{Sweeper, Tools};

/// Removes everything that an instance attached and pinned; may be repeated.
///
/// # Errors
/// Its daemon still runs, or the kernel refuses.
pub fn detach(config: &Config) -> anyhow::Result<Report> {
    Ok(detach::detach(&config.pin_dir())?)
}

/// Mounts a bpf file system where an instance pins, if there is none: what takes `CAP_SYS_ADMIN`.
///
/// # Errors
/// It cannot be mounted.
pub fn mount_bpf(config: &Config) -> anyhow::Result<()> {
    Ok(folder::mount_if_needed(&config.bpf_root)?)
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            flows: limits.flows,
            peers: limits.peers,
            attempts: limits.attempts,
            // A policy change writes the new epoch's verdicts beside the old ones.
            verdicts: limits.verdicts.saturating_mul(2),
            flags: if config.policy.deny_reset { config_flags::DENY_RESET } else { 0 },
            cold_per_second: limits.cold_per_second,
            cold_per_source: limits.cold_per_second / 10,
            samples_per_second: config.log.denials_per_second,
            // A source's burst of a second is a sixteenth of the table.
            attempts_per_source: limits.attempts / 16,
        }
    }
}

/// The datapath of one instance.
#[derive(Debug)]
pub struct Datapath {
    /// The maps.
    pub maps: Maps,
    folder: Folder,
    loaded: Loaded,
    mechanism: Mechanism,
    reinjector: Reinjector,
    remembered: Remembered,
    sweeper: Sweeper,
    attachments: BTreeMap<u16, Attachment>,
    guards: BTreeMap<u16, Guard>,
    keeper: Keeper,
    reset: bool,
    flow_limit: usize,
}

impl Datapath {
    /// Loads the programs, adopts or makes the maps and starts reading events. Nothing is attached
    /// that was not before. Must be called within a tokio runtime.
    pub fn open(config: &Config) -> Result<(Self, Events), DatapathError> {
        Self::open_by(config, Mechanism::probe())
    }

    /// The same, where programs are attached by `mechanism`, whatever the kernel has beside it.
    pub fn open_by(config: &Config, mechanism: Mechanism) -> Result<(Self, Events), DatapathError> {
        let settings = Settings::from(config);
        let folder = Folder::open(&config.pin_dir())?;
        fault::reached(KillPoint::FolderTaken);
        let taken_over = upgrade::run(&folder, &settings)?;
        let mut loaded = taken_over.map_or_else(|| Loaded::load(&folder, &settings), Ok)?;
        let events = Events::start(&folder, &mut loaded)?;
        fault::reached(KillPoint::RingsOpened);
        let reinjector = Reinjector::open(&config.instance, &mut loaded, mechanism)?;
        fault::reached(KillPoint::HelperMade);
        let maps = Maps::open(folder.path())?;
        let remembered = Remembered::open(&folder)?;
        let mut datapath = Self {
            maps,
            remembered,
            folder,
            loaded,
            mechanism,
            reinjector,
            sweeper: Sweeper::default(),
            attachments: BTreeMap::new(),
            guards: BTreeMap::new(),
            keeper: Keeper::default(),
            reset: config.policy.deny_reset,
            flow_limit: 2 * settings.flows as usize,
        };
        datapath.hold_maps()?;
        Ok((datapath, events))
    }

    fn hold_maps(&mut self) -> Result<(), DatapathError> {
        for name in self.folder.names()?.iter().filter(|name| load::is_map_pin(name)) {
            self.keeper.hold(&self.folder, name)?;
        }
        Ok(())
    }

    /// Pins again what somebody unpinned; says what that was. Nothing of it was out of force.
    ///
    /// # Errors
    /// [`DatapathError::PinsGone`] while there is no bpf file system to pin to.
    pub fn restore_pins(&mut self) -> Result<Vec<String>, DatapathError> {
        self.keeper.restore(&mut self.folder)
    }

    /// What an earlier daemon left in the maps, without secrets; `None` if there was none.
    pub fn adopted(&self) -> Result<Option<Adopted>, DatapathError> {
        if !self.loaded.adopted {
            return Ok(None);
        }
        let mut found = Adopted {
            epoch: self.maps.config()?.epoch,
            verdicts: self.maps.verdicts.entries()?,
            networks: self.maps.network_keys()?,
            ..Adopted::default()
        };
        self.maps.workloads.for_each(|id, value| {
            // Rows are fewer than ids of 16 bits.
            if let Ok(id) = u16::try_from(id)
                && value.is_present()
            {
                found.workloads.push((id, *value));
            }
        })?;
        self.maps.credentials.for_each(|handle, value| {
            found.credentials.push((*handle, value.deadline_ns));
        })?;
        self.maps.peers.for_each(|key, value| {
            let (hash, identity, deadline_ns) = (value.hash, value.identity, value.deadline_ns);
            found.peers.push(AdoptedPeer { key: *key, hash, identity, deadline_ns });
        })?;
        Ok(Some(found))
    }

    /// Keeps a verified credential for a later daemon where the memory file has no room.
    ///
    /// # Errors
    /// There is no room here either.
    pub fn remember(&mut self, hash: &[u8; 32], credential: &[u8]) -> Result<(), DatapathError> {
        self.remembered.keep(hash, credential)
    }

    /// What was kept by [`Self::remember`], this time or earlier.
    pub fn remembered(&self) -> Result<Vec<Vec<u8>>, DatapathError> {
        self.remembered.all()
    }

    /// Forgets what was kept: the memory file has it.
    pub fn forget_remembered(&mut self) -> Result<(), DatapathError> {
        self.remembered.clear()
    }

    /// Does what the engine asks of the kernel; gives back what is not the kernel's. After an
    /// error the rest of a policy change, its flip foremost, must be left out.
    pub fn apply(&mut self, output: Output) -> Result<Option<Output>, DatapathError> {
        match output {
            Output::InstallCredential(handle, credential) => {
                self.maps.credentials.insert(&handle, &credential.0)?;
            }
            Output::RemoveCredential(handle) => drop(self.maps.credentials.remove(&handle)?),
            Output::InstallWorkload(id, value) => self.maps.insert_workload(id, &value)?,
            Output::RemoveWorkload(id) => {
                self.remove_workload(id)?;
                self.maps.remove_workload(id)?;
            }
            Output::InstallPeer(key, secrets) => self.maps.peers.insert(&key, &secrets)?,
            Output::RemovePeer(key) => drop(self.maps.peers.remove(&key)?),
            Output::InstallVerdict(key, value) => self.maps.verdicts.insert(&key, &value)?,
            Output::RemoveVerdict(key) => drop(self.maps.verdicts.remove(&key)?),
            Output::InstallNetworks(networks) => self.maps.insert_networks(&networks)?,
            Output::RemoveNetworks(keys) => self.maps.remove_networks(&keys)?,
            Output::FlipEpoch(epoch) => self.maps.flip_epoch(epoch)?,
            Output::SweepFlows(sweep) => self.cut(&sweep)?,
            Output::ForgetAttempt(key) => self.maps.forget_attempt(&key)?,
            Output::Reinject { to, frame } => self.reinjector.send(&frame, to)?,
            other @ (Output::Verify(_)
            | Output::Remember(_)
            | Output::RememberHost(_)
            | Output::Log(_)
            | Output::LogRefusal(_)
            | Output::Problem(_)) => {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Every flow of the tables, as far as a policy change must know it.
    pub fn live_flows(&self) -> Result<Vec<LiveFlow>, DatapathError> {
        let mut live = Vec::new();
        self.maps.for_each_flow(|key, flow| live.push(live_flow(key, flow)))?;
        Ok(live)
    }

    /// How programs are attached on this kernel.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Name of the helper interface for re-injection.
    #[must_use]
    pub fn helper(&self) -> &str {
        self.reinjector.name()
    }

    /// Enforces a workload: writes what the programs must know of its interface, then attaches
    /// them. Its entry in the map of workloads must be written before.
    ///
    /// # Errors
    /// [`DatapathError::Displaced`] if the programs are attached, but not the first: they enforce
    /// what the one before them leaves to them.
    pub fn add_workload(
        &mut self,
        id: u16,
        workload: &WorkloadConfig,
    ) -> Result<(), DatapathError> {
        if self.maps.workload(id)?.is_none() {
            return Err(DatapathError::UnknownWorkload(id));
        }
        let facts = interface::inspect(&workload.interface)?;
        self.write_addresses(id, workload)?;
        fault::reached(KillPoint::AddressesWritten);
        let host_side = workload.side == Side::Host;
        let value = interface_value(id, workload, &facts);
        self.maps.interfaces.insert(facts.ifindex, &value)?;
        fault::reached(KillPoint::InterfaceWritten);
        let attachment =
            self.mechanism.attach(&self.folder, &mut self.loaded, &facts, host_side)?;
        for pin in attachment.link_pins() {
            self.keeper.hold(&self.folder, &pin)?;
        }
        self.keeper.hold_mark(&self.folder, attachment.ifindex);
        let health = attachment.check_first()?;
        let ifindex = attachment.ifindex;
        let before = self.attachments.insert(id, attachment);
        if let Some(before) = before.filter(|before| before.ifindex != ifindex) {
            self.forget_interface(&before)?;
        }
        match health {
            Health::Displaced { program, by } => {
                Err(DatapathError::Displaced { interface: facts.name, program, by })
            }
            // The watchdog tells what happens from here on.
            _ => Ok(()),
        }
    }

    /// Puts the guard on the interface of a workload that is attached, if it is to have one; else takes
    /// off what an earlier daemon put there.
    ///
    /// # Errors
    /// [`DatapathError::Guarded`] if another XDP program is there. Everything is enforced without it.
    pub fn guard_workload(
        &mut self,
        id: u16,
        workload: &WorkloadConfig,
    ) -> Result<Option<GuardMode>, DatapathError> {
        let Some(ifindex) = self.attachments.get(&id).map(|attachment| attachment.ifindex) else {
            return Ok(None);
        };
        self.guards.remove(&id);
        if !workload.guard {
            self.keeper.forget_pin(&guard::pin_of(ifindex));
            guard::detach(&self.folder, ifindex)?;
            return Ok(None);
        }
        let Some(facts) = netlink::link_of(ifindex)? else { return Ok(None) };
        let attached = guard::attach(&self.folder, &mut self.loaded, &facts)?;
        let mode = attached.mode;
        let program = guard::pin_program(&self.folder, &mut self.loaded, mode)?;
        for pin in [guard::pin_of(ifindex), program] {
            self.keeper.hold(&self.folder, &pin)?;
        }
        self.guards.insert(id, attached);
        Ok(Some(mode))
    }

    /// How a workload's interface is guarded; none if it is not.
    #[must_use]
    pub fn guard(&self, id: u16) -> Option<GuardMode> {
        self.guards.get(&id).map(|guard| guard.mode)
    }

    /// Looks whether a workload's guard is still there, and forgets it if not.
    pub fn watch_guard(&mut self, id: u16) -> Result<Option<GuardMode>, DatapathError> {
        let Some(guard) = self.guards.get(&id) else { return Ok(None) };
        if !guard.is_in_place()? {
            self.guards.remove(&id);
        }
        Ok(self.guard(id))
    }

    /// Removes what is left of an interface that is gone, once its workload has another. One that
    /// lives on under another name stays enforced until the next start.
    fn forget_interface(&mut self, before: &Attachment) -> Result<(), DatapathError> {
        if netlink::exists(before.ifindex)? {
            return Ok(());
        }
        self.keeper.forget(before.ifindex);
        attach::detach(&self.folder, before.ifindex)?;
        self.maps.interfaces.remove(before.ifindex)
    }

    /// Writes the addresses that a workload may use now; those of its own interface may change. One that
    /// has none may use none.
    pub fn write_addresses(
        &mut self,
        id: u16,
        workload: &WorkloadConfig,
    ) -> Result<(), DatapathError> {
        let mut wanted: Vec<_> = workload.addresses.iter().copied().map(address).collect();
        if wanted.is_empty() {
            wanted = interface::addresses(&workload.interface)?;
        }
        self.maps.set_addresses(id, &wanted)?;
        if wanted.is_empty() {
            return Err(DatapathError::NoAddress(workload.interface.clone()));
        }
        Ok(())
    }

    /// Takes the programs off a workload's interface, which is then not enforced any more, and
    /// removes what they knew of it. Its entry in the map of workloads stays.
    pub fn remove_workload(&mut self, id: u16) -> Result<(), DatapathError> {
        self.guards.remove(&id);
        if let Some(attachment) = self.attachments.remove(&id) {
            self.keeper.forget(attachment.ifindex);
            attach::detach(&self.folder, attachment.ifindex)?;
            self.maps.interfaces.remove(attachment.ifindex)?;
        }
        self.maps.set_addresses(id, &[])
    }

    /// Ends the start: takes the programs of an earlier daemon off interfaces that no workload has
    /// any more, and pins ours. Returns what was taken off.
    pub fn finish_start(&mut self) -> Result<Vec<String>, DatapathError> {
        let kept: BTreeSet<u32> = self.attachments.values().map(|a| a.ifindex).collect();
        let mut stale: BTreeSet<u32> = self
            .folder
            .names()?
            .iter()
            .filter_map(|name| attach::ifindex_of_pin(name))
            .filter(|ifindex| !kept.contains(ifindex))
            .collect();
        self.maps.interfaces.for_each(|ifindex, _| {
            if !kept.contains(ifindex) {
                stale.insert(*ifindex);
            }
        })?;
        let mut removed = Vec::new();
        for ifindex in stale {
            self.keeper.forget(ifindex);
            removed.extend(attach::detach(&self.folder, ifindex)?);
            self.maps.interfaces.remove(ifindex)?;
        }
        fault::reached(KillPoint::StaleTakenOff);
        attach::pin_programs(&self.folder, &mut self.loaded)?;
        for name in load::PROGRAMS {
            self.keeper.hold(&self.folder, &format!("{}{name}", load::PROGRAM_PREFIX))?;
        }
        guard::unpin_unused(&self.folder, &self.guards)?;
        fault::reached(KillPoint::ProgramsPinned);
        Ok(removed)
    }

    /// Each workload's attachment.
    #[must_use]
    pub fn attachments(&self) -> &BTreeMap<u16, Attachment> {
        &self.attachments
    }

    /// Looks whether every workload's programs are still attached and first.
    pub fn watch(&self) -> Result<Vec<(u16, Health)>, DatapathError> {
        let each = self.attachments.iter();
        each.map(|(id, attachment)| Ok((*id, attachment.check_first()?))).collect()
    }

    /// The same for the one workload.
    pub fn watch_one(&self, id: u16) -> Result<Option<Health>, DatapathError> {
        self.attachments.get(&id).map(Attachment::check_first).transpose()
    }

    /// Whether every program of the next `most` attachments behind that of the workload `after` is
    /// first in its chain, as far as that is cheap to ask: two system calls for each. Returns
    /// the workloads for which it is not, and the one to go on after.
    #[must_use]
    pub fn glance(&self, after: u16, most: usize) -> (Vec<u16>, u16) {
        let behind = self.attachments.range(after.saturating_add(1)..).take(most);
        let mut looked: Vec<(u16, &Attachment)> = behind.map(|(id, one)| (*id, one)).collect();
        let next = if looked.len() < most { 0 } else { looked.last().map_or(0, |(id, _)| *id) };
        looked.retain(|(_, attachment)| !attachment.looks_first());
        (looked.into_iter().map(|(id, _)| id).collect(), next)
    }

    /// Ends flows that the policy in force denies. The work is done by the next steps of
    /// [`Self::sweep`].
    pub fn cut(&mut self, sweep: &Sweep) -> Result<(), DatapathError> {
        let mut keys = sweep.flows.clone();
        let listed = Sweep { flows: Vec::new(), ..sweep.clone() };
        if !listed.is_empty() {
            self.maps.for_each_flow(|key, flow| {
                if listed.covers(&live_flow(key, flow)) {
                    keys.push(*key);
                }
            })?;
        }
        self.sweeper.cut(keys, self.flow_limit);
        Ok(())
    }

    /// Whether [`Self::sweep`] should be called again within some ten milliseconds; otherwise a
    /// few times a second will do.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        self.sweeper.is_busy()
    }

    /// One bounded step of ending flows. `now_ns` is boot time.
    pub fn sweep(&mut self, now_ns: u64) -> Result<Swept, DatapathError> {
        let attachments = &self.attachments;
        let port = |id: u16| {
            let attachment = attachments.get(&id)?;
            Some(Port { ifindex: attachment.ifindex, host_side: attachment.host_side })
        };
        let mut tools = Tools {
            maps: &mut self.maps,
            reinjector: &mut self.reinjector,
            port: &port,
            reset: self.reset,
        };
        self.sweeper.step(&mut tools, now_ns)
    }
}

/// What the engine must know of a flow.
#[must_use]
pub fn live_flow(key: &FlowKey, flow: &FlowValue) -> LiveFlow {
    let initiator = flow.flags & flow_flags::INITIATOR != 0;
    LiveFlow {
        key: *key,
        peer: flow.peer,
        port: flow.port,
        direction: if initiator { direction::EGRESS } else { direction::INGRESS },
        flags: flow.flags,
    }
}

fn interface_value(id: u16, workload: &WorkloadConfig, facts: &LinkFacts) -> InterfaceValue {
    let (side, mac) = match workload.side {
        Side::Host => (interface_flags::HOST_SIDE, workload.mac),
        Side::Own => (0, facts.mac),
    };
    let check = if mac.is_some() { interface_flags::CHECK_MAC } else { 0 };
    InterfaceValue { workload: id, flags: side | check, mac: mac.unwrap_or_default(), zero: [0; 6] }
}
