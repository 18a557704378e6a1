//! What the programs cost packets that need no identity: datagrams that a network rule allows, ARP and neighbour
//! discovery.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::figures::Spread;
use super::options::Options;
use super::program::info;
use super::test_run::{Returning, SHOT, context, run};
use crate::config::{Config, NetworkRule};
use crate::enforcer::Enforcer;
use crate::flood::link_address;
use crate::host::{Family, Host};
use crate::program::packet::{End, arp, icmp, udp};
use crate::scenario::Setup;
use crate::tcp::PATIENCE;
use crate::topology::{INTERFACE, TwoHosts};
use crate::udp::{Responder, ask};

/// Port of the service that a network rule allows.
const SERVICE: u16 = 9053;
/// Port of the asking side.
const ASKER: u16 = 40_001;
/// ARP and ICMPv6 for a question.
const REQUEST: u8 = 1;
const SOLICITATION: u8 = 135;

/// The figures.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Bypasses(pub Vec<Bypass>);

impl Bypasses {
    /// The dearest kind of packet, by medians; datagrams are those that have a flow.
    #[must_use]
    pub fn most(&self, datagrams: bool) -> f64 {
        let kind = self.0.iter().filter(|bypass| bypass.has_flow == datagrams);
        kind.flat_map(|bypass| [bypass.from_workload.median, bypass.to_workload.median])
            .fold(f64::NAN, f64::max)
    }
}

/// What one kind of packet costs in both programs: nanoseconds, net of an empty program.
#[derive(Debug, Clone, Serialize)]
pub struct Bypass {
    /// The kind.
    pub packet: &'static str,
    /// Whether it is one of a flow that a network rule allows.
    pub has_flow: bool,
    /// The workload sends it.
    pub from_workload: Spread,
    /// It arrives.
    pub to_workload: Spread,
}

/// A kind of packet: as the workload sends it, and as it arrives.
struct Kind {
    packet: &'static str,
    has_flow: bool,
    frames: [Vec<u8>; 2],
}

/// Measures on hosts of its own, of which the client has an enforcer.
pub fn measure(options: &Options) -> Result<Bypasses> {
    let net = TwoHosts::new()?;
    let rule = NetworkRule::egress("names", "udp", "192.0.2.0/24", SERVICE).and("2001:db8::/64");
    let config = Config { log_level: "info", ..Setup::pki()?.client }.rule(rule);
    let enforcer = Enforcer::start(&net.client, &config)?;
    check_answered(&net)?;
    let program = |name| info(&enforcer, name)?.fd().context(name);
    let (from, to) = (program("from_workload")?, program("to_workload")?);
    let kinds = kinds(&net)?;
    let batches = options.batches();
    let measured = net.client.run(|| {
        kinds.iter().map(|kind| of_kind(kind, [from.as_fd(), to.as_fd()], batches)).collect()
    });
    measured.map(Bypasses)
}

/// The rule lets datagrams through, and answers back.
fn check_answered(net: &TwoHosts) -> Result<()> {
    let _responder = Responder::start(&net.server, SERVICE)?;
    for family in Family::BOTH {
        let answer = ask(&net.client, net.server.at(family, SERVICE), PATIENCE)?;
        ensure!(answer.is_some(), "a datagram of {family:?} that a rule allows was not answered");
    }
    Ok(())
}

fn of_kind(kind: &Kind, programs: [BorrowedFd<'_>; 2], batches: u32) -> Result<Bypass> {
    let context = context()?;
    let empty = Returning::in_tc().load()?;
    let mut columns = [Vec::new(), Vec::new()];
    for _ in 0..batches {
        for ((frame, program), column) in kind.frames.iter().zip(programs).zip(&mut columns) {
            let nothing = f64::from(run(empty.as_fd(), frame, &context)?.nanoseconds);
            let ran = run(program, frame, &context)?;
            ensure!(ran.action != SHOT, "{} was dropped", kind.packet);
            column.push(f64::from(ran.nanoseconds) - nothing);
        }
    }
    let [from_workload, to_workload] = columns.map(Spread::of);
    Ok(Bypass { packet: kind.packet, has_flow: kind.has_flow, from_workload, to_workload })
}

fn kinds(net: &TwoHosts) -> Result<Vec<Kind>> {
    let ends = |family| -> Result<_> {
        Ok((end(&net.client, family, ASKER)?, end(&net.server, family, SERVICE)?))
    };
    let ((here4, there4), (here6, there6)) = (ends(Family::V4)?, ends(Family::V6)?);
    let datagrams =
        |here: &End, there: &End| [udp(here, there, &[b'x'; 64]), udp(there, here, &[b'x'; 64])];
    let asks = |from: &End, to: &End| icmp(from, to, SOLICITATION, 0, &to.octets());
    let arps = |from: &End| Ok::<_, anyhow::Error>(arp(from, (from.mac, v4(from)?), REQUEST));
    let kind = |packet, has_flow, frames| Kind { packet, has_flow, frames };
    Ok(vec![
        kind("UDP over IPv4", true, datagrams(&here4, &there4)),
        kind("UDP over IPv6", true, datagrams(&here6, &there6)),
        kind("ARP", false, [arps(&here4)?, arps(&there4)?]),
        kind("neighbour solicitation", false, [asks(&here6, &there6), asks(&there6, &here6)]),
    ])
}

fn end(host: &Host, family: Family, port: u16) -> Result<End> {
    Ok(End { mac: link_address(host, INTERFACE)?, address: host.address(family), port })
}

fn v4(end: &End) -> Result<Ipv4Addr> {
    match end.address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("{address} is not of IPv4"),
    }
}
