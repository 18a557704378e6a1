//! How much of its connection rate a known identity keeps while somebody floods the server at full speed.
//!
//! A flood takes a processor, whatever becomes of it. So the flooder has the last processor for itself, and client,
//! server and their load have the others, with flood and without: what is lost is what the flood costs *them*. The same
//! flood against a firewall, at a port that its rules drop, says what of that any receiver pays.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use super::options::Options;
use super::progress;
use super::stage::{FIRST_PORT, Setting, furnish};
use crate::capture::{Capture, Flags, Segment};
use crate::config::{Config, Workload};
use crate::enforcer::{Counters, Enforcer};
use crate::flood::{Flood, link_address, spoofed};
use crate::host::{Family, Host};
use crate::keys::NodeKeys;
use crate::load::{Load, Report};
use crate::policy;
use crate::raw::Forged;
use crate::scenario::{NAMESPACE, Setup};
use crate::tcp::{PATIENCE, Server, Service, dial};
use crate::topology::{INTERFACE, ThreeHosts};

/// Frames of a flood, which repeats them.
const FRAMES: u32 = 20_000;
/// Clients of the load, and threads that accept.
const CLIENTS: usize = 4;
/// Connections before what is measured.
const WARM_UP: u64 = 50;
/// A port that the firewall's rules drop.
const CLOSED: u16 = 8080;
/// How long a call is given whose first segment is wanted.
const DIAL: Duration = Duration::from_secs(1);
/// The settings that are compared.
const SETTINGS: [Setting; 2] = [Setting::Nftables, Setting::Enforced];

/// What a flood consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// SYNs with the option and 640 bytes that are no credential, from 500 addresses.
    Garbage,
    /// The S1 of the known identity itself, again and again, from 500 addresses.
    Replayed,
    /// SYNs without the option, from 500 addresses.
    Plain,
    /// The S1 of an identity that the policy denies, again and again, from 500 addresses.
    Denied,
    /// That of the known identity from 500 addresses, each with a proof whose MAC is wrong.
    Proofs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Garbage, Self::Replayed, Self::Plain, Self::Denied, Self::Proofs];

    /// Its name, as in the JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Replayed => "replayed",
            Self::Plain => "plain",
            Self::Denied => "denied",
            Self::Proofs => "proofs",
        }
    }

    /// Segment number `n` of it.
    fn segment(self, n: u32, to: SocketAddr, hellos: &Hellos) -> Forged {
        let again = |hello: &Segment, source, sequence| Forged {
            source,
            destination: to,
            sequence,
            ..Forged::replay(hello)
        };
        match self {
            Self::Garbage => {
                let junk = noise(n);
                Forged::syn(spoofed(n), to).identity(&junk[..16]).payload(&junk.repeat(20))
            }
            Self::Replayed => again(&hellos.known, spoofed(n), n),
            Self::Plain => Forged::syn(spoofed(n), to),
            Self::Denied => again(&hellos.denied, spoofed(n), n),
            Self::Proofs if n.is_multiple_of(2) => again(&hellos.known, proving(n), 7),
            Self::Proofs => {
                let proof = Forged::new(proving(n), to, Flags::ACK).identity(&noise(n)[..16]);
                Forged { sequence: 8, acknowledgement: n, ..proof }
            }
        }
    }
}

/// Bytes that mean nothing.
fn noise(n: u32) -> [u8; 32] {
    *blake3::hash(&n.to_be_bytes()).as_bytes()
}

/// The source of a call and of its proof, which follow each other.
fn proving(n: u32) -> SocketAddr {
    spoofed(n / 2 % 500)
}

/// One setting under one flood, beside the same without.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// What the flood met.
    pub setting: Setting,
    /// What it was.
    pub kind: Kind,
    /// Connections a second before it.
    pub calm_per_second: f64,
    /// Connections a second during it.
    pub flooded_per_second: f64,
    /// Its frames a second.
    pub frames_per_second: f64,
    /// Connections that failed during it.
    pub failed: u64,
}

/// Each setting under each flood, by rounds.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Floods(Vec<Vec<Sample>>);

