//! Work that is too slow for the thread that moves packets: signatures and key agreement.
//!
//! One verification a credential, however many segments wait for it; bounded in number, in
//! waiters, and per source network, so that one flood does not take every place.

use std::collections::HashMap;
use std::sync::Arc;

use enforcer_common::abi::{Address, Handle};

use super::clock::{Now, SECOND_NS};
use super::counters::Refused;
use super::io::HeldFrame;
use super::peers::{Ends, Vetted};
use crate::identity::{LocalCredential, PairError, PairKeys, Verifier, VerifyError, pair_keys};

/// The most jobs under way.
pub const MAX_JOBS: usize = 256;
/// The most segments that wait for one job.
pub const MAX_WAITERS: usize = 8;
/// The most jobs of one source network (/24 or /64).
pub const MAX_JOBS_A_SOURCE: usize = 64;
/// How long a job may take, in nanoseconds: thousands of times what it needs.
const GIVE_UP_NS: u64 = 60 * SECOND_NS;
/// The most peers that one job pairs.
pub const MAX_PEERS_A_JOB: usize = 64;

/// Number of a job; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

/// A job: pure computation, run anywhere.
#[derive(Debug)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    pub(super) work: Work,
}

/// What a job computes.
#[derive(Debug)]
pub(super) enum Work {
    /// Verifies a credential and pairs it with a local one.
    Verify { verifier: Arc<Verifier>, credential: Vec<u8>, local: Arc<LocalCredential>, now: Now },
    /// Pairs a local credential with peers that were verified before.
    Pair { local: Arc<LocalCredential>, peers: Vec<Arc<Vetted>> },
}

/// What a job found.
#[derive(Debug)]
pub struct JobResult {
    /// The job's number.
    pub id: JobId,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Verified(Arc<Vetted>, Result<PairKeys, PairError>),
    Refused(VerifyError),
    Paired(Vec<(Arc<Vetted>, Result<PairKeys, PairError>)>),
}

impl Job {
    /// Whether it computes for one peer only: a fraction of a millisecond.
    #[must_use]
    pub fn is_brief(&self) -> bool {
        match &self.work {
            Work::Verify { .. } => true,
            Work::Pair { peers, .. } => peers.len() <= 1,
        }
    }

    /// Does the work: tens to hundreds of microseconds, no clock, no I/O.
    #[must_use]
    pub fn run(self) -> JobResult {
        let outcome = match self.work {
            Work::Verify { verifier, credential, local, now } => {
                match verifier.verify(&credential, now.unix_seconds()) {
                    Ok(peer) => {
                        let keys = pair_keys(&local, &peer);
                        let ends = Ends::of(&peer, now);
                        Outcome::Verified(Arc::new(Vetted::new(peer, credential, ends)), keys)
                    }
                    Err(error) => Outcome::Refused(error),
                }
            }
            Work::Pair { local, peers } => Outcome::Paired(
                peers
                    .into_iter()
                    .map(|peer| {
                        let keys = pair_keys(&local, &peer);
                        (peer, keys)
                    })
                    .collect(),
            ),
        };
        JobResult { id: self.id, outcome }
    }
}

/// What a job is about; two jobs about the same never run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum About {
    /// The credential of this hash.
    Credential([u8; 32]),
    /// A known peer of this hash and the local credential of this handle.
    Pair([u8; 32], Handle),
    /// The next credential of the workload of this id.
    Rotation(u16, Handle),
}

/// A job under way.
#[derive(Debug)]
pub(super) struct Pending {
    pub about: About,
    /// The local credential it pairs with.
    pub local: Handle,
    pub waiters: Vec<HeldFrame>,
    source: Option<Source>,
    started_ns: u64,
}

/// A network that jobs are counted for.
type Source = [u8; 8];

/// All jobs under way.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    next: u64,
    pending: HashMap<JobId, Pending>,
    by_subject: HashMap<About, JobId>,
    by_source: HashMap<Source, usize>,
}

/// What became of a segment that needs a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// It waits for a job that is under way.
    Coalesced,
    /// It waits for this new job.
    Started(JobId),
}

impl Jobs {
    /// Number of jobs under way.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Puts a segment behind the job about its subject, which is begun if there is none.
    pub fn wait(
        &mut self,
        about: About,
        local: Handle,
        held: HeldFrame,
        now: Now,
    ) -> Result<Queued, Refused> {
        if let Some(id) = self.by_subject.get(&about) {
            let waiters = self.pending.get_mut(id).map(|pending| &mut pending.waiters);
            return match waiters {
                Some(waiters) if waiters.len() < MAX_WAITERS => {
                    waiters.push(held);
                    Ok(Queued::Coalesced)
                }
                _ => Err(Refused::WaiterLimit),
            };
        }
        let source = source_network(&held.key.remote);
        if self.pending.len() >= MAX_JOBS {
            return Err(Refused::JobLimit);
        }
        let of_source = self.by_source.entry(source).or_insert(0);
        if *of_source >= MAX_JOBS_A_SOURCE {
            return Err(Refused::SourceLimit);
        }
        *of_source += 1;
        Ok(Queued::Started(self.begin(about, local, Some(source), vec![held], now)))
    }

    /// Begins a job for which no segment waits; none if one about the same is under way.
    pub fn start(&mut self, about: About, local: Handle, now: Now) -> Option<JobId> {
        let known = self.by_subject.contains_key(&about);
        (!known).then(|| self.begin(about, local, None, Vec::new(), now))
    }

    /// A number for a job that is not listed: its result is dropped.
    pub fn unlisted(&mut self) -> JobId {
        self.next += 1;
        JobId(self.next - 1)
    }

    /// Takes a job off the list; none if it was given up.
    pub fn finish(&mut self, id: JobId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.by_subject.remove(&pending.about);
        if let Some(source) = pending.source
            && let Some(count) = self.by_source.get_mut(&source)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
        Some(pending)
    }

    /// Gives up every job: what they were begun with holds no more.
    pub fn abandon(&mut self) {
        self.pending.clear();
        self.by_subject.clear();
        self.by_source.clear();
    }

    /// Gives up jobs whose results never came, so that their places are free again.
    pub fn give_up(&mut self, now: Now) {
        let late = |pending: &Pending| now.boot_ns.saturating_sub(pending.started_ns) > GIVE_UP_NS;
        let ids: Vec<JobId> =
            self.pending.iter().filter(|(_, one)| late(one)).map(|(id, _)| *id).collect();
        for id in ids {
            self.finish(id);
        }
    }

    fn begin(
        &mut self,
        about: About,
        local: Handle,
        source: Option<Source>,
        waiters: Vec<HeldFrame>,
        now: Now,
    ) -> JobId {
        let id = self.unlisted();
        self.by_subject.insert(about, id);
        self.pending.insert(id, Pending { about, local, waiters, source, started_ns: now.boot_ns });
        id
    }
}

/// The /24 of a mapped IPv4 address, the /64 of an IPv6 one.
fn source_network(address: &Address) -> Source {
    let (network, rest) = address.split_at(8);
    let mapped = network == [0; 8] && rest.starts_with(&[0, 0, 0xff, 0xff]);
    let mut source = Source::default();
    if mapped {
        // Apart from every IPv6 network: those that begin with zeros are reserved (RFC 4291 2.4).
        source[4] = 1;
        source[5..].copy_from_slice(&address[12..15]);
    } else {
        source.copy_from_slice(network);
    }
    source
}
