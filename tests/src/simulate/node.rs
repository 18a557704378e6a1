//! One node: the real engine, its maps and flows, and what each input costs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use enforcer_user::config::Limits;
use enforcer_user::engine::{
    Engine, Input, Job, JobResult, Mesh, Now, Output, SECOND_NS, Settings,
};
use enforcer_user::identity::{Issuer, Verifier};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::flows::Flows;
use super::heap::{counted, uncounted};
use super::remotes::{LIMITS, START};
use super::tables::{Capacities, Tables};

/// Boot time when the simulation begins, seconds.
const BOOTED_FOR: u64 = 1000;

/// Processor time of one kind of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spent {
    /// How often.
    pub calls: u64,
    /// In all, milliseconds.
    pub millis: f64,
    /// The longest, milliseconds.
    pub longest_millis: f64,
}

impl Spent {
    /// Once more.
    pub fn add(&mut self, time: Duration) {
        let millis = time.as_secs_f64() * 1e3;
        self.calls += 1;
        self.millis += millis;
        self.longest_millis = self.longest_millis.max(millis);
    }
}

/// Processor time of all kinds of work.
pub type Costs = BTreeMap<&'static str, Spent>;

/// Kinds of work: the first five are calls of the engine, on the thread that moves packets.
pub mod kind {
    /// Held segments and the results of jobs.
    pub const CONTACTS: &str = "contacts";
    /// Time going on: renewals, ends, rotations begun.
    pub const TICKS: &str = "ticks";
    /// Workloads added and removed.
    pub const WORKLOADS: &str = "workloads";
    /// A policy put in force.
    pub const POLICY: &str = "policy change";
    /// A revocation, a certificate.
    pub const TRUST: &str = "trust change";
    /// Verifying and pairing, on other threads.
    pub const JOBS: &str = "verifications";
    /// Reading and checking a policy, on another thread.
    pub const LOADS: &str = "policy loads";

    /// Those on the thread that moves packets.
    pub const ENGINE: [&str; 5] = [CONTACTS, TICKS, WORKLOADS, POLICY, TRUST];
}

/// A node.
#[derive(Debug)]
pub struct Node {
    engine: Engine,
    /// The kernel's maps.
    pub tables: Tables,
    /// Open connections.
    pub flows: Flows,
    /// What was spent.
    pub costs: Costs,
    /// Connections that were reset by a sweep.
    pub cut: usize,
    /// What the engine complained of, the last of it, and how often.
    pub problems: (u64, Option<String>),
}

impl Node {
    /// A node without workloads and policy.
    pub fn new(limits: &Limits, issuer: Issuer, verifier: Arc<Verifier>) -> Result<Self> {
        let capacities = Capacities::new(limits)?;
        let settings = Settings {
            peers: usize::try_from(limits.peers)?,
            verdicts: usize::try_from(limits.verdicts)?,
            credential: LIMITS,
            mesh: Mesh { networks: vec!["10.0.0.0/8".parse()?], ..Mesh::default() },
        };
        Ok(Self {
            engine: counted(|| Engine::new(settings, Arc::new(issuer), verifier)),
            tables: Tables::new(&capacities)?,
            flows: Flows::new(capacities.of("FLOWS4")?),
            costs: Costs::new(),
            cut: 0,
            problems: (0, None),
        })
    }

    /// The engine, to ask.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Tells the engine what happened, and does what it says as the daemon does it. Jobs run at once, so that
    /// none waits for another.
    pub fn tell(
        &mut self,
        kind: &'static str,
        now: Now,
        make: impl FnOnce() -> Result<Input>,
    ) -> Result<()> {
        counted(|| {
            let input = make()?;
            let outputs = self.handle(kind, input, now)?;
            self.apply(kind, outputs, now)
        })
    }

    /// Measures what is done beside the engine.
    pub fn spend<T>(&mut self, kind: &'static str, work: impl FnOnce() -> T) -> Result<T> {
        let started = processor_time()?;
        let done = work();
        let spent = processor_time()?.saturating_sub(started);
        uncounted(|| self.costs.entry(kind).or_default().add(spent));
        Ok(done)
    }

    /// Whether the maps are what the engine takes them for, and everything adds up.
    pub fn check(&self) -> Result<()> {
        let status = self.engine.status();
        self.tables.check(status.peers, status.verdicts)?;
        let (level, flows) = (self.flows.level(), self.flows.count());
        ensure!(
            level.entries == flows && level.added - level.removed == flows as u64,
            "{flows} flows, counted as {level:?}"
        );
        Ok(())
    }

    fn handle(&mut self, kind: &'static str, input: Input, now: Now) -> Result<Vec<Output>> {
        let started = processor_time()?;
        let outputs = self.engine.handle(input, now);
        let spent = processor_time()?.saturating_sub(started);
        uncounted(|| self.costs.entry(kind).or_default().add(spent));
        Ok(outputs)
    }

    fn apply(&mut self, kind: &'static str, outputs: Vec<Output>, now: Now) -> Result<()> {
        let is_flip = |output: &Output| matches!(output, Output::FlipEpoch(_));
        let mut before_flip = outputs.iter().any(is_flip);
        let mut queue: VecDeque<Output> = outputs.into();
        while let Some(output) = queue.pop_front() {
            let output = match output {
                Output::Verify(job) => {
                    let result = self.run(job)?;
                    queue.extend(self.handle(kind, Input::Verified(result), now)?);
                    continue;
                }
                other => other,
            };
            let applied = uncounted(|| self.apply_one(&output));
            before_flip &= !is_flip(&output);
            if !applied && before_flip {
                // The change is taken back; nothing of the rest is done.
                queue = self.handle(kind, Input::ChangeFailed, now)?.into();
                before_flip = false;
            } else if !applied {
                let lost = match &output {
                    Output::InstallPeer(key, _) => Input::PeerLost(*key),
                    Output::InstallVerdict(key, _) => Input::VerdictLost(*key),
                    _ => continue,
                };
                queue.extend(self.handle(kind, lost, now)?);
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, output: &Output) -> bool {
        match output {
            Output::SweepFlows(sweep) => self.cut += self.flows.sweep(sweep),
            Output::Problem(problem) => {
                self.problems = (self.problems.0 + 1, Some(problem.clone()));
            }
            _ => {}
        }
        self.tables.apply(output)
    }

    fn run(&mut self, job: Job) -> Result<JobResult> {
        self.spend(kind::JOBS, || job.run())
    }
}

/// So many seconds and nanoseconds after the beginning.
pub fn at(second: u64, nanoseconds: u64) -> Now {
    let since = |start: u64| (start + second) * SECOND_NS + nanoseconds;
    Now { boot_ns: since(BOOTED_FOR), unix_ns: since(START) }
}

/// Time this thread has run.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