impl Floods {
    /// What is kept of the rate of a setting under a flood, in each round.
    #[must_use]
    pub fn kept(&self, setting: Setting, kind: Kind) -> Vec<f64> {
        self.of(setting, kind).map(|s| s.flooded_per_second / s.calm_per_second).collect()
    }

    /// The same of the enforced setting, as a share of what the firewall's keeps in the same round.
    #[must_use]
    pub fn kept_to_nftables(&self, kind: Kind) -> Vec<f64> {
        let [of, to] = [Setting::Enforced, Setting::Nftables].map(|s| self.kept(s, kind));
        of.into_iter().zip(to).map(|(of, to)| of / to).collect()
    }

    /// Frames a second, in each round.
    #[must_use]
    pub fn frames(&self, setting: Setting, kind: Kind) -> Vec<f64> {
        self.of(setting, kind).map(|s| s.frames_per_second).collect()
    }

    /// Connections that failed in all rounds of the enforced setting; not-a-number when nothing was measured.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub fn failed(&self) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        let of = |kind| self.of(Setting::Enforced, kind).map(|s| s.failed).sum::<u64>();
        Kind::ALL.map(of).iter().sum::<u64>() as f64
    }

    fn of(&self, setting: Setting, kind: Kind) -> impl Iterator<Item = &Sample> {
        let wanted = move |s: &&Sample| s.setting == setting && s.kind == kind;
        self.0.iter().flatten().filter(wanted)
    }
}

/// A client, a server and somebody who floods it.
#[derive(Debug)]
struct Arena {
    setting: Setting,
    daemons: Option<[Enforcer; 2]>,
    /// Keys of a node whose workload nobody permits.
    stranger: NodeKeys,
    net: ThreeHosts,
}

/// What is played again: the first segments of calls, as the server saw them.
struct Hellos {
    /// Of the known identity.
    known: Segment,
    /// Of one that the policy denies.
    denied: Segment,
}

impl Arena {
    fn new(setting: Setting) -> Result<Self> {
        let net = ThreeHosts::new()?;
        // What is answered to spoofed sources has somewhere to go, and nobody answers it.
        net.server.ip(&format!("route add default via {}", net.other.address(Family::V4)))?;
        net.other.drop_arriving_tcp()?;
        let setup = Setup::pki()?;
        let stranger = setup.keys.node("stranger-node", NAMESPACE)?;
        let daemons = furnish(setting, setup, &net.client, &net.server)?;
        Ok(Self { setting, daemons, stranger, net })
    }

    fn hellos(&self) -> Result<Hellos> {
        let _server = Server::start(&self.net.server, FIRST_PORT, &Service::Echo)?;
        let known = self.s1_of(&self.net.client)?;
        let stranger = Workload::own(NAMESPACE, "stranger");
        let config = Config::new(self.stranger.clone(), stranger, policy::ALLOW_ALL);
        let _enforcer = Enforcer::start(&self.net.other, &config)?;
        Ok(Hellos { known, denied: self.s1_of(&self.net.other)? })
    }

    /// The S1 of a host's call, answered or not.
    fn s1_of(&self, host: &Host) -> Result<Segment> {
        let capture = Capture::start(&self.net.server, INTERFACE)?;
        let to = self.net.server.at(Family::V4, FIRST_PORT);
        let from = host.address(Family::V4);
        drop(dial(host, to, DIAL)?);
        let is_s1 = move |s: &Segment| {
            s.flags == Flags::SYN && s.identity().is_some() && s.source.ip() == from
        };
        capture.wait_for("S1", PATIENCE, is_s1)
    }

    /// The frames of a flood: towards the port of the load, or, behind the firewall, to one that is dropped.
    fn frames(&self, kind: Kind, hellos: &Hellos, port: u16) -> Result<Vec<Vec<u8>>> {
        let port = if self.setting == Setting::Nftables { CLOSED } else { port };
        let to = self.net.server.at(Family::V4, port);
        let link = link_address(&self.net.server, INTERFACE)?;
        (0..FRAMES).map(|n| kind.segment(n, to, hellos).frame(link)).collect()
    }

