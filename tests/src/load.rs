//! Connection-rate load: connect, one byte each way, close, from several client threads, with latencies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::tcp::{Outcome, PATIENCE, dial_here};

/// Latencies kept per client thread; later ones are counted but not kept.
const MAX_LATENCIES: usize = 1_000_000;

/// When a load ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After this many connections of all clients together.
    Connections(u64),
    /// After this time.
    Elapsed(Duration),
}

/// How the client ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// FIN; leaves a TIME_WAIT.
    InOrder,
    /// RST, by SO_LINGER of zero.
    Abort,
}

/// A load to generate.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Where a [`crate::tcp::Service::OneByte`] listens.
    pub to: SocketAddr,
    /// Client threads.
    pub clients: usize,
    /// When to stop.
    pub until: Until,
    /// How each connection ends.
    pub close: Close,
    /// The longest wait for one connect, and for the answer.
    pub timeout: Duration,
    /// How long each client rests behind an exchange.
    pub rest: Duration,
}

impl Load {
    /// One client that makes this many connections and closes them in order.
    #[must_use]
    pub fn connections(to: SocketAddr, count: u64) -> Self {
        Self {
            to,
            clients: 1,
            until: Until::Connections(count),
            close: Close::InOrder,
            timeout: PATIENCE,
            rest: Duration::ZERO,
        }
    }

    /// The same load with a moment's rest behind each exchange: it goes on all the time, and leaves processors for what
    /// happens meanwhile.
    #[must_use]
    pub fn resting(self) -> Self {
        Self { rest: Duration::from_millis(1), ..self }
    }

    /// The same load with this much patience.
    #[must_use]
    pub fn patient(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The same load with this many client threads.
    #[must_use]
    pub fn clients(self, clients: usize) -> Self {
        Self { clients, ..self }
    }

    /// The same load for this long.
    #[must_use]
    pub fn lasting(self, time: Duration) -> Self {
        Self { until: Until::Elapsed(time), ..self }
    }

    /// Runs it on a host and waits for its end.
    pub fn run(self, host: &Host) -> Result<Report> {
        Running::start(self, host)?.finish()
    }

    /// Starts it and returns at once.
    pub fn start(self, host: &Host) -> Result<Running> {
        Running::start(self, host)
    }
}

/// What a load did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Exchanges that were completed.
    pub completed: u64,
    /// Connects and exchanges that failed.
    pub failed: u64,
    /// The first failure, in words.
    pub first_failure: Option<String>,
    /// From the common start until the last client ended.
    pub elapsed: Duration,
    /// Connect latencies, ascending; at most 1,000,000 a client.
    pub latencies: Vec<Duration>,
}

impl Report {
    /// Completed exchanges a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub fn rate(&self) -> f64 {
        self.completed as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The connect latency below which this many of a thousand lie: 500 is the median, 990 the p99. None when
    /// no connection was made.
    #[must_use]
    pub fn latency_permille(&self, permille: usize) -> Option<Duration> {
        let last = self.latencies.len().checked_sub(1)?;
        self.latencies.get(last * permille.min(1000) / 1000).copied()
    }

    fn add(&mut self, other: Self) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.latencies.extend(other.latencies);
    }
}

/// A load in progress.
#[derive(Debug)]
pub struct Running {
    started: Instant,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<Report>>>,
}

#[derive(Debug)]
struct Shared {
    load: Load,
    stop: AtomicBool,
    begun: AtomicU64,
    completed: AtomicU64,
    start: Barrier,
}

impl Running {
    fn start(load: Load, host: &Host) -> Result<Self> {
        ensure!(load.clients > 0, "a load needs at least one client");
        let shared = Arc::new(Shared {
            load,
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            start: Barrier::new(load.clients + 1),
        });
        let clients = (0..load.clients)
            .map(|_| {
                let shared = Arc::clone(&shared);
                host.spawn(move || Ok(client(&shared)))
            })
            .collect();
        shared.start.wait();
        Ok(Self { started: Instant::now(), shared, clients })
    }

    /// Exchanges completed so far.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.shared.completed.load(Ordering::Acquire)
    }

    /// Waits until this many exchanges have been completed.
    pub fn wait_completed(&self, count: u64, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while self.completed() < count {
            ensure!(
                Instant::now() < deadline,
                "the load completed {} of {count} exchanges within {timeout:?}",
                self.completed()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Tells the clients to stop after their current exchange and waits for them.
    pub fn stop(self) -> Result<Report> {
        self.shared.stop.store(true, Ordering::Release);
        self.finish()
    }

    /// Waits for the clients to end by themselves.
    pub fn finish(self) -> Result<Report> {
        let mut report = Report::default();
        for client in self.clients {
            let part = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            report.add(part);
        }
        report.elapsed = self.started.elapsed();
        report.latencies.sort_unstable();
        Ok(report)
    }
}

impl Shared {
    fn may_begin(&self, since: Instant) -> bool {
        let stopped = self.stop.load(Ordering::Acquire);
        !stopped
            && match self.load.until {
                Until::Connections(count) => self.begun.fetch_add(1, Ordering::AcqRel) < count,
                Until::Elapsed(time) => since.elapsed() < time,
            }
    }
}

fn client(shared: &Shared) -> Report {
    let mut report = Report::default();
    shared.start.wait();
    let since = Instant::now();
    while shared.may_begin(since) {
        match exchange(&shared.load) {
            Ok(latency) => {
                report.completed += 1;
                shared.completed.fetch_add(1, Ordering::AcqRel);
                if report.latencies.len() < MAX_LATENCIES {
                    report.latencies.push(latency);
                }
            }
            Err(error) => {
                report.failed += 1;
                report.first_failure.get_or_insert_with(|| format!("{error:#}"));
            }
        }
        if !shared.load.rest.is_zero() {
            std::thread::sleep(shared.load.rest);
        }
    }
    report
}

fn exchange(load: &Load) -> Result<Duration> {
    let dialled = dial_here(load.to, load.timeout)?;
    let latency = dialled.latency;
    let mut stream = match dialled.outcome {
        Outcome::Connected(stream) => stream,
        other => anyhow::bail!("connect to {}: {other:?} after {latency:?}", load.to),
    };
    stream.set_read_timeout(Some(load.timeout))?;
    let local = stream.local_addr()?;
    let mut byte = [b'x'];
    stream.write_all(&byte).context("writing one byte")?;
    stream.read_exact(&mut byte).with_context(|| format!("reading one byte, from {local}"))?;
    if load.close == Close::Abort {
        abort(&stream)?;
    }
    Ok(latency)
}

fn abort(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger)
        .context("cannot set SO_LINGER")
}

/// Gives a client host the whole port range and lets it reuse ports in TIME_WAIT, as a load of more than some
/// ten thousand connections to one server port needs.
pub fn prepare_client(host: &Host) -> Result<()> {
    host.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    host.sysctl("ipv4/tcp_tw_reuse", "1")
}
