//! The event loop: one task that owns engine and datapath.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use enforcer_common::abi::{ReportedSegment, record_kind};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval};

use super::attach::{GLANCE, Unit};
use super::backend::Request;
use super::clock::now;
use super::hosts::HostsFile;
use super::learned::LearnedFile;
use super::log::Log;
use super::memory::Memory;
use super::overrides::Overrides;
use super::pool::Pool;
use super::reload::{Loaded, Reloading};
use crate::config::Config;
use crate::control::BackendError;
use crate::datapath::{Changes, Datapath, Events, Watcher, record};
use crate::engine::{Engine, HeldFrame, Input, JobResult};
use crate::fault::{self, KillPoint};
use crate::service;

/// How often the engine is told that time went on.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// How often the flows are looked through for verdicts in use; the engine renews well ahead of it.
const SCAN_TICKS: u64 = 15;
/// How often attachments are looked at.
const WATCH_TICKS: u64 = 5;
/// How often what was learned is written down.
const SAVE_TICKS: u64 = 60;
/// Between steps of ending flows: while there are some to end, and otherwise.
const SWEEP_BUSY: Duration = Duration::from_millis(10);
const SWEEP_IDLE: Duration = Duration::from_millis(250);

/// Everything that the event loop owns.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Arc<Config>,
    pub(super) engine: Engine,
    pub(super) datapath: Datapath,
    pub(super) events: Events,
    pub(super) pool: Pool,
    pub(super) memory: Memory,
    pub(super) hosts: HostsFile,
    pub(super) overrides: Overrides,
    pub(super) learned: LearnedFile,
    pub(super) log: Log,
    pub(super) units: Vec<Unit>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) reloading: Reloading,
    pub(super) hangup: Signal,
    /// What does not work, by its area; shown in the status.
    pub(super) problems: BTreeMap<&'static str, String>,
    pub(super) started: Instant,
    pub(super) kernel: String,
    /// Whether the start is over: every workload was attached once.
    pub(super) settled: bool,
    /// What was said of readiness last, if it was that everything is enforced.
    pub(super) ready: Option<String>,
    /// Tells of changed interfaces.
    pub(super) watcher: Watcher,
    /// The workload whose chains were glanced at last.
    pub(super) glanced: u16,
    /// How often programs were found detached by somebody.
    pub(super) detached: u64,
    /// How often somebody's program was found in front.
    pub(super) displaced: u64,
    pub(super) ticks: u64,
    pub(super) ticker: Interval,
    pub(super) glances: Interval,
    pub(super) next_sweep: Instant,
    pub(super) watchdog: Option<Interval>,
}

/// What the event loop wakes up for.
enum Happened {
    Held(HeldFrame),
    Names(HeldFrame),
    Result(JobResult),
    Reported(ReportedSegment),
    Request(Request),
    Reload,
    Loaded(Box<Result<Loaded, BackendError>>),
    Changed(Changes),
    Glance,
    Tick,
    Sweep,
    Alive,
    /// What the daemon cannot do without is gone.
    Lost(String),
    Stop,
}

