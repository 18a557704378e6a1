//! What time brings: leases renewed, ends kept, and the effects of lost trust.

use std::collections::HashSet;
use std::sync::Arc;

use enforcer_common::abi::PeerKey;

use super::Engine;
use super::adopt::verify_again;
use super::clock::{Now, SECOND_NS};
use super::counters::Done;
use super::io::{Output, Question, Sweep};
use super::judge::Term;
use super::peers::Vetted;
use super::verdicts::Verdict;
use crate::identity::Verifier;

/// How long before its end a verdict is renewed, in seconds: longer than two scans of the flows.
pub const RENEW_SECONDS: u64 = 45;
/// How long after a flow was last seen a verdict counts as in use, in seconds.
const USED_SECONDS: u64 = 60;
/// How often peers whose time is over are looked for, in nanoseconds.
const SWEEP_PEERS_NS: u64 = 10 * SECOND_NS;

impl Engine {
    pub(super) fn on_tick(&mut self, now: Now, out: &mut Vec<Output>) {
        self.jobs.give_up(now);
        self.follow_clock(now, out);
        self.tend_credentials(now, out);
        self.renew(now, out);
        self.end_verdicts(now, out);
        self.end_hosts(now, out);
        self.watch_learning(now);
        if now.boot_ns.saturating_sub(self.peers_swept_ns) >= SWEEP_PEERS_NS {
            self.peers_swept_ns = now.boot_ns;
            self.end_peers(now, out);
        }
    }

    pub(super) fn on_in_use(&mut self, questions: &[Question], now: Now) {
        for question in questions {
            self.verdicts.mark_used(question, now);
            self.learn(question, now);
        }
    }

    /// Puts off the end of verdicts that flows stand on, as long as everything still allows it.
    ///
    /// The policy is asked for the moment at which the verdict ends, so that a window of time that
    /// goes on is never seen as closed in between.
    fn renew(&mut self, now: Now, out: &mut Vec<Output>) {
        let policy = self.policy.clone();
        let ahead = RENEW_SECONDS.min(self.settings.credential.lifetime_seconds / 2);
        for asked in self.verdicts.ending(now.after(ahead)) {
            let Some(verdict) = self.verdicts.peek(&asked).copied() else { continue };
            let end = verdict.value.deadline_ns;
            if !verdict.passes() || end <= now.boot_ns || !self.is_wanted(&asked, &verdict, now) {
                continue;
            }
            let Some(judged) = self.judge(policy.as_deref(), &asked, now.unix_at(end)) else {
                continue;
            };
            let value = self.verdict(&asked, &judged, Term::Lease, now);
            // Once ports matter at that moment, an answer for every port ends.
            let same = judged.answered(asked) == asked;
            if judged.passes() && same && value.deadline_ns > end {
                self.counters.add(Done::Released, 1);
                self.install_verdict(asked, value, now, out);
            }
        }
    }

    /// A flow stands on it, or may yet be opened: the peer's credential ended a moment ago or lives.
    fn is_wanted(&self, asked: &Question, verdict: &Verdict, now: Now) -> bool {
        let recently = now.boot_ns.saturating_sub(USED_SECONDS * SECOND_NS);
        let known = self.peers.known(asked.peer);
        let alive = known.is_some_and(|known| known.latest.ends.credential_ns > recently);
        alive || (verdict.used_ns > 0 && verdict.used_ns >= recently)
    }

    /// Removes verdicts whose time is over, with the flows that stood on them.
    fn end_verdicts(&mut self, now: Now, out: &mut Vec<Output>) {
        let mut sweep = Sweep::default();
        for asked in self.verdicts.ending(now.boot_ns) {
            let Some(ended) = self.verdicts.remove(&asked) else { continue };
            out.push(Output::RemoveVerdict(asked.key(self.epoch)));
            if ended.passes() {
                sweep.questions.insert(asked);
            }
        }
        if !sweep.is_empty() {
            out.push(Output::SweepFlows(sweep));
        }
    }

    fn end_peers(&mut self, now: Now, out: &mut Vec<Output>) {
        self.ended.forget(now);
        for key in self.peers.keys_where(|_, peer| peer.deadline_ns <= now.boot_ns) {
            if let Some(vetted) = self.peers.vetted(key.remote) {
                self.ended.note(&vetted, now);
            }
            self.peers.remove(&key);
            out.push(Output::RemovePeer(key));
        }
        if self.peers.crowded() {
            let used: HashSet<u64> = self.verdicts.iter().map(|(asked, _)| asked.peer).collect();
            self.peers.forget_identities(|identity| used.contains(&identity));
        }
    }

    /// Trust changed: whoever does not verify under it loses peers, verdicts and flows at once.
    pub(super) fn on_set_verifier(
        &mut self,
        verifier: Arc<Verifier>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        self.negative.clear();
        self.jobs.abandon();
        for key in self.revoked_peers(&verifier, now) {
            self.peers.remove(&key);
            out.push(Output::RemovePeer(key));
        }
        let mut sweep = Sweep::default();
        let revoked: Vec<u64> = self
            .peers
            .identities()
            .filter(|(_, known)| !self.is_accepted_by(&verifier, &known.latest, now))
            .map(|(id, _)| *id)
            .collect();
        for identity in revoked {
            self.peers.forget_identity(identity);
            sweep.peers.insert(identity);
            for asked in self.verdicts.keys_where(|asked| asked.peer == identity) {
                self.verdicts.remove(&asked);
                out.push(Output::RemoveVerdict(asked.key(self.epoch)));
            }
        }
        self.verifier = verifier;
        if !sweep.is_empty() {
            out.push(Output::SweepFlows(sweep));
        }
    }

    fn revoked_peers(&self, verifier: &Verifier, now: Now) -> Vec<PeerKey> {
        let revoked = |key: &PeerKey, hash: &[u8; 32]| {
            let verified = self.peers.verified(key.remote, hash, now);
            verified.is_some_and(|one| !self.is_accepted_by(verifier, &one, now))
        };
        self.peers.keys_where(|key, peer| revoked(key, &peer.hash))
    }

    /// Whether another verifier accepts what the present one did.
    fn is_accepted_by(&self, verifier: &Verifier, vetted: &Vetted, now: Now) -> bool {
        verifier
            .accepts_still(&self.verifier, &vetted.credential)
            .unwrap_or_else(|| verify_again(verifier, &vetted.bytes(), now).is_some())
    }
}
