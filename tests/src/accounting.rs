//! Nothing is dropped without a reason: what two hosts lost between wire and stack, against their drop counters.
//!
//! Each host's workload is the whole host, and one veth joins the two. A packet lost on the way in was captured
//! and not received by the stack; one lost on the way out was sent by the stack and not captured. What an
//! enforcer adds is captured or received too, and taken off again: a proof of its own, a re-injected segment
//! (captured a second time), and the reset that a refused segment is turned into. What a guard dropped in front of
//! every capture is counted by the driver. (Were a reset among that, it would be missed among those turned back.)

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::capture::{Capture, Flags, Frame, Packet};
use crate::enforcer::Counters;
use crate::host::Host;
use crate::stats::Stats;

/// How long the books may take to come to rest.
const REST: Duration = Duration::from_secs(20);
/// How long a capture may take to hand over what is on the wire: the stack has counted that already.
const LAG: Duration = Duration::from_millis(20);
/// As much of each frame as shows its TCP flags.
const SNAP: usize = 128;

/// Reads the counters of the first (0) or second (1) host.
pub type Reader<'a> = dyn Fn(usize) -> Result<Counters> + 'a;

/// Open books of two hosts.
#[derive(Debug)]
pub struct Books([Side; 2]);

#[derive(Debug)]
struct Side {
    host: Host,
    interface: String,
    guarded: i64,
    /// Of the interface between the hosts, and of `lo`.
    captures: [Capture; 2],
    stats: Stats,
    counters: Counters,
}

impl Books {
    /// Starts to count on an interface of both hosts.
    pub fn open(hosts: [&Host; 2], interface: &str, read: &Reader<'_>) -> Result<Self> {
        let [first, second] = hosts;
        Ok(Self([
            Side::open(first, interface, &|| read(0))?,
            Side::open(second, interface, &|| read(1))?,
        ]))
    }

    /// Stops to count, once no packet moves any more.
    pub fn close(&self, read: &Reader<'_>) -> Result<[Account; 2]> {
        let deadline = Instant::now() + REST;
        let [first, second] = &self.0;
        loop {
            let before = first.frame_count()? + second.frame_count()?;
            let mut accounts = [first.account(&read(0)?)?, second.account(&read(1)?)?];
            std::thread::sleep(LAG);
            if first.frame_count()? + second.frame_count()? == before {
                let sent = [accounts[0].resets_sent, accounts[1].resets_sent];
                accounts[0].resets_returned = accounts[0].resets_received - sent[1];
                accounts[1].resets_returned = accounts[1].resets_received - sent[0];
                return Ok(accounts);
            }
            ensure!(Instant::now() < deadline, "the hosts never come to rest");
        }
    }
}

impl Side {
    fn open(host: &Host, interface: &str, read: &dyn Fn() -> Result<Counters>) -> Result<Self> {
        let deadline = Instant::now() + REST;
        loop {
            let capture = |name| Capture::start_cut(host, name, SNAP);
            let captures = [capture(interface)?, capture("lo")?];
            let (stats, counters) = (Stats::read(host)?, read()?);
            let guarded = guarded(host, interface)?;
            let interface = interface.to_owned();
            let side = Self { host: host.clone(), interface, guarded, captures, stats, counters };
            if side.frame_count()? == 0 {
                return Ok(side);
            }
            ensure!(Instant::now() < deadline, "host {} never comes to rest", host.label());
        }
    }

    fn frame_count(&self) -> Result<usize> {
        let [first, second] = &self.captures;
        Ok(first.with_frames(<[Frame]>::len)? + second.with_frames(<[Frame]>::len)?)
    }

