//! Answers of name servers: what network rules say of hosts is opened at the addresses that the workload is about to be
//! told, before it is told them.

use std::collections::HashSet;
use std::net::IpAddr;

use enforcer_common::abi::{FlowKey, READ_MARK, ReinjectTrailer, address, workload_flags};
use enforcer_common::wire::frame::{self, Frame, Packet, UDP_BYTES, protocol};

use super::Engine;
use super::change::parity;
use super::clock::Now;
use super::counters::{Done, Refused};
use super::dns::{self, Lookup};
use super::guard::SegmentId;
use super::hosts::{HostRecord, Learned, MAX_SECONDS, MIN_SECONDS, USED_SECONDS};
use super::io::{HeldFrame, Network, Output};
use super::networks::{self, Networks};
use super::workloads::Workload;
use crate::checksum;
use crate::identity::Identity;

/// How often it is told that something stays closed, in seconds: a workload may ask for ever more.
const TELLS_SECONDS: u64 = 60;

impl Engine {
    pub(super) fn on_names(&mut self, mut held: HeldFrame, now: Now, out: &mut Vec<Output>) {
        let (is_answer, lookup) = match read(&mut held) {
            Ok(read) => read,
            Err(why) => return self.counters.refuse(why),
        };
        if !is_answer {
            self.counters.add(Done::NamesAsked, 1);
            if let Some(Lookup { id, host, .. }) = lookup {
                self.questions.ask(held.key, id, &host, now);
            }
            return;
        }
        self.counters.add(Done::NamesAnswered, 1);
        if let Some(lookup) = lookup {
            self.on_answer(held.key, &lookup, now, out);
        }
        // In any case: what a name server says is for the workload to judge.
        let digest = blake3::hash(&held.frame);
        let [a, b, c, d, ..] = *digest.as_bytes();
        let sequence = u32::from_ne_bytes([a, b, c, d]);
        if !self.guard.admits(SegmentId { key: held.key, sequence, flags: 0 }, now) {
            return self.counters.refuse(Refused::Loop);
        }
        self.counters.add(Done::Reinjected, 1);
        let to = ReinjectTrailer { mark: READ_MARK, ..held.trailer() };
        out.push(Output::Reinject { to, frame: held.frame });
    }

    fn on_answer(&mut self, key: FlowKey, lookup: &Lookup, now: Now, out: &mut Vec<Output>) {
        if self.questions.answer(key, lookup.id, &lookup.host, now) {
            self.learn_host(key.workload, lookup, now, out);
        } else {
            self.counters.add(Done::NamesUnasked, 1);
        }
    }

    fn learn_host(&mut self, id: u16, lookup: &Lookup, now: Now, out: &mut Vec<Output>) {
        let Some((path, rule_set)) = self.asking(id) else { return };
        if !self.networks.names(rule_set, &lookup.host) {
            return;
        }
        for (address, seconds) in &lookup.addresses {
            let seconds = u64::from(*seconds).clamp(MIN_SECONDS, MAX_SECONDS);
            let until_ns = now.after(seconds);
            match self.hosts.learn(&path, &lookup.host, *address, until_ns) {
                Learned::Known => {}
                Learned::Full => {
                    let why = "too many addresses of hosts that network rules name";
                    let what = format!("{path}: {address} of {}: {why}", lookup.host);
                    self.tell_closed(&what, now, out);
                }
                Learned::New => {
                    self.counters.add(Done::HostsOpened, 1);
                    self.write_host(&path, rule_set, *address, now, out);
                    out.push(Output::RememberHost(HostRecord {
                        workload: path.clone(),
                        host: lookup.host.clone(),
                        address: *address,
                        until: now.unix_at(until_ns),
                    }));
                }
            }
        }
    }

    fn tell_closed(&mut self, what: &str, now: Now, out: &mut Vec<Output>) {
        self.counters.add(Done::HostsRefused, 1);
        if now.boot_ns >= self.tells_closed_ns {
            self.tells_closed_ns = now.after(TELLS_SECONDS);
            out.push(Output::Problem(format!("stays closed to workload {what}")));
        }
    }

    /// Path and rule set of a workload, if network rules of it name hosts.
    fn asking(&self, id: u16) -> Option<(String, u32)> {
        let workload = self.workloads.get(id).filter(|one| asks_names(one))?;
        let rule_set = *workload.value.rule_sets.get(parity(self.epoch))?;
        Some((workload.identity().path(), rule_set))
    }

