//! From a configuration to a running event loop.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use enforcer_common::abi::workload_flags;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::attach::{Problem, Unit};
use super::backend::Request;
use super::clock::now;
use super::core::{Core, TICK, glances};
use super::hosts::HostsFile;
use super::learned::{self, LearnedFile};
use super::log::Log;
use super::memory::Memory;
use super::overrides::Overrides;
use super::pool::Pool;
use super::reload::Reloading;
use crate::config::{Config, Existing, Mode, WorkloadConfig};
use crate::datapath::{Datapath, Watcher};
use crate::engine::{Adopted, Engine, HostRecord, Input, Mesh, Settings, WorkloadSpec};
use crate::fault::{self, KillPoint};
use crate::identity::Verifier;
use crate::{materials, service};

/// How long after the first attachment connections that were open before are taken over or reset at
/// both ends, in seconds.
const EXISTING_SECONDS: u64 = 300;

impl Core {
    /// Does everything up to readiness that can be done at once.
    pub(super) fn start(
        config: &Config,
        requests: mpsc::Receiver<Request>,
    ) -> anyhow::Result<Self> {
        let (trust, issuer) = materials::load_trust(config, now().unix_seconds())?;
        let config = Arc::new(config.clone().on_node(issuer.node_labels()));
        let policy = materials::load_policy(&config).context("policy")?;
        let reloading = Reloading::start(&config);
        let verifier = Arc::new(Verifier::new(trust));
        let mut engine = Engine::new(settings(&config), Arc::new(issuer), verifier);
        let (memory, remembered) = Memory::open(&config.instance_run_dir());
        let (hosts, told) = HostsFile::open(&config.instance_run_dir());
        fault::reached(KillPoint::MemoryOpened);
        let mut overrides = Overrides::open(&config.instance_run_dir());
        let problems = overrides.problem.take().map(|problem| ("overrides", problem));
        let (mut learned, known) = LearnedFile::open(&config.instance_state_dir());
        let problems =
            problems.into_iter().chain(learned.problem.take().map(|one| (learned::AREA, one)));
        let policy = overrides.over(&policy).map(Arc::new).map_err(anyhow::Error::msg)?;
        engine.set_learned(known);
        let (datapath, events) = Datapath::open(&config)?;
        // Before the first look at an interface, so that no change is missed behind it.
        let watcher = Watcher::open()?;
        let mut ticker = interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut core = Self {
            log: Log::new(config.log.denials_per_second),
            config,
            engine,
            datapath,
            events,
            pool: Pool::start()?,
            memory,
            hosts,
            overrides,
            learned,
            units: Vec::new(),
            requests,
            reloading,
            hangup: signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?,
            problems: problems.collect(),
            started: Instant::now(),
            kernel: kernel_release(),
            settled: false,
            ready: None,
            watcher,
            glanced: 0,
            detached: 0,
            displaced: 0,
            glances: glances(),
            ticks: 0,
            ticker,
            next_sweep: Instant::now(),
            watchdog: service::watchdog_interval().map(interval),
        };
        core.adopt(remembered, told)?;
        core.add_workloads()?;
        let live = core.datapath.live_flows()?;
        core.handle(Input::SetPolicy { policy, live })?;
        if let Some(problem) = core.problems.remove("engine") {
            bail!("{problem}");
        }
        core.attach_missing();
        crate::heap::trim();
        if let Some(job) = core.engine.rehearse(now()) {
            core.pool.queue(job);
        }
        core.tell_readiness();
        Ok(core)
    }

    fn adopt(&mut self, remembered: Vec<Vec<u8>>, hosts: Vec<HostRecord>) -> anyhow::Result<()> {
        let Some(pinned) = self.datapath.adopted()? else { return Ok(()) };
        fault::reached(KillPoint::PinsRead);
        let kept = self.datapath.remembered()?;
        let written = kept.iter().all(|credential| self.memory.append(credential));
        if written {
            self.datapath.forget_remembered()?;
        }
        let remembered = remembered.into_iter().chain(kept).collect();
        let adopted = Adopted { remembered, hosts, ..pinned };
        tracing::info!(
            epoch = adopted.epoch,
            workloads = adopted.workloads.len(),
            peers = adopted.peers.len(),
            verdicts = adopted.verdicts.len(),
            "adopting the pinned datapath"
        );
        self.handle(Input::Adopt(Box::new(adopted)))
    }

    fn add_workloads(&mut self) -> anyhow::Result<()> {
        for workload in self.config.workloads.clone() {
            self.add_workload(workload)?;
        }
        Ok(())
    }

    fn add_workload(&mut self, workload: WorkloadConfig) -> anyhow::Result<()> {
        let name = workload.identity.path();
        self.handle(Input::AddWorkload(spec(&workload)))?;
        if let Some(problem) = self.problems.remove("engine") {
            bail!("workload {name:?}: {problem}");
        }
        let id = self.engine.workload_id(&name);
        let id = id.with_context(|| format!("workload {name:?}: it got no id"))?;
        let problem = Some(Problem::Open("not attached yet".to_owned()));
        self.units.push(Unit { id, workload, problem, unguarded: None });
        Ok(())
    }

    /// Takes on the workloads of the configuration that are not here, and lets go of those that are
    /// not in it any more.
    pub(super) fn change_workloads(&mut self, before: &Config) {
        let config = Arc::clone(&self.config);
        for gone in before.gone(&config) {
            let path = gone.identity.path();
            self.units.retain(|unit| unit.workload.identity.path() != path);
            self.tell(Input::RemoveWorkload(path));
            tracing::info!(workload = %gone.identity, interface = gone.interface, "no longer enforced");
        }
        for new in config.gone(before) {
            if let Err(error) = self.add_workload(new.clone()) {
                self.log.problem(&format!("{error:#}"));
            }
        }
        self.attach_missing();
        self.tell_readiness();
    }
}

fn settings(config: &Config) -> Settings {
    let entries = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
    Settings {
        peers: entries(config.limits.peers),
        verdicts: entries(config.limits.verdicts),
        credential: materials::credential_limits(config),
        mesh: mesh(config),
    }
}

/// Where the mesh is.
pub(super) fn mesh(config: &Config) -> Mesh {
    Mesh {
        networks: config.mesh.networks.clone(),
        virtual_addresses: config.mesh.virtual_addresses.clone(),
    }
}

fn spec(workload: &WorkloadConfig) -> WorkloadSpec {
    let observe = if workload.mode == Mode::Enforce { 0 } else { workload_flags::OBSERVE };
    let reset = match workload.existing {
        Existing::Reset => workload_flags::RESET_UNKNOWN,
        Existing::Adopt => 0,
    };
    WorkloadSpec {
        identity: workload.identity.clone(),
        flags: workload_flags::CHECK_ADDRESS | observe | reset,
        adopt_until_ns: now().after(EXISTING_SECONDS),
        learns: workload.mode == Mode::Learn,
    }
}

fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}
