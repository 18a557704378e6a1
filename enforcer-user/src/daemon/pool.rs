//! Runs the engine's jobs: a lone one at once, all others off the thread that moves packets, on all
//! processors but one.
//!
//! A first contact after a quiet hour pays for every thread that must wake for it: on another
//! processor, which may have gone to sleep, that takes longer than the verification itself. So a brief
//! job that nothing waits behind runs where it arose, as long as the [`Allowance`] of that lasts. Under
//! load everything goes to the threads, which live as long as the daemon.

use std::collections::VecDeque;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, available_parallelism};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::allowance::Allowance;
use crate::engine::{Job, JobResult};

/// Jobs that wait for a thread: more than the engine ever has under way.
const QUEUE: usize = 8192;
/// Results that wait for the event loop; more hold the threads back.
const RESULTS: usize = 512;

/// The way to the threads and back. Dropping it ends them, each after the job it is at.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    allowance: Allowance,
    /// What the jobs found.
    pub(super) results: mpsc::Receiver<JobResult>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told of each job, and of the end.
    changed: Condvar,
    /// Jobs that panicked.
    panics: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Jobs that a thread is at.
    running: usize,
    ended: bool,
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum Begun {
    /// It ran; none if it panicked.
    Ran(Option<JobResult>),
    /// Its result will be among the pool's.
    Queued,
    /// There is no room; it is lost.
    Full,
}

impl Pool {
    /// Starts the threads. An error: the system grants none.
    pub(super) fn start() -> anyhow::Result<Self> {
        let threads = available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1);
        let (sender, results) = mpsc::channel(RESULTS);
        let pool = Self { shared: Arc::default(), allowance: Allowance::default(), results };
        for number in 0..threads {
            let (shared, sender) = (Arc::clone(&pool.shared), sender.clone());
            thread::Builder::new()
                .name(format!("verify-{number}"))
                .spawn(move || work(&shared, &sender))
                .context("cannot start a thread for verifications")?;
        }
        Ok(pool)
    }

    /// Jobs that panicked.
    pub(super) fn panics(&self) -> u64 {
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// Runs a job on this thread if it is brief, none is before it and the allowance lasts; queues it
    /// otherwise. `quiet`: nothing else waits for this thread.
    pub(super) fn begin(&mut self, job: Job, quiet: bool, boot_ns: u64) -> Begun {
        let alone = quiet && job.is_brief() && self.shared.lock().is_idle();
        if alone && self.allowance.take(boot_ns) {
            return Begun::Ran(caught(&self.shared.panics, || job.run()));
        }
        self.queue(job)
    }

    /// Queues a job.
    pub(super) fn queue(&self, job: Job) -> Begun {
        let mut state = self.shared.lock();
        if state.waiting.len() >= QUEUE {
            return Begun::Full;
        }
        state.waiting.push_back(job);
        drop(state);
        self.shared.changed.notify_one();
        Begun::Queued
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.waiting.clear();
        self.shared.changed.notify_all();
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }
}

impl Shared {
    /// A job runs outside of the lock, so a panic cannot leave the state half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; none when the pool is gone.
    fn next(&self) -> Option<Job> {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.ended;
        let waited = self.changed.wait_while(self.lock(), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let job = state.waiting.pop_front()?;
        state.running += 1;
        Some(job)
    }

    /// A job that was taken is over.
    fn done(&self) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
    }
}

fn work(shared: &Shared, results: &mpsc::Sender<JobResult>) {
    while let Some(job) = shared.next() {
        // The thread outlives a panic; the engine gives the job up by its age.
        let result = caught(&shared.panics, || job.run());
        shared.done();
        let Some(result) = result else { continue };
        if results.blocking_send(result).is_err() {
            return;
        }
    }
}

/// Contains a panic. Jobs are pure: they leave nothing half-changed behind.
fn caught<T>(panics: &AtomicU64, work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    if done.is_none() {
        panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a verification panicked, a defect; its segments are not let in");
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_and_costs_no_more_than_its_own_result() {
        let panics = AtomicU64::new(0);
        assert_eq!(caught(&panics, || -> u8 { panic!("as if a parser had a defect") }), None);
        assert_eq!(caught(&panics, || 7), Some(7));
        assert_eq!(panics.load(Ordering::Relaxed), 1);
    }
}
