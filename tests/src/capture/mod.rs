//! Captures: what was really on an interface, as parsed packets, with a pcap kept when the test fails.
//!
//! A capture sees incoming frames before the TC programs of the interface and outgoing frames after them: on
//! an enforced host it shows the wire, never what the local stack saw.

mod packet;
mod pcap;
mod socket;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

pub use packet::{Direction, EXID, Flags, IDENTITY_KIND, Packet, Segment, TcpOption, tcp_sum};
pub(crate) use socket::OFFLOADS;
pub use socket::{Frame, PacketSocket, Patience};

use crate::host::Host;
use crate::need;

/// The most bytes of frames that one capture keeps; later frames are counted as lost.
const MAX_BYTES: usize = 64 << 20;
/// How long the socket waits for a frame before it counts as idle.
const TICK: Duration = Duration::from_millis(10);
/// After so long without a pause of a whole [`TICK`], a moment with nothing to read counts as one: a wire on which
/// somebody speaks all the time never rests, and what was sent before that moment has been read all the same.
const RESTLESS: Duration = Duration::from_millis(200);

/// A running capture of one interface. Dropped by a panicking test, it leaves a pcap in the artifacts folder.
#[derive(Debug)]
pub struct Capture {
    label: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Rises each time the socket had nothing more to give.
    idle: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    frames: Vec<Frame>,
    bytes: usize,
    lost: u64,
}

impl Capture {
    /// Starts to capture whole frames of an interface of a host; every frame from now on is seen.
    pub fn start(host: &Host, interface: &str) -> Result<Self> {
        Self::start_cut(host, interface, usize::from(u16::MAX))
    }

    /// The same, keeping at most `snap` bytes of each frame: for bulk.
    pub fn start_cut(host: &Host, interface: &str, snap: usize) -> Result<Self> {
        let socket = host
            .run(|| PacketSocket::open(interface, TICK))
            .with_context(|| format!("cannot capture on {interface} of host {}", host.label()))?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || receive(&socket, &of_thread, snap));
        let label = format!("{}-{interface}", host.name());
        Ok(Self { label, shared, thread: Some(thread) })
    }

    /// All packets so far, after everything that was sent before this call has been read.
    pub fn packets(&self) -> Result<Vec<Packet>> {
        self.with_frames(|frames| frames.iter().filter_map(Packet::parse).collect())
    }

    /// The TCP segments among [`Capture::packets`].
    pub fn segments(&self) -> Result<Vec<Segment>> {
        Ok(self.packets()?.into_iter().filter_map(|packet| packet.tcp).collect())
    }

    /// The raw frames so far.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        self.with_frames(<[Frame]>::to_vec)
    }

    /// Looks at the raw frames so far where they are.
    pub fn with_frames<T>(&self, look: impl FnOnce(&[Frame]) -> T) -> Result<T> {
        self.settle()?;
        let kept = self.shared.kept();
        kept.check(&self.label)?;
        Ok(look(&kept.frames))
    }

    /// Fails when anything but address resolution was sent to `peer`: no TCP, no UDP, no ICMP error.
    pub fn assert_silent_towards(&self, peer: IpAddr) -> Result<()> {
        let packets = self.packets()?;
        let said: Vec<&Packet> = packets
            .iter()
            .filter(|p| p.direction == Direction::Out && p.destination == peer)
            .filter(|p| !p.is_neighbour_discovery())
            .collect();
        ensure!(said.is_empty(), "{} told {peer}: {said:#?}", self.label);
        Ok(())
    }

    /// Waits until a segment satisfies `wanted`, and returns the first one.
    pub fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&Segment) -> bool,
    ) -> Result<Segment> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(found) = self.segments()?.into_iter().find(&wanted) {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "{}: no {what} within {timeout:?}", self.label);
        }
    }

    fn settle(&self) -> Result<()> {
        let before = self.shared.idle.load(Ordering::Acquire);
        let deadline = Instant::now() + Duration::from_secs(30);
        // Twice: the first rise may belong to a wait that began before the last frame was sent.
        while self.shared.idle.load(Ordering::Acquire) < before + 2 {
            ensure!(Instant::now() < deadline, "capture {} never comes to rest", self.label);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn keep_pcap(&self) -> Result<()> {
        let file = need::artifacts_dir()?.join(format!("{}.pcap", self.label));
        pcap::write(&file, &self.shared.kept().frames)?;
        eprintln!("capture of the failed test: {}", file.display());
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the thread of capture {} panicked", self.label);
        }
        if std::thread::panicking()
            && let Err(error) = self.keep_pcap()
        {
            eprintln!("capture {} could not be kept: {error:#}", self.label);
        }
    }
}

impl Shared {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn check(&self, label: &str) -> Result<()> {
        ensure!(
            self.lost == 0,
            "capture {label} lost {} frames: what it shows proves nothing; capture less or cut frames",
            self.lost
        );
        Ok(())
    }

    fn push(&mut self, frame: Frame) {
        if self.bytes + frame.bytes.len() > MAX_BYTES {
            self.lost += 1;
            return;
        }
        self.bytes += frame.bytes.len();
        self.frames.push(frame);
    }
}

fn receive(socket: &PacketSocket, shared: &Shared, snap: usize) {
    let mut buffer = vec![0; snap];
    let mut rested = Instant::now();
    while !shared.stop.load(Ordering::Acquire) {
        let patience = if rested.elapsed() < RESTLESS { Patience::Tick } else { Patience::None };
        match socket.receive(&mut buffer, patience) {
            Ok(Some(frame)) => shared.kept().push(frame),
            Ok(None) => {
                shared.kept().lost += socket.lost();
                shared.idle.fetch_add(1, Ordering::AcqRel);
                rested = Instant::now();
            }
            // The interface went down with its namespace.
            Err(_) => std::thread::sleep(TICK),
        }
    }
}
