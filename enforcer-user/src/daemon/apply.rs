//! Applies what the engine says, in order: the kernel's part through the datapath, the rest here.

use std::collections::VecDeque;

use super::clock::now;
use super::core::Core;
use super::pool::Begun;
use crate::datapath::{DatapathError, boot_ns};
use crate::engine::{Input, Job, JobResult, Output};
use crate::fault::{self, KillPoint};

impl Core {
    /// Tells the engine what happened and does what it says. An error is that of a policy change
    /// that was taken back; every other failure is told to the engine and logged.
    pub(super) fn handle(&mut self, input: Input) -> anyhow::Result<()> {
        let outputs = self.engine.handle(input, now());
        if outputs.iter().any(|output| matches!(output, Output::FlipEpoch(_))) {
            return self.apply_change(outputs.into());
        }
        self.apply(outputs);
        Ok(())
    }

    /// Applies outputs, and those that come of failures.
    pub(super) fn apply(&mut self, outputs: Vec<Output>) {
        let mut queue: VecDeque<Output> = outputs.into();
        while let Some(output) = queue.pop_front() {
            let output = match output {
                Output::Verify(job) => {
                    queue.extend(self.verify(job));
                    continue;
                }
                other => other,
            };
            let lost = match &output {
                Output::InstallPeer(key, _) => Some(Input::PeerLost(*key)),
                Output::InstallVerdict(key, _) => Some(Input::VerdictLost(*key)),
                _ => None,
            };
            if let Err(error) = self.apply_one(output) {
                self.log.failure(&error);
                if let Some(lost) = lost {
                    queue.extend(self.engine.handle(lost, now()));
                }
            }
        }
    }

    /// A policy change: nothing may fail up to the flip.
    fn apply_change(&mut self, mut queue: VecDeque<Output>) -> anyhow::Result<()> {
        while let Some(output) = queue.pop_front() {
            let flip = matches!(output, Output::FlipEpoch(_));
            if let Err(error) = self.apply_one(output) {
                let undo = self.engine.handle(Input::ChangeFailed, now());
                self.apply(undo);
                let text = "the policy was not put in force, the one before it holds";
                return Err(anyhow::Error::new(error).context(text));
            }
            if flip {
                break;
            }
        }
        self.apply(queue.into());
        Ok(())
    }

    fn apply_one(&mut self, output: Output) -> Result<(), DatapathError> {
        if matches!(output, Output::FlipEpoch(_)) {
            fault::reached(KillPoint::BeforeFlip);
        }
        let point = point_behind(&output);
        let rest = self.datapath.apply(output)?;
        point.into_iter().for_each(fault::reached);
        match rest {
            Some(Output::Verify(job)) => {
                let begun = self.pool.queue(job);
                self.ran(begun);
            }
            Some(Output::Remember(vetted)) => self.remember(&vetted.hash, &vetted.bytes()),
            Some(Output::RememberHost(record)) => {
                let (workload, host, address) = (&record.workload, &record.host, record.address);
                tracing::debug!(%workload, %host, %address, "opened to a workload that asked for it");
                self.hosts.append(&record);
            }
            Some(Output::Log(denial)) => self.log.denial(&self.engine, &denial, now()),
            Some(Output::LogRefusal(refusal)) => self.log.refusal(&self.engine, &refusal),
            Some(Output::Problem(problem)) => {
                self.log.problem(&problem);
                self.problems.insert("engine", problem);
            }
            // The rest was the datapath's.
            _ => {}
        }
        Ok(())
    }
}

impl Core {
    /// Runs a job here, or has it run; returns what follows at once.
    fn verify(&mut self, job: Job) -> Vec<Output> {
        let quiet = self.events.held.is_empty();
        let begun = self.pool.begin(job, quiet, boot_ns());
        let result = self.ran(begun);
        result.map_or_else(Vec::new, |result| self.engine.handle(Input::Verified(result), now()))
    }

    fn ran(&mut self, begun: Begun) -> Option<JobResult> {
        let room = !matches!(begun, Begun::Full);
        self.log.problem_unless(room, "the queue of verifications is full");
        match begun {
            Begun::Ran(result) => result,
            Begun::Queued | Begun::Full => None,
        }
    }

    /// For a later daemon: in the memory file, or in the kernel as long as that has no room.
    pub(super) fn remember(&mut self, hash: &[u8; 32], credential: &[u8]) {
        if !self.memory.append(credential)
            && let Err(error) = self.datapath.remember(hash, credential)
        {
            self.log.failure(&error);
        }
    }
}

/// Where a test may end the daemon once this is done.
fn point_behind(output: &Output) -> Option<KillPoint> {
    match output {
        Output::InstallCredential(..) => Some(KillPoint::CredentialInstalled),
        Output::InstallWorkload(..) => Some(KillPoint::WorkloadInstalled),
        Output::InstallPeer(..) => Some(KillPoint::PeerInstalled),
        Output::InstallVerdict(..) => Some(KillPoint::VerdictInstalled),
        Output::RemoveVerdict(_) => Some(KillPoint::VerdictRemoved),
        Output::InstallNetworks(_) => Some(KillPoint::NetworksInstalled),
        Output::RemoveNetworks(_) => Some(KillPoint::NetworksRemoved),
        Output::FlipEpoch(_) => Some(KillPoint::EpochFlipped),
        Output::SweepFlows(_) => Some(KillPoint::FlowsListed),
        Output::RemoveCredential(_)
        | Output::RemoveWorkload(_)
        | Output::RemovePeer(_)
        | Output::ForgetAttempt(_)
        | Output::Reinject { .. }
        | Output::Verify(_)
        | Output::Remember(_)
        | Output::RememberHost(_)
        | Output::Log(_)
        | Output::LogRefusal(_)
        | Output::Problem(_) => None,
    }
}
