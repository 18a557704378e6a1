//! The load: short calls, long streams whose every byte comes back, datagrams, and those who must hear nothing.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::scene::{CALLS, DATAGRAMS, FORBIDDEN, STREAMS, Scene};
use super::weather::Weather;
use crate::bulk::pattern;
use crate::host::{Family, Host};
use crate::tcp::{Got, PATIENCE, dial_here};
use crate::udp;

/// Between two looks of a worker that waits.
const TICK: Duration = Duration::from_millis(10);
/// Between two calls, chunks or questions of a worker.
const PAUSE: Duration = Duration::from_millis(10);
/// Of a stream, in one go.
const CHUNK: usize = 32 * 1024;
/// Chunks of a stream before it ends and the next begins.
const CHUNKS: u64 = 1000;
/// Streams beside each other, of each family.
const STREAMS_EACH: usize = 2;
/// How long a stream may stand still: outages and what a stack makes of them.
const STALL: Duration = Duration::from_mins(1);
/// How long somebody who must hear nothing listens.
const LISTEN: Duration = Duration::from_millis(150);
/// Complaints that are kept between two readings.
const MAX_COMPLAINTS: usize = 50;

/// Lets workers go on, or holds them between two steps.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    ended: AtomicBool,
    inside: AtomicUsize,
}

impl Gate {
    /// Lets all go on.
    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Waits until all stand before their next step.
    pub fn close(&self) -> Result<()> {
        self.open.store(false, Ordering::SeqCst);
        let deadline = Instant::now() + 2 * STALL;
        while self.inside.load(Ordering::SeqCst) > 0 {
            ensure!(Instant::now() < deadline, "a worker's step does not end");
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Takes a step as soon as that is allowed; none when all is over.
    fn step<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        loop {
            if self.ended.load(Ordering::SeqCst) {
                return None;
            }
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) {
                let made = work();
                self.inside.fetch_sub(1, Ordering::SeqCst);
                return Some(made);
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
            std::thread::sleep(TICK);
        }
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Tally {
    calls: AtomicU64,
    calls_in_outages: AtomicU64,
    calls_unanswered: AtomicU64,
    streams: AtomicU64,
    stream_bytes: AtomicU64,
    datagrams: AtomicU64,
    datagrams_lost: AtomicU64,
    refused: AtomicU64,
}

/// A reading of [`Tally`], or the difference of two.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Moved {
    /// Calls that were made and answered.
    pub calls: u64,
    /// Calls that failed while the caller's link was down, or right behind that.
    pub calls_in_outages: u64,
    /// Calls that failed otherwise: both daemons must be there for a first contact, and they come and go.
    pub calls_unanswered: u64,
    /// Streams that came to their end.
    pub streams: u64,
    /// Bytes that went to the server and came back as they were.
    pub stream_bytes: u64,
    /// Questions that were answered.
    pub datagrams: u64,
    /// Questions that were not, in rough weather.
    pub datagrams_lost: u64,
    /// Attempts of those who must hear nothing.
    pub refused: u64,
}

impl Tally {
    /// Reads all.
    pub fn read(&self) -> Moved {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Moved {
            calls: read(&self.calls),
            calls_in_outages: read(&self.calls_in_outages),
            calls_unanswered: read(&self.calls_unanswered),
            streams: read(&self.streams),
            stream_bytes: read(&self.stream_bytes),
            datagrams: read(&self.datagrams),
            datagrams_lost: read(&self.datagrams_lost),
            refused: read(&self.refused),
        }
    }
}

impl Moved {
    /// What came in between.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            calls: self.calls - earlier.calls,
            calls_in_outages: self.calls_in_outages - earlier.calls_in_outages,
            calls_unanswered: self.calls_unanswered - earlier.calls_unanswered,
            streams: self.streams - earlier.streams,
            stream_bytes: self.stream_bytes - earlier.stream_bytes,
            datagrams: self.datagrams - earlier.datagrams,
            datagrams_lost: self.datagrams_lost - earlier.datagrams_lost,
            refused: self.refused - earlier.refused,
        }
    }
}

/// All workers.
#[derive(Debug)]
pub struct Traffic {
    /// Holds them.
    pub gate: Arc<Gate>,
    /// What they did.
    pub tally: Arc<Tally>,
    complaints: Arc<Mutex<Vec<String>>>,
    workers: Vec<JoinHandle<Result<()>>>,
}

/// What every worker has.
#[derive(Clone)]
struct Worker {
    gate: Arc<Gate>,
    tally: Arc<Tally>,
    complaints: Arc<Mutex<Vec<String>>>,
    weather: Arc<Weather>,
}

impl Traffic {
    /// Starts the workers before a gate that is closed.
    pub fn start(scene: &Scene) -> Self {
        let worker = Worker {
            gate: Arc::default(),
            tally: Arc::default(),
            complaints: Arc::default(),
            weather: Arc::clone(&scene.weather),
        };
        let mut workers = Vec::new();
        for family in Family::BOTH {
            let (calls, streams) = (scene.server(family, CALLS), scene.server(family, STREAMS));
            workers.push(worker.spawn(&scene.caller, move |worker| worker.call(calls)));
            for _ in 0..STREAMS_EACH {
                workers.push(worker.spawn(&scene.caller, move |worker| worker.stream(streams)));
            }
            let forbidden = scene.server(family, FORBIDDEN);
            for host in [&scene.net.client, &scene.net.other] {
                workers.push(worker.spawn(host, move |worker| worker.intrude(forbidden)));
            }
        }
        let (host, to) = (scene.caller.clone(), scene.server(Family::V4, DATAGRAMS));
        workers.push(worker.spawn(&scene.caller, move |worker| worker.ask(&host, to)));
        let Worker { gate, tally, complaints, .. } = worker;
        Self { gate, tally, complaints, workers }
    }

