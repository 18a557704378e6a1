//! What happens on the node, second by second.
//!
//! Who has had a place goes, another comes; callers connect, first as strangers; a policy, a list of revocations
//! and the node's own certificate change a few times, as they do in a run of any length.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use enforcer_common::abi::PeerKey;
use enforcer_common::wire::frame::protocol;
use enforcer_user::config::Limits;
use enforcer_user::engine::{Done, Input, Question, WorkloadSpec};
use enforcer_user::identity::Verifier;

use super::cluster::Cluster;
use super::flows::Standing;
use super::frames::{Added, Contact};
use super::heap::{self, counted};
use super::node::{Node, at, kind};
use super::options::Options;
use super::random::{events, source};
use super::remotes::{Authorities, Occupant, Remote, START, address, identity};
use super::report::{Figures, Minute, Neighbourhood, Report};
use super::tables::Judged;

/// How often flows are looked through for verdicts in use, as the daemon does, seconds.
const SCAN_SECONDS: u64 = 15;
/// How long connections last that do not stay open, seconds, in the mean.
const FLOW_SECONDS: f64 = 10.0;
/// How often a segment is sent again that nobody answers.
const TRIES: u32 = 3;
/// How long who was not answered waits before the next try, seconds.
const PAUSE_SECONDS: u64 = 30;
/// The first port of a service; each has its own.
pub const FIRST_PORT: u16 = 1024;

mod purpose {
    pub const TRAFFIC: u64 = 21;
}

/// A workload of the node.
#[derive(Debug, Clone, Copy)]
struct Local {
    place: u32,
    occupant: Occupant,
    id: u16,
}

/// Who calls whom, and the connection that both keep open.
#[derive(Debug)]
struct Line {
    local: usize,
    remote: usize,
    outgoing: bool,
    standing: Option<Standing>,
    /// Second from which a connection is tried again.
    tried_again: u64,
}

/// A place that changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Local(usize),
    Remote(usize),
}

/// Everything.
pub struct Course<'a> {
    pub(super) options: &'a Options,
    pub(super) cluster: &'a Cluster,
    pub(super) number: u32,
    pub(super) authorities: Authorities,
    pub(super) node: Node,
    locals: Vec<Local>,
    pub(super) remotes: Vec<Remote>,
    lines: Vec<Line>,
    lines_of_local: Vec<Vec<usize>>,
    lines_of_remote: Vec<Vec<usize>>,
    changes: BinaryHeap<Reverse<(u64, Place)>>,
    traffic: fastrand::Rng,
    /// Seconds since the beginning.
    second: u64,
    /// Nanoseconds within it: everything happens behind what was before.
    nanoseconds: u64,
    contacts: u32,
    pub(super) revision: u32,
    pub(super) policy_bytes: Option<i64>,
    figures: Figures,
}

impl<'a> Course<'a> {
    /// A node that has just started, with all its workloads, in a cluster that has run for long.
    pub fn new(options: &'a Options, cluster: &'a Cluster) -> Result<Self> {
        let number = cluster.choose(options.busiest);
        let authorities = Authorities::new(options)?;
        let limits = limits(options);
        let verifier = counted(|| anyhow::Ok(Arc::new(Verifier::new(authorities.trust()?))))?;
        let node = Node::new(&limits, authorities.issuer(number, START)?, verifier)?;
        let mut course = Self {
            node,
            options,
            cluster,
            number,
            authorities,
            locals: Vec::new(),
            remotes: Vec::new(),
            lines: Vec::new(),
            lines_of_local: Vec::new(),
            lines_of_remote: Vec::new(),
            changes: BinaryHeap::new(),
            traffic: source(options.seed, purpose::TRAFFIC, 0),
            second: 0,
            nanoseconds: 0,
            contacts: 0,
            revision: 0,
            policy_bytes: None,
            figures: Figures::default(),
        };
        course.settle()?;
        Ok(course)
    }

    /// Runs to the end.
    pub fn run(mut self, mut tell: impl FnMut(&Minute)) -> Result<Report> {
        let outgoing = self.lines.iter().filter(|line| line.outgoing).count();
        let neighbourhood = Neighbourhood {
            node: self.number,
            outgoing,
            incoming: self.lines.len() - outgoing,
            workloads: self.remotes.len(),
            nodes: self.remotes.iter().map(|it| it.node).collect::<HashSet<u32>>().len(),
        };
        let mut report = Report::new(self.options, neighbourhood);
        let mut held_before = heap::held();
        for minute in 1..=self.options.minutes {
            let costs = self.node.costs.clone();
            let before = self.figures;
            self.special(minute)?;
            for _ in 0..60 {
                self.second()?;
            }
            self.node.check().with_context(|| format!("minute {minute}"))?;
            self.count();
            let held = heap::held();
            let grown = held.zip(held_before).map(|(after, before)| after - before);
            held_before = held;
            let done = Minute::new(minute, self.figures.since(&before), &costs, &self.node, grown);
            tell(&done);
            report.minutes.push(done);
        }
        report.finish(&self.node, &limits(self.options), self.figures, self.policy_bytes)?;
        Ok(report)
    }

