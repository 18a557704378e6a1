//! Runs the engine's jobs off the thread that moves packets, on all processors but one.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::{Semaphore, mpsc};

use crate::engine::{Job, JobResult};

/// Jobs that wait for a thread: more than the engine ever has under way.
const QUEUE: usize = 8192;
/// Results that wait for the event loop; more hold the threads back.
const RESULTS: usize = 512;

/// The way to the threads and back.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: mpsc::Sender<Job>,
    /// What the jobs found.
    pub(super) results: mpsc::Receiver<JobResult>,
}

impl Pool {
    /// Starts handing out jobs. Must be called within a tokio runtime.
    pub(super) fn start() -> Self {
        let threads = available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (sender, results) = mpsc::channel(RESULTS);
        tokio::spawn(hand_out(queue, sender, Arc::new(Semaphore::new(threads))));
        Self { jobs, results }
    }

    /// Queues a job; `false` if there is no room.
    pub(super) fn run(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }
}

async fn hand_out(
    mut queue: mpsc::Receiver<Job>,
    results: mpsc::Sender<JobResult>,
    threads: Arc<Semaphore>,
) {
    while let Some(job) = queue.recv().await {
        let Ok(permit) = Arc::clone(&threads).acquire_owned().await else { return };
        let results = results.clone();
        tokio::task::spawn_blocking(move || {
            // The event loop is gone when nobody receives: then the result has no use.
            let _ = results.blocking_send(job.run());
            drop(permit);
        });
    }
}