    fn account(&self, counters: &Counters) -> Result<Account> {
        let stats = Stats::read(&self.host)?;
        let moved = counters.since(&self.counters);
        let event = |name| i64::try_from(moved.event(name)).unwrap_or(i64::MAX);
        let mut account = Account {
            host: self.host.label().to_owned(),
            received_on_wire: self.guarded_since()?,
            received_by_stack: stats.ip_received()? - self.stats.ip_received()?,
            sent_by_stack: stats.ip_sent()? - self.stats.ip_sent()?,
            added: event("proof_cloned") + event("reset_remote"),
            resets_local: event("reset_local"),
            drops: moved.drops,
            ..Account::default()
        };
        for capture in &self.captures {
            capture.with_frames(|frames| {
                frames.iter().filter(|frame| is_ip(frame)).for_each(|frame| account.count(frame));
            })?;
        }
        Ok(account)
    }
}

/// What a host's books say, in IP packets of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The host's label.
    pub host: String,
    /// Arrived at the interface.
    pub received_on_wire: i64,
    /// Arrived in the stack.
    pub received_by_stack: i64,
    /// Sent by the stack.
    pub sent_by_stack: i64,
    /// Left the interface.
    pub sent_on_wire: i64,
    /// Sent by the enforcer beside those of the stack.
    pub added: i64,
    /// Resets for the local stack that took the place of a segment.
    pub resets_local: i64,
    /// Resets that arrived at the interface though the other host never sent them: segments turned back.
    pub resets_returned: i64,
    /// Dropped, by reason, as the enforcer counts them.
    pub drops: BTreeMap<String, u64>,
    resets_received: i64,
    resets_sent: i64,
}

impl Account {
    /// Packets that vanished between wire and stack, both ways.
    #[must_use]
    pub fn lost(&self) -> i64 {
        let arrived = self.received_on_wire - self.resets_returned;
        let delivered = self.received_by_stack - self.resets_local;
        arrived - delivered + self.sent_by_stack + self.added - self.sent_on_wire
    }

    /// Packets that the enforcer says it dropped.
    #[must_use]
    pub fn counted(&self) -> i64 {
        self.drops.values().map(|count| i64::try_from(*count).unwrap_or(i64::MAX)).sum()
    }

    /// Fails unless every lost packet was counted, and every counted one was lost.
    pub fn verify(&self) -> Result<()> {
        ensure!(
            self.lost() == self.counted(),
            "{} packets were lost and {} counted as dropped: {self}",
            self.lost(),
            self.counted()
        );
        Ok(())
    }

    /// The same books with one reason forgotten, as a broken counter would show them.
    #[must_use]
    pub fn without(mut self, reason: &str) -> Self {
        self.drops.remove(reason);
        self
    }

    fn count(&mut self, frame: &Frame) {
        let tcp = Packet::parse(frame).and_then(|packet| packet.tcp);
        let reset = i64::from(tcp.is_some_and(|segment| segment.flags.has(Flags::RST)));
        match (frame.outgoing, frame.other_host) {
            (true, _) => {
                self.sent_on_wire += 1;
                self.resets_sent += reset;
            }
            (false, false) => {
                self.received_on_wire += 1;
                self.resets_received += reset;
            }
            (false, true) => {}
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: in: {} on the wire ({} turned back), {} in the stack ({} put in its place); \
             out: {} by the stack, {} added, {} on the wire; drops {:?}",
            self.host,
            self.received_on_wire,
            self.resets_returned,
            self.received_by_stack,
            self.resets_local,
            self.sent_by_stack,
            self.added,
            self.sent_on_wire,
            self.drops
        )
    }
}

fn guarded(host: &Host, interface: &str) -> Result<i64> {
    Ok(i64::try_from(host.dropped_by_xdp(interface)?)?)
}

impl Side {
    /// What a guard dropped since the books were opened; a wire in userspace may be gone by now, and no guard was on it.
    fn guarded_since(&self) -> Result<i64> {
        if !self.host.has_interface(&self.interface)? {
            return Ok(0);
        }
        Ok(guarded(&self.host, &self.interface)? - self.guarded)
    }
}

fn is_ip(frame: &Frame) -> bool {
    matches!(frame.bytes.get(12..14), Some([0x08, 0x00] | [0x86, 0xDD]))
}