    /// Policy, workloads, and who has to do with them.
    fn settle(&mut self) -> Result<()> {
        self.set_policy()?;
        let first = self.number * self.options.workloads;
        for (index, place) in (first..first + self.options.workloads).enumerate() {
            let occupant = Occupant { born: START, ..Occupant::first(self.options, place) };
            self.locals.push(Local { place, occupant, id: 0 });
            self.add_workload(index)?;
        }
        self.lines_of_local = vec![Vec::new(); self.locals.len()];
        let mut known = HashMap::new();
        for call in self.cluster.calls_of(self.number) {
            let remote = *known.entry(call.remote).or_insert_with(|| {
                let (node, service) =
                    (self.cluster.node(call.remote), self.cluster.service(call.remote));
                self.remotes.push(Remote::new(self.options, call.remote, node, service));
                self.lines_of_remote.push(Vec::new());
                self.remotes.len() - 1
            });
            let local = usize::try_from(call.local)?;
            self.lines_of_local[local].push(self.lines.len());
            self.lines_of_remote[remote].push(self.lines.len());
            let outgoing = call.outgoing;
            self.lines.push(Line { local, remote, outgoing, standing: None, tried_again: 0 });
        }
        let remotes = self.remotes.iter().enumerate();
        self.changes.extend(remotes.map(|(n, it)| Reverse((it.occupant.gone, Place::Remote(n)))));
        Ok(())
    }

    pub(super) fn now(&mut self) -> enforcer_user::engine::Now {
        self.nanoseconds += 1000;
        at(self.second, self.nanoseconds)
    }

    pub(super) fn unix(&self) -> u64 {
        START + self.second
    }

    fn second(&mut self) -> Result<()> {
        self.second += 1;
        self.nanoseconds = 0;
        self.replace()?;
        self.node.flows.end(self.second);
        let now = self.now();
        self.node.tell(kind::TICKS, now, || Ok(Input::Tick))?;
        if self.second.is_multiple_of(SCAN_SECONDS) {
            let questions = self.node.flows.in_use();
            self.node.tell(kind::TICKS, now, || Ok(Input::InUse(questions.clone())))?;
        }
        self.connect_all()
    }

    /// Who is due goes, and another comes.
    fn replace(&mut self) -> Result<()> {
        let unix = self.unix();
        while let Some(Reverse((due, place))) = self.changes.peek().copied()
            && due <= unix
        {
            self.changes.pop();
            match place {
                Place::Local(index) => {
                    let place = &self.locals[index];
                    let name = self.local_identity(place)?.name().to_owned();
                    let now = self.now();
                    self.node
                        .tell(kind::WORKLOADS, now, || Ok(Input::RemoveWorkload(name.clone())))?;
                    let local = &mut self.locals[index];
                    local.occupant = local.occupant.next(self.options, local.place);
                    self.add_workload(index)?;
                    self.figures.replaced_here += 1;
                    self.hang_up(Place::Local(index));
                }
                Place::Remote(index) => {
                    self.hang_up(place);
                    let remote = &mut self.remotes[index];
                    remote.replace(self.options);
                    self.changes.push(Reverse((remote.occupant.gone, place)));
                    self.figures.replaced_elsewhere += 1;
                }
            }
        }
        Ok(())
    }

    /// Closes the connections that were kept open; those that a sweep took are gone already.
    fn hang_up(&mut self, place: Place) {
        let lines = match place {
            Place::Local(index) => &self.lines_of_local[index],
            Place::Remote(index) => &self.lines_of_remote[index],
        };
        for line in lines {
            if let Some(standing) = self.lines[*line].standing.take() {
                self.node.flows.close(&standing);
            }
        }
    }

    fn local_identity(&self, local: &Local) -> Result<enforcer_user::identity::Identity> {
        identity(self.cluster.service(local.place), local.place, local.occupant.serial)
    }

    fn add_workload(&mut self, index: usize) -> Result<()> {
        let name = self.local_identity(&self.locals[index])?.name().to_owned();
        let now = self.now();
        let Local { place, occupant, .. } = self.locals[index];
        let service = self.cluster.service(place);
        self.node.tell(kind::WORKLOADS, now, || {
            let identity = identity(service, place, occupant.serial)?;
            Ok(Input::AddWorkload(WorkloadSpec {
                identity,
                flags: 0,
                adopt_until_ns: 0,
                learns: false,
            }))
        })?;
        let id = self.node.engine().workload_id(&name);
        let local = &mut self.locals[index];
        local.id = id.with_context(|| format!("workload {name} got no id"))?;
        self.changes.push(Reverse((local.occupant.gone, Place::Local(index))));
        Ok(())
    }

