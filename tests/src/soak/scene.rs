//! Hosts and daemons: a caller behind a wire, and on a bridge the server, somebody whom the server's policy denies, and
//! somebody without an identity.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use enforcer_user::control::protocol::StatusReport;

use super::nodes::Nodes;
use super::weather::Weather;
use crate::accounting::{Account, Books};
use crate::config::{Config, NetworkRule, Workload};
use crate::enforcer::{Counters, Enforcer};
use crate::host::{Family, Host};
use crate::load::prepare_client;
use crate::mounted::Mounted;
use crate::policy;
use crate::scenario::NAMESPACE;
use crate::tcp::{Server, Service};
use crate::topology::{INTERFACE, ThreeHosts, configure, link, near, reachable};
use crate::udp::Responder;
use crate::wire::Wire;

/// Where short calls go.
pub const CALLS: u16 = 8080;
/// Where streams go.
pub const STREAMS: u16 = 8081;
/// Where nobody who is permitted goes.
pub const FORBIDDEN: u16 = 8082;
/// Where datagrams go.
pub const DATAGRAMS: u16 = 53;
/// Credentials are made anew at half of it.
const CREDENTIAL_SECONDS: u64 = 60;
/// The disk of the server's daemon.
const DISK_KIBIBYTES: u32 = 512;
/// How long flows that are over, and calls that came to nothing, may take to be cleared away.
const CLEARED: Duration = Duration::from_mins(5);
/// Pairs that may be known at the end: for each of two peers, the last two credentials of both.
const PEERS: u64 = 8;
/// Answers that may be cached at the end: a few for each pair.
const VERDICTS: u64 = 4 * PEERS;
/// The last byte of the caller's address.
const CALLER: u8 = 4;

/// Everything that traffic runs between. Dropped in this order: daemons before hosts.
#[derive(Debug)]
pub struct Scene {
    /// The caller's daemon and the server's.
    pub daemons: [Enforcer; 2],
    _denied: Enforcer,
    /// The certificates of both.
    pub nodes: Nodes,
    /// What serves at [`FORBIDDEN`].
    pub forbidden: Server,
    _servers: [Server; 2],
    /// What answers datagrams.
    pub responder: Responder,
    /// What the wire does.
    pub weather: Arc<Weather>,
    _wire: Wire,
    /// The host of the first daemon.
    pub caller: Host,
    /// `server` is the host of the second daemon, `client` has an identity that it denies, `other` has none.
    pub net: ThreeHosts,
    /// Where the server's daemon remembers its peers.
    pub disk: Mounted,
}

impl Scene {
    /// Starts all. Random loss begins at `seed`.
    pub fn start(seed: u64) -> Result<Self> {
        let net = ThreeHosts::new()?;
        let (caller, wire) = behind_wire(&net)?;
        let disk = Mounted::small_disk(DISK_KIBIBYTES)?;
        let configs = Configs::new()?;
        let mut at_server = Enforcer::prepare_at(&net.server, &configs.server, |place| {
            disk.path().clone_into(&mut place.run_dir);
        })?;
        at_server.launch()?;
        Ok(Self {
            daemons: [Enforcer::start(&caller, &configs.caller)?, at_server],
            _denied: Enforcer::start(&net.client, &configs.denied)?,
            nodes: configs.nodes,
            forbidden: Server::start(&net.server, FORBIDDEN, &Service::Echo)?,
            _servers: [
                Server::start_threads(&net.server, CALLS, &Service::OneByte, 4)?,
                Server::start(&net.server, STREAMS, &Service::Echo)?,
            ],
            responder: Responder::start(&net.server, DATAGRAMS)?,
            weather: Weather::over(&wire, seed),
            _wire: wire,
            caller,
            net,
            disk,
        })
    }

    /// A port of the server.
    pub fn server(&self, family: Family, port: u16) -> SocketAddr {
        self.net.server.at(family, port)
    }

    /// The policy of both ends. `generation` makes each text another, of the same meaning.
    pub fn policy(generation: u64) -> String {
        format!("// {generation}\n{}", policy::allow(&caller(), &server()))
    }

    /// Begins to count packets at the caller and the server.
    pub fn open_books(&self) -> Result<Books> {
        Books::open([&self.caller, &self.net.server], INTERFACE, &|side| self.counters(side))
    }

    /// Stops to count.
    pub fn close_books(&self, books: &Books) -> Result<[Account; 2]> {
        books.close(&|side| self.counters(side))
    }

    fn counters(&self, side: usize) -> Result<Counters> {
        self.daemons[side].counters()
    }

    /// Waits until nothing of the traffic, which has ended, is in the maps any more. Returns what is left.
    pub fn wait_empty(&self) -> Result<[StatusReport; 2]> {
        let deadline = Instant::now() + CLEARED;
        loop {
            let status: [StatusReport; 2] =
                [self.daemons[0].ask(&["status"])?, self.daemons[1].ask(&["status"])?];
            if status.iter().all(is_empty) {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "maps are not empty {CLEARED:?} behind the last connection (flows and half-open 0, peers {PEERS} and verdicts \
                 {VERDICTS} at most): {status:?}"
            );
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

fn is_empty(status: &StatusReport) -> bool {
    status.flows == 0
        && status.attempts == 0
        && status.peers <= PEERS
        && status.verdicts <= VERDICTS
}

/// A host whose only way to the bridge is a wire.
fn behind_wire(net: &ThreeHosts) -> Result<(Host, Wire)> {
    let [caller, middle] = [Host::new("caller")?, Host::new("wire")?];
    link(&caller, INTERFACE, &middle, "client")?;
    link(&net.switch, "wire", &middle, "server")?;
    net.switch.ip("link set wire master br0")?;
    net.switch.ip("link set wire up")?;
    configure(&caller, INTERFACE, near(CALLER))?;
    // An address that the kernel takes away with the link would be lost to the workload too.
    caller.sysctl(&format!("ipv6/conf/{INTERFACE}/keep_addr_on_down"), "1")?;
    prepare_client(&caller)?;
    let wire = Wire::between(middle)?;
    reachable(&caller, &net.server)?;
    Ok((caller, wire))
}

fn caller() -> Workload {
    Workload::own(NAMESPACE, "caller")
}

fn server() -> Workload {
    Workload::own(NAMESPACE, "server")
}

struct Configs {
    caller: Config,
    server: Config,
    denied: Config,
    nodes: Nodes,
}

impl Configs {
    fn new() -> Result<Self> {
        let mut nodes = Nodes::new()?;
        let policy = Scene::policy(0);
        let mut node = |workload: Workload, policy: &str| {
            let keys = nodes.add(&workload.spiffe_id().replace(['/', ':'], "-"), NAMESPACE)?;
            let mut config = Config::new(keys, workload, policy);
            config.credential_lifetime_seconds = CREDENTIAL_SECONDS;
            config.log_level = "info";
            anyhow::Ok(config)
        };
        let [to, from] = [near(2), near(CALLER)];
        let (to, from) = (to.v4.to_string() + "/32", from.v4.to_string() + "/32");
        let egress = NetworkRule::egress("names", "udp", &to, DATAGRAMS);
        let ingress = NetworkRule::ingress("names", "udp", &from, DATAGRAMS);
        Ok(Self {
            caller: node(caller(), &policy)?.rule(egress),
            server: node(server(), &policy)?.rule(ingress),
            denied: node(Workload::own(NAMESPACE, "denied"), policy::ALLOW_ALL)?,
            nodes,
        })
    }
}
