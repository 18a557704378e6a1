//! The wall clock was set: credentials end at other moments of boot time than was thought.

use std::collections::BTreeMap;
use std::sync::Arc;

use enforcer_common::abi::{Handle, PeerKey};

use super::Engine;
use super::clock::{Now, SECOND_NS};
use super::io::{Output, Sweep};
use super::jobs::{About, Job, MAX_PEERS_A_JOB, Work};
use super::judge::{Judged, Term};
use super::peers::Vetted;
use super::workloads::kernel_form;

/// A change of the clocks' difference beyond this is a step; less is slewing, or the reading.
const STEP_NS: u128 = SECOND_NS as u128;

impl Engine {
    /// Sets every deadline anew if the wall clock was set since the last time.
    pub(super) fn follow_clock(&mut self, now: Now, out: &mut Vec<Output>) {
        let offset = now.offset_ns();
        let before = self.offset_ns.replace(offset);
        if before.is_some_and(|before| before.abs_diff(offset) > STEP_NS) {
            self.date_credentials(now, out);
            self.date_peers(now, out);
            self.date_verdicts(now, out);
        }
    }

    fn date_credentials(&mut self, now: Now, out: &mut Vec<Output>) {
        let ids: Vec<u16> = self.workloads.iter().map(|workload| workload.id).collect();
        for id in ids {
            let Some(workload) = self.workloads.get_mut(id) else { continue };
            for own in &mut workload.credentials {
                let Some(local) = &own.secret else { continue };
                own.deadline_ns = now.boot_deadline(local.not_after());
                let form = kernel_form(local, now);
                out.extend(form.map(|form| Output::InstallCredential(own.handle, form)));
            }
            // One that was issued by a clock that ran ahead does not count yet, for hours perhaps:
            // a new one counts at once.
            workload.rotate_ns = now.boot_ns;
        }
    }

    /// The kernel's values hold keys that are not kept here, so they are computed again.
    fn date_peers(&mut self, now: Now, out: &mut Vec<Output>) {
        self.peers.date(now);
        let mut again: BTreeMap<Handle, Vec<Arc<Vetted>>> = BTreeMap::new();
        for key in self.peers.keys_where(|_, _| true) {
            match self.peers.vetted(key.remote) {
                Some(vetted) if now.boot_deadline(vetted.not_after) > now.boot_ns => {
                    again.entry(key.local).or_default().push(vetted);
                }
                _ => self.drop_peer(key, out),
            }
        }
        for (handle, peers) in again {
            let Ok(local) = self.secret(handle, now) else {
                // One of an earlier daemon: nobody can date it anew.
                for peer in peers {
                    self.drop_peer(PeerKey { local: handle, remote: peer.handle }, out);
                }
                continue;
            };
            for (part, peers) in peers.chunks(MAX_PEERS_A_JOB).enumerate() {
                if let Some(id) = self.jobs.start(About::Dating(handle, part), handle, now) {
                    let work = Work::Pair { local: Arc::clone(&local), peers: peers.to_vec() };
                    out.push(Output::Verify(Job { id, work }));
                }
            }
        }
    }

    fn drop_peer(&mut self, key: PeerKey, out: &mut Vec<Output>) {
        self.peers.remove(&key);
        out.push(Output::RemovePeer(key));
    }

    fn date_verdicts(&mut self, now: Now, out: &mut Vec<Output>) {
        let policy = self.policy.clone();
        let mut sweep = Sweep::default();
        for asked in self.verdicts.keys_where(|_| true) {
            let Some(verdict) = self.verdicts.peek(&asked).copied() else { continue };
            let judged = self.judge(policy.as_deref(), &asked, now.unix_seconds());
            let term = if verdict.used_ns > 0 { Term::Lease } else { Term::Credentials };
            let dated = judged
                .filter(|judged| judged.answered(asked) == asked)
                .map(|judged| (self.verdict(&asked, &judged, term, now), Judged::passes(&judged)))
                .filter(|(value, _)| value.deadline_ns > now.boot_ns);
            if verdict.passes() && !dated.is_some_and(|(_, passes)| passes) {
                sweep.questions.insert(asked);
            }
            if let Some((value, _)) = dated {
                self.install_verdict(asked, value, now, out);
            } else {
                self.verdicts.remove(&asked);
                out.push(Output::RemoveVerdict(asked.key(self.epoch)));
            }
        }
        if !sweep.is_empty() {
            out.push(Output::SweepFlows(sweep));
        }
    }
}