    fn sample(&self, kind: Kind, hellos: &Hellos, port: u16, plan: &Plan) -> Result<Sample> {
        let _server = Server::start_threads(&self.net.server, port, &Service::OneByte, CLIENTS)?;
        let to = self.net.server.at(Family::V4, port);
        let load = Load::connections(to, plan.connections).clients(CLIENTS);
        Load::connections(to, WARM_UP).run(&self.net.client)?;
        let calm = load.run(&self.net.client)?;
        ensure!(
            calm.failed == 0,
            "{:?}, before the flood of {}: {} connections failed, the first: {}",
            self.setting,
            kind.name(),
            calm.failed,
            calm.first_failure.unwrap_or_default()
        );
        let frames = self.frames(kind, hellos, port)?;
        let before = self.counters()?;
        let flood = Flood::start_on(&self.net.other, INTERFACE, frames, plan.processor);
        let begun = flood.sent();
        let flooded = load.run(&self.net.client)?;
        let sent = flood.finish()? - begun;
        self.check_met(&before, sent)?;
        Ok(Sample {
            setting: self.setting,
            kind,
            calm_per_second: calm.rate(),
            flooded_per_second: flooded.rate(),
            frames_per_second: per_second(sent, &flooded),
            failed: flooded.failed,
        })
    }

    fn counters(&self) -> Result<Counters> {
        self.daemons
            .as_ref()
            .map_or_else(|| Ok(Counters::default()), |[_, server]| server.counters())
    }

    /// The flood must have been judged by the server's enforcer: half of its frames at least, the rest may be lost on
    /// the way.
    fn check_met(&self, before: &Counters, sent: u64) -> Result<()> {
        if self.daemons.is_none() {
            return Ok(());
        }
        let moved = self.counters()?.since(before);
        let dropped: u64 = moved.drops.values().sum();
        let passed = moved.event("s1_accepted");
        ensure!(2 * (dropped + passed) > sent, "a flood of {sent} frames was not met: {moved:?}");
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn per_second(frames: u64, during: &Report) -> f64 {
    frames as f64 / during.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// How often, how much and where.
struct Plan {
    rounds: u32,
    connections: u64,
    /// The flooder's.
    processor: usize,
}

/// Measures on hosts of its own, in as many rounds as the rest.
pub fn measure(options: &Options) -> Result<Floods> {
    let arenas = SETTINGS.map(Arena::new);
    let arenas: Vec<Arena> = arenas.into_iter().collect::<Result<_>>()?;
    let enforced = arenas.iter().find(|arena| arena.setting == Setting::Enforced);
    let hellos = enforced.context("no enforced setting")?.hellos()?;
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this)?;
    let (others, processor) = divide(&all)?;
    // Threads inherit it: everything but the flooder runs on the others from here on.
    sched_setaffinity(this, &others)?;
    let plan = Plan { rounds: options.rounds(), connections: options.connections(), processor };
    let rounds = rounds(&arenas, &hellos, &plan);
    sched_setaffinity(this, &all)?;
    rounds.map(Floods)
}

fn rounds(arenas: &[Arena], hellos: &Hellos, plan: &Plan) -> Result<Vec<Vec<Sample>>> {
    let mut port = FIRST_PORT;
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        progress(&format!("floods, round {} of {}", round + 1, plan.rounds));
        let mut samples = Vec::new();
        for kind in Kind::ALL {
            port += 1;
            let turn = round as usize % arenas.len();
            for arena in arenas.iter().cycle().skip(turn).take(arenas.len()) {
                samples.push(arena.sample(kind, hellos, port, plan)?);
            }
        }
        rounds.push(samples);
    }
    Ok(rounds)
}

/// All processors but the last, and the last.
fn divide(all: &CpuSet) -> Result<(CpuSet, usize)> {
    let mut others = *all;
    let mut allowed = (0..CpuSet::count()).rev().filter(|n| all.is_set(*n).unwrap_or(false));
    let last = allowed.next().context("no processor is allowed")?;
    ensure!(allowed.next().is_some(), "a flooder needs a processor of its own, there is only one");
    others.unset(last)?;
    Ok((others, last))
}
