//! Runs the engine's jobs off the thread that moves packets, on all processors but one.

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use tokio::sync::mpsc;

use crate::engine::{Job, JobResult};

/// Jobs that wait for a thread: more than the engine ever has under way.
const QUEUE: usize = 8192;
/// Results that wait for the event loop; more hold the threads back.
const RESULTS: usize = 512;

/// The way to the threads and back.
#[derive(Debug)]
pub(super) struct Pool {
    state: Arc<Mutex<State>>,
    threads: usize,
    sender: mpsc::Sender<JobResult>,
    /// What the jobs found.
    pub(super) results: mpsc::Receiver<JobResult>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    running: usize,
}

impl Pool {
    pub(super) fn new() -> Self {
        let threads = available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1);
        let (sender, results) = mpsc::channel(RESULTS);
        Self { state: Arc::default(), threads, sender, results }
    }

    /// Begins a job or queues it; `false` if there is no room. Must be called within a tokio
    /// runtime.
    pub(super) fn run(&self, job: Job) -> bool {
        let mut state = lock(&self.state);
        if state.running < self.threads {
            state.running += 1;
            let (state, sender) = (Arc::clone(&self.state), self.sender.clone());
            tokio::task::spawn_blocking(move || work(job, &state, &sender));
            return true;
        }
        let room = state.waiting.len() < QUEUE;
        if room {
            state.waiting.push_back(job);
        }
        room
    }
}

/// Does a job, and then those that wait.
fn work(first: Job, state: &Mutex<State>, results: &mpsc::Sender<JobResult>) {
    let mut next = Some(first);
    while let Some(job) = next {
        // The event loop is gone when nobody receives: then the result has no use.
        let _ = results.blocking_send(job.run());
        let mut state = lock(state);
        next = state.waiting.pop_front();
        if next.is_none() {
            state.running -= 1;
        }
    }
}

/// A job that panicked leaves the state as it should be: nothing is changed while jobs run.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
