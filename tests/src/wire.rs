//! A wire between two hosts that loses, repeats, delays, swaps or tags segments by rules of the test.
//!
//! It is a namespace with an interface towards each host and a thread for each direction that carries frames over
//! in userspace, together with what hardware would still do to them (checksum, segmentation), as a veth would.
//! Needs neither netem nor a bridge.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use crate::capture::{Frame, OFFLOADS, Packet, PacketSocket, Segment};
use crate::host::Host;
use crate::topology::{INTERFACE, TwoHosts, configure, link, near, reachable};

/// How long a direction waits for a frame before it looks at those it holds back.
const TICK: Duration = Duration::from_millis(2);
/// The longest frame: an aggregated one with its headers.
const LONGEST: usize = 70_000;
/// Frames that one direction holds back at most; further ones are lost.
const HELD: usize = 1024;
/// Where `csum_start` stands in a `virtio_net_hdr`, in the byte order of the machine.
const CHECKSUM_START: std::ops::Range<usize> = 6..8;

/// The end of a wire that a frame goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toward {
    /// The client's.
    Client,
    /// The server's.
    Server,
}

impl Toward {
    const BOTH: [Self; 2] = [Self::Client, Self::Server];

    /// The wire's interface there.
    const fn interface(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    const fn opposite(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What becomes of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It does not arrive.
    Lose,
    /// It arrives twice.
    Repeat,
    /// It arrives this much later.
    Late(Duration),
    /// It arrives right behind the next segment of its connection and direction.
    Behind,
    /// It arrives with these VLAN tags, outermost first, each TPID and TCI.
    Tag(Vec<[u8; 4]>),
}

/// Which segments meet a fate.
pub struct Rule {
    wanted: Box<dyn FnMut(&Segment) -> bool + Send>,
    fate: Fate,
    times: u32,
}

impl Rule {
    /// Every segment that `wanted` picks.
    pub fn every(fate: Fate, wanted: impl FnMut(&Segment) -> bool + Send + 'static) -> Self {
        Self { wanted: Box::new(wanted), fate, times: u32::MAX }
    }

    /// The first segment that `wanted` picks, and no other.
    pub fn first(fate: Fate, wanted: impl FnMut(&Segment) -> bool + Send + 'static) -> Self {
        Self::first_of(1, fate, wanted)
    }

    /// The first `times` segments that `wanted` picks.
    pub fn first_of(
        times: u32,
        fate: Fate,
        wanted: impl FnMut(&Segment) -> bool + Send + 'static,
    ) -> Self {
        Self { times, ..Self::every(fate, wanted) }
    }
}

/// A running wire; cut when dropped.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
    /// Keeps the namespace.
    middle: Host,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    rules: Mutex<Vec<Live>>,
}

struct Live {
    rule: Rule,
    applied: u32,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("applied", &self.applied()).finish_non_exhaustive()
    }
}

impl Wire {
    /// Makes two hosts with a wire between them, without rules, and waits until they reach each other.
    pub fn new() -> Result<(TwoHosts, Self)> {
        let [client, server, middle] =
            [Host::new("client")?, Host::new("server")?, Host::new("wire")?];
        for (host, toward, last) in [(&client, Toward::Client, 1), (&server, Toward::Server, 2)] {
            link(host, INTERFACE, &middle, toward.interface())?;
            configure(host, INTERFACE, near(last))?;
        }
        let wire = Self::between(middle)?;
        reachable(&client, &server)?;
        Ok((TwoHosts { client, server }, wire))
    }

    /// Joins the interfaces `client` and `server` of a namespace of its own, without rules.
    pub fn between(middle: Host) -> Result<Self> {
        for interface in Toward::BOTH.map(Toward::interface) {
            // The wire has no address, answers nothing and says nothing.
            middle.sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")?;
            middle.ip(&format!("link set {interface} up"))?;
        }
        let shared = Arc::new(Shared::default());
        let threads = Toward::BOTH
            .map(|toward| carry_towards(&middle, toward, &shared))
            .into_iter()
            .collect::<Result<_>>()?;
        Ok(Self { shared, threads, middle })
    }

    /// Adds a rule. Of several that pick a segment, the oldest that still counts decides.
    pub fn rule(&self, rule: Rule) {
        self.shared.rules().push(Live { rule, applied: 0 });
    }

    /// How often each rule was applied, in the order in which they were added.
    #[must_use]
    pub fn applied(&self) -> Vec<u32> {
        self.shared.applied()
    }