    /// What went wrong since this was last asked.
    pub fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.complaints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends all workers, with what went wrong then. Streams are cut short where they are.
    pub fn end(mut self) -> Vec<String> {
        self.gate.ended.store(true, Ordering::SeqCst);
        let mut complaints = Vec::new();
        for worker in self.workers.drain(..) {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => complaints.push(format!("{error:#}")),
                Err(_) => complaints.push("a worker panicked".to_owned()),
            }
        }
        complaints.extend(self.complaints());
        complaints
    }
}

impl Worker {
    fn spawn(
        &self,
        host: &Host,
        work: impl FnOnce(&Self) + Send + 'static,
    ) -> JoinHandle<Result<()>> {
        let worker = self.clone();
        host.spawn(move || {
            work(&worker);
            Ok(())
        })
    }

    fn complain(&self, text: String) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < MAX_COMPLAINTS {
            complaints.push(text);
        }
    }

    fn unanswered(&self, begun: u64, error: &anyhow::Error) {
        if self.weather.excuses(begun) {
            add(&self.tally.calls_in_outages, 1);
        } else {
            println!("soak: a call failed: {error:#}");
            add(&self.tally.calls_unanswered, 1);
        }
    }

    fn call(&self, to: SocketAddr) {
        while let Some((begun, outcome)) = self.gate.step(|| (self.weather.now(), call(to))) {
            match outcome {
                Ok(()) => add(&self.tally.calls, 1),
                Err(error) => self.unanswered(begun, &error),
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn stream(&self, to: SocketAddr) {
        loop {
            let Some((begun, opened)) = self.gate.step(|| (self.weather.now(), Stream::open(to)))
            else {
                return;
            };
            match opened {
                Ok(stream) => {
                    if !self.carry(stream) {
                        return;
                    }
                }
                Err(error) => self.unanswered(begun, &error),
            }
        }
    }

    /// Moves chunks until the stream's end or trouble; whether there is to be another.
    fn carry(&self, mut stream: Stream) -> bool {
        for _ in 0..CHUNKS {
            let Some(moved) = self.gate.step(|| stream.exchange()) else { return false };
            match moved {
                Ok(bytes) => add(&self.tally.stream_bytes, bytes),
                Err(error) => {
                    self.complain(format!("a stream broke at byte {}: {error:#}", stream.offset));
                    return true;
                }
            }
            std::thread::sleep(PAUSE);
        }
        add(&self.tally.streams, 1);
        true
    }

    /// Questions may be lost in an outage and on a wire that loses; calm minutes show by their books that none is.
    fn ask(&self, host: &Host, to: SocketAddr) {
        while let Some(answer) = self.gate.step(|| udp::ask(host, to, Duration::from_secs(1))) {
            match answer {
                Ok(Some(_)) => add(&self.tally.datagrams, 1),
                // There is no way while the link is down.
                Ok(None) | Err(_) => add(&self.tally.datagrams_lost, 1),
            }
            std::thread::sleep(10 * PAUSE);
        }
    }

    fn intrude(&self, to: SocketAddr) {
        while let Some(dialled) = self.gate.step(|| dial_here(to, LISTEN)) {
            match dialled.map(|dialled| dialled.got()) {
                Ok(Got::Silence) => add(&self.tally.refused, 1),
                other => self.complain(format!("an unauthorised caller of {to} got {other:?}")),
            }
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn call(to: SocketAddr) -> Result<()> {
    let mut stream = dial_here(to, PATIENCE)?.stream()?;
    let mut byte = [b'x'];
    stream.write_all(&byte).context("writing one byte")?;
    stream.read_exact(&mut byte).context("reading one byte")
}

/// A connection to an echo, and how far it is in the pattern of bulk streams.
struct Stream {
    connection: std::net::TcpStream,
    offset: u64,
    /// Of what was sent, and of what came back.
    hashes: [blake3::Hasher; 2],
}

impl Stream {
    fn open(to: SocketAddr) -> Result<Self> {
        let connection = dial_here(to, PATIENCE)?.stream()?;
        connection.set_read_timeout(Some(STALL))?;
        connection.set_write_timeout(Some(STALL))?;
        Ok(Self { connection, offset: 0, hashes: [blake3::Hasher::new(), blake3::Hasher::new()] })
    }

    /// Sends the next chunk and waits for it; its length, both ways together.
    fn exchange(&mut self) -> Result<u64> {
        let until = self.offset + CHUNK as u64;
        let sent: Vec<u8> = (self.offset..until).map(pattern).collect();
        self.connection.write_all(&sent).context("writing")?;
        let mut came = vec![0; CHUNK];
        self.connection.read_exact(&mut came).context("waiting for the echo")?;
        for (hash, bytes) in self.hashes.iter_mut().zip([&sent, &came]) {
            hash.update(bytes);
        }
        let [sent, came] = &self.hashes;
        ensure!(sent.finalize() == came.finalize(), "what came back is not what was sent");
        self.offset = until;
        Ok(2 * CHUNK as u64)
    }
}