    /// One second of connections: those that stay are opened again where they are not, others come and go.
    fn connect_all(&mut self) -> Result<()> {
        let none = (-self.options.rate / f64::from(self.options.calls)).exp();
        let before = (self.figures.connections(), self.figures.cold());
        for index in 0..self.lines.len() {
            if self.lines[index].tried_again > self.second {
                continue;
            }
            let standing = self.lines[index].standing;
            if standing.is_none_or(|standing| !self.node.flows.stands(&standing)) {
                self.lines[index].standing = None;
                self.connect(index, true)?;
            }
            for _ in 0..events(&mut self.traffic, none) {
                self.connect(index, false)?;
            }
        }
        let figures = &mut self.figures;
        figures.most_a_second = figures.most_a_second.max(figures.connections() - before.0);
        figures.most_cold_a_second = figures.most_cold_a_second.max(figures.cold() - before.1);
        Ok(())
    }

    fn connect(&mut self, index: usize, stays: bool) -> Result<()> {
        let now = self.now();
        let unix = self.unix();
        let Line { local, remote, outgoing, .. } = self.lines[index];
        let (local, remote) = (&self.locals[local], &mut self.remotes[remote]);
        let Some((local_handle, own_bytes)) = self.node.tables.shown(local.id) else {
            self.figures.unanswered += 1;
            return Ok(());
        };
        let server = if outgoing { remote.service } else { self.cluster.service(local.place) };
        let number = remote.place % self.options.workloads;
        let remote_address = address(remote.node, number, remote.occupant.serial);
        let (handle, credential) = remote.show(&mut self.authorities, unix)?;
        self.contacts = self.contacts.wrapping_add(1);
        let contact = Contact {
            outgoing,
            workload: local.id,
            local: address(self.number, local.place, local.occupant.serial),
            remote: remote_address,
            port: FIRST_PORT + server,
            client_port: 32_768 + u16::try_from(self.contacts % 28_000)?,
            sequence: self.contacts,
            local_handle,
            credential,
        };
        let added = if outgoing {
            Added::of(own_bytes, credential.len())
        } else {
            Added::of(credential.len(), own_bytes)
        };
        self.figures.shake(outgoing, added);
        let pair = PeerKey { local: local_handle, remote: handle };
        let asked = Question {
            peer: 0,
            workload: local.id,
            port: contact.port,
            protocol: protocol::TCP,
            direction: contact.direction(),
        };
        for attempt in 0..TRIES {
            let peer = match self.node.tables.judge(&pair, asked, now.boot_ns) {
                Judged::Held(peer) => peer,
                Judged::Denied => {
                    self.figures.denied += 1;
                    return Ok(());
                }
                Judged::Passes => {
                    let peer = self.node.tables.identity(&pair).unwrap_or_default();
                    let asked = Question { peer, ..asked };
                    if stays {
                        self.lines[index].standing = self.node.flows.stand(contact.key(), asked);
                    } else {
                        let seconds = whole(-FLOW_SECONDS * (1.0 - self.traffic.f64()).ln());
                        // One that finds no room is counted by the table.
                        self.node.flows.open(contact.key(), asked, self.second, seconds);
                    }
                    return Ok(());
                }
            };
            if attempt == 0 {
                self.figures.hold(outgoing, peer == 0);
            }
            self.node
                .tell(kind::CONTACTS, now, || Ok(Input::Held(contact.held(peer, now.boot_ns)?)))?;
        }
        self.figures.unanswered += 1;
        self.lines[index].tried_again = self.second + PAUSE_SECONDS;
        Ok(())
    }

    /// Takes over what node and engine count.
    fn count(&mut self) {
        let counters = self.node.engine().counters();
        self.figures.peers_displaced = counters.done(Done::PeersDisplaced);
        self.figures.verdicts_displaced = counters.done(Done::VerdictsDisplaced);
        self.figures.renewed = counters.done(Done::Released);
        self.figures.issued = counters.done(Done::Issued);
        self.figures.verified = counters.done(Done::Verified);
        self.figures.cut = self.node.cut as u64;
        self.figures.problems = self.node.problems.0;
    }
}

/// The limits of the configuration.
pub fn limits(options: &Options) -> Limits {
    let default = Limits::default();
    Limits { peers: options.peers.unwrap_or(default.peers), ..default }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
fn whole(seconds: f64) -> u64 {
    seconds.clamp(0.0, 3600.0) as u64
}