    /// Writes what is open at one address of a host, or is no more.
    fn write_host(
        &mut self,
        path: &str,
        rule_set: u32,
        address: IpAddr,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let found = match self.networks.at(rule_set, address, self.hosts.at(path, address)) {
            Ok(found) => found,
            Err(problem) => {
                self.tell_closed(&format!("{path}: {problem}"), now, out);
                self.networks.at(rule_set, address, []).unwrap_or_default()
            }
        };
        let installed = &mut self.installed[parity(self.epoch)];
        if let Some(network) = found {
            installed.insert((network.0, network.1));
            out.push(Output::InstallNetworks(vec![network]));
            return;
        }
        let key = networks::key_of(rule_set, address);
        if installed.remove(&key) {
            out.push(Output::RemoveNetworks(vec![key]));
        }
    }

    /// Closes what was open to the hosts of a workload that is gone: another may get its number.
    pub(super) fn forget_hosts(&mut self, gone: &Workload, now: Now, out: &mut Vec<Output>) {
        let path = gone.identity().path();
        let addresses: Vec<IpAddr> = self.hosts.addresses(&path).collect();
        self.hosts.forget(&path);
        self.questions.forget(gone.id);
        let rule_set = gone.value.rule_sets[parity(self.epoch)];
        for address in addresses {
            self.write_host(&path, rule_set, address, now, out);
        }
    }

    /// What is open to the hosts of a workload under tables that are about to be in force, or that it is added under.
    pub(super) fn host_networks(
        &self,
        networks: &Networks,
        workload: &Workload,
        rule_set: u32,
    ) -> Vec<Network> {
        let path = workload.identity().path();
        let one = |address| {
            // Where that is too much it stays as it is around it: told when it was learned.
            networks.at(rule_set, address, self.hosts.at(&path, address)).unwrap_or_default()
        };
        self.hosts.addresses(&path).filter_map(one).collect()
    }

    /// The names that an address has for a workload.
    #[must_use]
    pub fn hosts_at(&self, workload: &Identity, address: IpAddr) -> Vec<&str> {
        self.hosts.at(&workload.path(), address).collect()
    }

    /// What name servers told workloads and what still counts, for a later daemon and for reports.
    pub fn hosts(&self, now: Now) -> impl Iterator<Item = HostRecord> {
        self.hosts.records(now)
    }

    /// How often [`Self::hosts`] changed.
    #[must_use]
    pub fn hosts_changed(&self) -> u64 {
        self.hosts.changes()
    }

    /// Ids of the workloads whose network rules name hosts.
    #[must_use]
    pub fn asking_names(&self) -> HashSet<u16> {
        self.workloads.iter().filter(|one| asks_names(one)).map(|one| one.id).collect()
    }

    /// Addresses that connections stand on are kept.
    pub(super) fn on_hosts_in_use(&mut self, used: &[(u16, IpAddr)], now: Now) {
        for (id, address) in used {
            if let Some(workload) = self.workloads.get(*id) {
                let path = workload.identity().path();
                self.hosts.keep(&path, *address, now.after(USED_SECONDS));
            }
        }
    }

    /// Closes what the names of hosts no longer stand for.
    pub(super) fn end_hosts(&mut self, now: Now, out: &mut Vec<Output>) {
        for (path, address) in self.hosts.expire(now.boot_ns) {
            let id = self.workloads.named(&path).map(|workload| workload.id);
            if let Some((path, rule_set)) = id.and_then(|id| self.asking(id)) {
                self.write_host(&path, rule_set, address, now, out);
            }
        }
    }
}

fn asks_names(workload: &Workload) -> bool {
    workload.value.flags & workload_flags::ASKS_NAMES != 0
}

/// Whether a datagram is an answer, and what its message says, if it is one of those that matter. Its frame must say
/// what the kernel says of it; its checksum is completed.
fn read(held: &mut HeldFrame) -> Result<(bool, Option<Lookup>), Refused> {
    checksum::complete(&mut held.frame).map_err(|_| Refused::Malformed)?;
    let mut packet = Packet::default();
    let is_ip = frame::parse(held.frame.as_slice(), &mut packet) == Ok(Frame::Ip);
    let key = &held.key;
    let is_udp = packet.protocol == protocol::UDP && key.protocol == protocol::UDP;
    let source = (address(packet.source), packet.source_port);
    let destination = (address(packet.destination), packet.destination_port);
    let (local, remote) = ((key.local, key.local_port), (key.remote, key.remote_port));
    let is_answer = (source, destination) == (remote, local);
    if !is_ip || !is_udp || !(is_answer || (source, destination) == (local, remote)) {
        return Err(Refused::Inconsistent);
    }
    let (from, to) = (usize::from(packet.transport) + UDP_BYTES, packet.end as usize);
    let message = held.frame.get(from..to).ok_or(Refused::Malformed)?;
    Ok((is_answer, dns::read(message)))
}