    /// Lets a host hear a frame that the other end never sent.
    pub fn inject(&self, toward: Toward, frame: &[u8]) -> Result<()> {
        let out = self.middle.run(|| PacketSocket::open_forwarding(toward.interface(), TICK))?;
        out.put(&[&[0; OFFLOADS], frame].concat()).context("cannot put a frame on the wire")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("the wire broke: {error:#}"),
                Err(_) => eprintln!("a thread of the wire panicked"),
            }
        }
    }
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Vec<Live>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applied(&self) -> Vec<u32> {
        self.rules().iter().map(|live| live.applied).collect()
    }

    fn fate(&self, segment: &Segment) -> Option<Fate> {
        let mut rules = self.rules();
        let live = rules.iter_mut().find_map(|live| {
            let picked = live.applied < live.rule.times && (live.rule.wanted)(segment);
            picked.then_some(live)
        })?;
        live.applied += 1;
        Some(live.rule.fate.clone())
    }
}

fn carry_towards(
    middle: &Host,
    toward: Toward,
    shared: &Arc<Shared>,
) -> Result<JoinHandle<Result<()>>> {
    let open = |toward: Toward| PacketSocket::open_forwarding(toward.interface(), TICK);
    let (from, to) = middle.run(|| Ok((open(toward.opposite())?, open(toward)?)))?;
    let mut direction = Carrier { shared: Arc::clone(shared), to, held: Vec::new() };
    Ok(std::thread::spawn(move || {
        let mut buffer = vec![0; LONGEST];
        while !direction.shared.stop.load(Ordering::Acquire) {
            match from.take(&mut buffer) {
                Ok(Some(length)) => direction.carry(buffer[..length].to_vec())?,
                Ok(None) => {}
                // A host is gone, and its interface with it.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => return Ok(()),
                Err(error) => return Err(error).context("the wire hears nothing"),
            }
            direction.release_late()?;
        }
        Ok(())
    }))
}

/// One direction. Frames stand behind their `virtio_net_hdr`.
struct Carrier {
    shared: Arc<Shared>,
    to: PacketSocket,
    held: Vec<Held>,
}

struct Held {
    frame: Vec<u8>,
    until: Until,
}

enum Until {
    Time(Instant),
    /// The next segment between these two.
    Next(SocketAddr, SocketAddr),
}

impl Carrier {
    fn carry(&mut self, frame: Vec<u8>) -> Result<()> {
        let Some(segment) = segment(&frame) else { return self.put(&frame) };
        match self.shared.fate(&segment) {
            None => self.put(&frame)?,
            Some(Fate::Lose) => return Ok(()),
            Some(Fate::Repeat) => {
                self.put(&frame)?;
                self.put(&frame)?;
            }
            Some(Fate::Late(by)) => {
                self.hold(frame, Until::Time(Instant::now() + by));
                return Ok(());
            }
            Some(Fate::Behind) => {
                self.hold(frame, Until::Next(segment.source, segment.destination));
                return Ok(());
            }
            Some(Fate::Tag(tags)) => self.put(&tagged(&frame, &tags))?,
        }
        self.release(|until| {
            matches!(until, Until::Next(source, destination)
                if (*source, *destination) == (segment.source, segment.destination))
        })
    }

    fn hold(&mut self, frame: Vec<u8>, until: Until) {
        if self.held.len() < HELD {
            self.held.push(Held { frame, until });
        }
    }

    fn release_late(&mut self) -> Result<()> {
        let now = Instant::now();
        self.release(|until| matches!(until, Until::Time(time) if *time <= now))
    }

    fn release(&mut self, due: impl Fn(&Until) -> bool) -> Result<()> {
        let (free, held) = std::mem::take(&mut self.held).into_iter().partition(|h| due(&h.until));
        self.held = held;
        let free: Vec<Held> = free;
        free.iter().try_for_each(|held| self.put(&held.frame))
    }

    fn put(&self, frame: &[u8]) -> Result<()> {
        match self.to.put(frame) {
            // A full queue loses frames, as queues do, and so does an interface whose host is gone.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOBUFS | libc::ENETDOWN | libc::ENXIO)
                ) =>
            {
                Ok(())
            }
            sent => sent.context("the wire cannot send"),
        }
    }
}

fn segment(frame: &[u8]) -> Option<Segment> {
    let bytes = frame.get(OFFLOADS..)?.to_vec();
    let frame = Frame {
        at: SystemTime::now(),
        outgoing: false,
        other_host: false,
        checksum_pending: true,
        length: bytes.len(),
        bytes,
    };
    Packet::parse(&frame)?.tcp
}

/// The frame with tags between its link addresses and its type; what counts from the frame's start moves along.
fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    const ADDRESSES: usize = 12;
    let (head, rest) = frame.split_at(OFFLOADS + ADDRESSES);
    let tags = tags.concat();
    let mut tagged = [head, &tags, rest].concat();
    let start =
        u16::from_ne_bytes([tagged[CHECKSUM_START.start], tagged[CHECKSUM_START.start + 1]]);
    let moved = start + u16::try_from(tags.len()).unwrap_or(0);
    tagged[CHECKSUM_START].copy_from_slice(&moved.to_ne_bytes());
    tagged
}
