//! Somebody without an identity who never stops trying.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::host::Host;
use crate::tcp::{Got, PATIENCE, dial_here};

/// How long one attempt waits for an answer.
const ATTEMPT: Duration = Duration::from_millis(150);

/// Connects again and again, from a host without an enforcer.
#[derive(Debug)]
pub struct Intruder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    attempts: AtomicU64,
    answers: AtomicU64,
}

impl Intruder {
    /// Begins.
    #[must_use]
    pub fn start(host: &Host, to: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = host.spawn({
            let shared = Arc::clone(&shared);
            move || shared.work(to)
        });
        Self { shared, thread: Some(thread) }
    }

    /// Waits for an attempt that begins and ends from now on; an error if any so far was answered.
    pub fn hears_nothing(&self) -> Result<()> {
        let wanted = self.shared.attempts.load(Ordering::Acquire) + 2;
        let deadline = Instant::now() + PATIENCE;
        while self.shared.attempts.load(Ordering::Acquire) < wanted {
            ensure!(Instant::now() < deadline, "the intruder stopped trying");
            std::thread::sleep(Duration::from_millis(5));
        }
        let answers = self.shared.answers.load(Ordering::Acquire);
        ensure!(answers == 0, "{answers} attempts of somebody without an identity were answered");
        Ok(())
    }
}

impl Shared {
    fn work(&self, to: SocketAddr) -> Result<()> {
        while !self.stop.load(Ordering::Acquire) {
            if dial_here(to, ATTEMPT)?.got() != Got::Silence {
                self.answers.fetch_add(1, Ordering::Release);
            }
            self.attempts.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let ended = self.thread.take().map(JoinHandle::join);
        if std::thread::panicking() {
            return;
        }
        if let Some(ended) = ended {
            ended.expect("the intruder's thread panicked").expect("the intruder could not try");
        }
        assert_eq!(
            self.shared.answers.load(Ordering::Acquire),
            0,
            "somebody without an identity was answered"
        );
    }
}
