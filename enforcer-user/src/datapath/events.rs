//! The event rings: each is read as it fills, and what it holds goes into a bounded queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, MapError, RingBuf};
use aya_log::EbpfLogger;
use enforcer_common::abi::ReportedSegment;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing_log::log;

use super::error::DatapathError;
use super::folder::PinFolder;
use super::load::Loaded;
use super::maps::map_error;
use super::record::{parse_held, parse_names, parse_reported};
use crate::engine::HeldFrame;

/// Rings of held segments; a segment's ring is chosen by its source.
const HELD_RINGS: [&str; 4] = ["HELD_0", "HELD_1", "HELD_2", "HELD_3"];

/// Held segments that wait for the engine.
const HELD_QUEUE: usize = 4096;

/// Datagrams to and from name servers that wait for the engine.
const NAMES_QUEUE: usize = 1024;

/// Sampled drops that wait for the log.
const REJECTED_QUEUE: usize = 1024;

/// Records read before other tasks get their turn.
const BURST: usize = 64;

/// What the readers lost.
#[derive(Debug, Default)]
pub struct EventCounters {
    /// Records that found their queue full.
    pub overflowed: AtomicU64,
    /// Records that are not whole.
    pub malformed: AtomicU64,
}

/// The queues that the readers fill. Dropping it ends the readers.
#[derive(Debug)]
pub struct Events {
    /// Segments that the kernel asks about.
    pub held: mpsc::Receiver<HeldFrame>,
    /// Datagrams to and from name servers.
    pub names: mpsc::Receiver<HeldFrame>,
    /// Sampled drops.
    pub rejected: mpsc::Receiver<ReportedSegment>,
    /// What was lost.
    pub counters: Arc<EventCounters>,
    /// The tasks that fill the queues.
    pub readers: Readers,
}

/// One task for each ring; dropping it ends them.
#[derive(Debug)]
pub struct Readers(JoinSet<&'static str>);

impl Readers {
    /// Waits until a reader ends, which none does before the queues are dropped unless its ring cannot
    /// be read any more or it panicked. Says which.
    pub async fn ended(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(ring)) => format!("event ring {ring} cannot be read any more"),
            Some(Err(error)) => format!("the reader of an event ring failed: {error}"),
            None => std::future::pending().await,
        }
    }
}

impl Events {
    /// Starts a reader for each ring. Must be called within a tokio runtime.
    pub(super) fn start(folder: &PinFolder, loaded: &mut Loaded) -> Result<Self, DatapathError> {
        let counters = Arc::new(EventCounters::default());
        let (held_sender, held) = mpsc::channel(HELD_QUEUE);
        let (rejected_sender, rejected) = mpsc::channel(REJECTED_QUEUE);
        let mut readers = JoinSet::new();
        for name in HELD_RINGS {
            let ring = open(folder, name)?;
            let (sender, counters) = (held_sender.clone(), Arc::clone(&counters));
            readers.spawn(read(name, ring, parse_held, sender, counters));
        }
        let (sender, names) = mpsc::channel(NAMES_QUEUE);
        let ring = open(folder, "NAMES")?;
        readers.spawn(read("NAMES", ring, parse_names, sender, Arc::clone(&counters)));
        let ring = open(folder, "REJECTED")?;
        let sender = rejected_sender;
        readers.spawn(read("REJECTED", ring, parse_reported, sender, Arc::clone(&counters)));
        if let Some(logger) = open_log(loaded)? {
            readers.spawn(read_log(logger));
        }
        Ok(Self { held, names, rejected, counters, readers: Readers(readers) })
    }
}

type Ring = AsyncFd<RingBuf<MapData>>;

fn open(folder: &PinFolder, name: &'static str) -> Result<Ring, DatapathError> {
    let ring = MapData::from_pin(folder.pin(name))
        .and_then(Map::from_map_data)
        .and_then(RingBuf::try_from)
        .map_err(map_error(name, "open", "its pin"))?;
    // SAFETY: the ring owns its descriptor, which stays open and the same until the ring is dropped.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .map_err(|e| map_error(name, "watch", "its descriptor")(MapError::IoError(e.into())))
}

/// Reads a ring until the queue's receiver is gone. A full queue loses the record, never the
/// ring's order: the segment's sender retransmits.
async fn read<T>(
    name: &'static str,
    mut ring: Ring,
    parse: fn(&[u8]) -> Option<T>,
    sender: mpsc::Sender<T>,
    counters: Arc<EventCounters>,
) -> &'static str {
    while !sender.is_closed() {
        let mut guard = match ring.readable_mut().await {
            Ok(guard) => guard,
            Err(error) => {
                tracing::error!(ring = name, %error, "event ring cannot be read any more");
                return name;
            }
        };
        if drain(guard.get_inner_mut(), parse, &sender, &counters) < BURST {
            guard.clear_ready();
        }
        tokio::task::yield_now().await;
    }
    name
}

fn drain<T>(
    ring: &mut RingBuf<MapData>,
    parse: fn(&[u8]) -> Option<T>,
    sender: &mpsc::Sender<T>,
    counters: &EventCounters,
) -> usize {
    for read in 0..BURST {
        let Some(record) = ring.next() else { return read };
        let lost = match parse(&record).map(|event| sender.try_send(event)) {
            Some(Ok(())) => continue,
            Some(Err(_)) => &counters.overflowed,
            None => &counters.malformed,
        };
        lost.fetch_add(1, Ordering::Relaxed);
    }
    BURST
}

type Logger = AsyncFd<EbpfLogger<ToTracing>>;

/// The programs' own log; none if no program logs.
fn open_log(loaded: &mut Loaded) -> Result<Option<Logger>, DatapathError> {
    let failed = |e: std::io::Error| map_error("AYA_LOGS", "open", "all")(MapError::IoError(e));
    let logger = match EbpfLogger::init_with_logger(&mut loaded.ebpf, ToTracing) {
        Ok(logger) => logger,
        Err(aya_log::Error::MapNotFound) => return Ok(None),
        Err(error) => return Err(failed(std::io::Error::other(error))),
    };
    // SAFETY: the logger owns its ring, whose descriptor stays open and the same until it is dropped.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    logger.map(Some).map_err(|e| failed(e.into()))
}

async fn read_log(mut logger: Logger) -> &'static str {
    while let Ok(mut guard) = logger.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
        tokio::task::yield_now().await;
    }
    "AYA_LOGS"
}

/// Hands records of the `log` crate, which `aya-log` makes, to `tracing`.
#[derive(Debug)]
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        use tracing_log::AsTrace as _;
        metadata.level().as_trace() <= tracing::level_filters::LevelFilter::current()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // It fails only where a field cannot be formatted; a lost log line changes nothing.
            let _ = tracing_log::format_trace(record);
        }
    }

    fn flush(&self) {}
}
