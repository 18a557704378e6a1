//! Applies what the engine says, in order: the kernel's part through the datapath, the rest here.

use std::collections::VecDeque;

use super::clock::now;
use super::core::Core;
use crate::datapath::DatapathError;
use crate::engine::{Input, Output};
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
                let queued = self.pool.run(job);
                self.log.problem_unless(queued, "the queue of verifications is full");
            }
            Some(Output::Remember(vetted)) => self.remember(&vetted.hash, &vetted.bytes),
            Some(Output::Log(denial)) => self.log.denial(&denial),
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
        | Output::Log(_)
        | Output::LogRefusal(_)
        | Output::Problem(_) => None,
    }
}