impl Core {
    /// Runs until told to stop. What is attached stays attached.
    ///
    /// # Errors
    /// A part ended that the daemon cannot do without: the next daemon has it again.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
        loop {
            match self.next(&mut stopped).await {
                Happened::Held(held) => self.tell(Input::Held(held)),
                Happened::Names(held) => self.tell(Input::Names(held)),
                Happened::Result(result) => self.tell(Input::Verified(result)),
                Happened::Reported(segment) => self.on_reported(&segment),
                Happened::Request(request) => self.on_request(request),
                Happened::Reload => self.reload(None),
                Happened::Loaded(loaded) => self.on_loaded(*loaded),
                Happened::Changed(changes) => self.on_changes(&changes),
                Happened::Glance => self.on_glance(),
                Happened::Tick => self.on_tick(),
                Happened::Sweep => self.on_sweep(),
                Happened::Alive => service::alive(),
                Happened::Lost(what) => anyhow::bail!("{what}"),
                Happened::Stop => {
                    self.save_learned();
                    self.save_hosts();
                    return Ok(());
                }
            }
        }
    }

    async fn next(&mut self, stopped: &mut watch::Receiver<bool>) -> Happened {
        let watchdog = async {
            match &mut self.watchdog {
                Some(interval) => interval.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => Happened::Stop,
            ended = self.events.readers.ended() => Happened::Lost(ended),
            Some(held) = self.events.held.recv() => Happened::Held(held),
            Some(held) = self.events.names.recv() => Happened::Names(held),
            Some(result) = self.pool.results.recv() => Happened::Result(result),
            Some(segment) = self.events.rejected.recv() => Happened::Reported(segment),
            Some(request) = self.requests.recv() => Happened::Request(request),
            Some(()) = self.hangup.recv() => Happened::Reload,
            Some(()) = self.reloading.changes.recv() => Happened::Reload,
            Some(loaded) = self.reloading.loaded.recv() => Happened::Loaded(Box::new(loaded)),
            changes = self.watcher.changed() => Happened::Changed(changes),
            _ = self.glances.tick() => Happened::Glance,
            _ = self.ticker.tick() => Happened::Tick,
            () = tokio::time::sleep_until(self.next_sweep) => Happened::Sweep,
            _ = watchdog => Happened::Alive,
        }
    }

    /// For inputs that are no policy change: failures were told to the engine and logged.
    pub(super) fn tell(&mut self, input: Input) {
        if let Err(error) = self.handle(input) {
            self.log.problem(&format!("{error:#}"));
        }
        if self.datapath.is_sweeping() {
            self.next_sweep = self.next_sweep.min(Instant::now() + SWEEP_BUSY);
        }
    }

    fn on_reported(&mut self, segment: &ReportedSegment) {
        if segment.kind != record_kind::OPENED {
            return self.log.reported(&self.engine, segment, now());
        }
        match record::opened(segment) {
            Some(flow) => self.tell(Input::Opened(flow)),
            None => drop(self.events.counters.malformed.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        self.tell(Input::Tick);
        self.end_overrides();
        if self.ticks.is_multiple_of(SAVE_TICKS) {
            self.save_learned();
        }
        if self.ticks.is_multiple_of(SCAN_TICKS) {
            self.scan_flows();
        }
        if self.ticks.is_multiple_of(WATCH_TICKS) {
            if !fault::without_ticks() {
                self.watch_attachments();
            }
            self.compact_memory();
            self.save_hosts();
        }
        self.tell_readiness();
    }

    /// Tells the engine which verdicts flows stand on, and which addresses of hosts, and what goes on without an
    /// identity where that is learned.
    fn scan_flows(&mut self) {
        match self.questions_in_use(None) {
            Ok(questions) => self.tell(Input::InUse(questions)),
            Err(error) => self.log.failure(&error),
        }
        match self.hosts_in_use() {
            Ok(used) => self.tell(Input::HostsInUse(used)),
            Err(error) => self.log.failure(&error),
        }
        match self.plain_in_use() {
            Ok(flows) => self.tell(Input::PlainInUse(flows)),
            Err(error) => self.log.failure(&error),
        }
    }

    fn compact_memory(&mut self) {
        if !self.memory.is_stale(self.engine.memory()) {
            return;
        }
        let of_use = self.engine.remembered();
        match self.memory.compact(of_use.iter().map(|vetted| vetted.bytes())) {
            Ok(()) => {
                if let Err(error) = self.datapath.forget_remembered() {
                    self.log.failure(&error);
                }
                if self.problems.remove("memory").is_some() {
                    tracing::info!(records = of_use.len(), "memory file written again");
                }
            }
            Err(error) => {
                let problem = format!("{error:#}; what it lacks is kept in the map REMEMBERED");
                self.log.problem(&problem);
                self.problems.insert("memory", problem);
            }
        }
    }

    fn on_sweep(&mut self) {
        match self.datapath.sweep(now().boot_ns) {
            Ok(swept) if swept.failed > 0 => {
                self.log.problem(&format!("{} resets could not be sent", swept.failed));
            }
            Ok(_) => {}
            Err(error) => self.log.failure(&error),
        }
        let pause = if self.datapath.is_sweeping() { SWEEP_BUSY } else { SWEEP_IDLE };
        self.next_sweep = Instant::now() + pause;
    }

    /// Says that everything is enforced that is there, and afterwards what the state is.
    pub(super) fn tell_readiness(&mut self) {
        let reasons = self.reasons_not_ready();
        let waiting = self.waiting();
        let mut text = format!("{} workloads enforced", self.units.len() - waiting.len());
        if !waiting.is_empty() {
            text = format!("{text}; waiting: {}", waiting.join("; "));
        }
        match (reasons.is_empty(), &self.ready) {
            (true, Some(said)) if *said == text => {}
            (true, _) => {
                tracing::info!("ready: {text}");
                service::ready(&text);
                self.ready = Some(text);
                fault::reached(KillPoint::Ready);
            }
            (false, None) => {}
            (false, Some(_)) => {
                let text = format!("not ready: {}", reasons.join("; "));
                tracing::warn!("{text}");
                service::status(&text);
                self.ready = None;
            }
        }
    }
}

/// The timer of glances at the chains.
pub(super) fn glances() -> Interval {
    let mut glances = tokio::time::interval(GLANCE);
    glances.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    glances
}
