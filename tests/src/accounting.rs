//! Nothing is dropped without a reason: what a host lost between wire and stack, against its drop counters.
//!
//! The books of one host whose workload is the whole host (its own interface). A packet lost on the way in was
//! captured and not received by the stack; one lost on the way out was sent by the stack and not captured.
//! Segments that the enforcer adds (a proof of its own, a re-injected one) are captured too.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::capture::{Capture, Frame};
use crate::enforcer::Counters;
use crate::host::Host;
use crate::stats::Stats;

/// How long the books may take to come to rest.
const REST: Duration = Duration::from_secs(20);

/// The event that counts segments sent beside those of the stack.
const ADDED: &str = "proof_cloned";

/// Open books of one host.
pub struct Ledger<'a> {
    host: &'a Host,
    captures: [Capture; 2],
    stats: Stats,
    counters: Counters,
    read: Box<dyn Fn() -> Result<Counters> + 'a>,
}

impl<'a> Ledger<'a> {
    /// Starts to count on an interface of a host, and on its `lo`. `read` reads the enforcer's counters.
    pub fn open(
        host: &'a Host,
        interface: &str,
        read: impl Fn() -> Result<Counters> + 'a,
    ) -> Result<Self> {
        let deadline = Instant::now() + REST;
        loop {
            let captures = [Capture::start(host, interface)?, Capture::start(host, "lo")?];
            let (stats, counters) = (Stats::read(host)?, read()?);
            if frame_count(&captures)? == 0 {
                return Ok(Self { host, captures, stats, counters, read: Box::new(read) });
            }
            ensure!(Instant::now() < deadline, "host {} never comes to rest", host.label());
        }
    }

    /// Stops to count, once no packet moves any more.
    pub fn close(self) -> Result<Account> {
        let deadline = Instant::now() + REST;
        loop {
            let before = frame_count(&self.captures)?;
            let (stats, counters) = (Stats::read(self.host)?, (self.read)()?);
            if frame_count(&self.captures)? == before {
                return self.account(&stats, &counters);
            }
            ensure!(Instant::now() < deadline, "host {} never comes to rest", self.host.label());
        }
    }

    fn account(&self, stats: &Stats, counters: &Counters) -> Result<Account> {
        let mut account = Account {
            received_on_wire: 0,
            received_by_stack: stats.ip_received()? - self.stats.ip_received()?,
            sent_by_stack: stats.ip_sent()? - self.stats.ip_sent()?,
            sent_on_wire: 0,
            added: 0,
            drops: BTreeMap::new(),
        };
        for capture in &self.captures {
            for frame in capture.frames()?.iter().filter(|frame| is_ip(frame)) {
                match (frame.outgoing, frame.other_host) {
                    (true, _) => account.sent_on_wire += 1,
                    (false, false) => account.received_on_wire += 1,
                    (false, true) => {}
                }
            }
        }
        let moved = counters.since(&self.counters);
        account.added = i64::try_from(moved.event(ADDED)).context("counter out of range")?;
        account.drops = moved.drops;
        Ok(account)
    }
}

/// What a host's books say, in IP packets of both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
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
    /// Dropped, by reason, as the enforcer counts them.
    pub drops: BTreeMap<String, u64>,
}

impl Account {
    /// Packets that vanished between wire and stack, both ways.
    #[must_use]
    pub fn lost(&self) -> i64 {
        self.received_on_wire - self.received_by_stack + self.sent_by_stack + self.added
            - self.sent_on_wire
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
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "in: {} on the wire, {} in the stack; out: {} by the stack, {} added, {} on the wire; drops {:?}",
            self.received_on_wire,
            self.received_by_stack,
            self.sent_by_stack,
            self.added,
            self.sent_on_wire,
            self.drops
        )
    }
}

fn frame_count(captures: &[Capture; 2]) -> Result<usize> {
    let [first, second] = captures;
    Ok(first.frames()?.len() + second.frames()?.len())
}

fn is_ip(frame: &Frame) -> bool {
    matches!(frame.bytes.get(12..14), Some([0x08, 0x00] | [0x86, 0xDD]))
}
