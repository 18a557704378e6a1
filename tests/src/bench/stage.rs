//! The arrangements that are compared: two hosts on one veth each, ready when made.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::side_by_side::companion::Companion;
use super::side_by_side::queue::{self, Queued};
use super::side_by_side::{proxies, tunnel};
use crate::config::Config;
use crate::enforcer::Enforcer;
use crate::host::{Family, Host};
use crate::load::prepare_client;
use crate::policy;
use crate::scenario::{self, Setup};
use crate::topology::TwoHosts;

/// The first port of the servers; each measurement takes the next, so that no connection meets another's
/// TIME_WAIT.
pub const FIRST_PORT: u16 = 20_000;
/// The last port that the firewall lets through.
const LAST_PORT: u16 = 29_999;
/// The least port of clients: above those of the servers.
const CLIENT_PORTS: &str = "30000 65535";
/// Rules that the policy holds besides the one that is used.
const OTHER_RULES: usize = 99;
/// Entries of each flow table. A flow of who closed first stays for 5 s, in which a fast machine makes more connections than the
/// default table holds.
const FLOWS: u64 = 262_144;

/// What stands between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// Nothing.
    Native,
    /// An nftables rule set with connection tracking on both hosts, default drop.
    Nftables,
    /// An enforcer on both hosts.
    Enforced,
    /// A program on each host that accepts each new connection by NFQUEUE.
    NfqueueNew,
    /// The same with each packet.
    NfqueueAll,
    /// A pair of proxies that speak mutual TLS with each other.
    MutualTls,
    /// A tunnel of WireGuard in userspace.
    Wireguard,
}

impl Setting {
    /// Those of every run.
    pub const ALL: [Self; 3] = [Self::Native, Self::Nftables, Self::Enforced];
    /// What else a user would pick, side by side with them.
    pub const OTHERS: [Self; 4] =
        [Self::NfqueueNew, Self::NfqueueAll, Self::MutualTls, Self::Wireguard];

    /// Its name, as in the JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Nftables => "nftables",
            Self::Enforced => "enforced",
            Self::NfqueueNew => "nfqueue_new",
            Self::NfqueueAll => "nfqueue_all",
            Self::MutualTls => "mutual_tls",
            Self::Wireguard => "wireguard",
        }
    }
}

/// Two hosts and what stands between them.
#[derive(Debug)]
pub struct Stage {
    /// What stands between them.
    pub setting: Setting,
    /// Client's and server's, ended before the hosts go.
    daemons: Option<[Enforcer; 2]>,
    /// Programs of others, ended before the hosts go.
    _companions: Vec<Companion>,
    /// The hosts.
    pub net: TwoHosts,
}

impl Stage {
    /// Makes the hosts and puts in place what the setting is.
    pub fn new(setting: Setting) -> Result<Self> {
        let net = TwoHosts::new()?;
        let daemons = furnish(setting, Setup::pki()?, &net.client, &net.server)?;
        let companions = match setting {
            Setting::Native | Setting::Nftables | Setting::Enforced => Vec::new(),
            Setting::NfqueueNew => queue::stand(&net, Queued::New)?,
            Setting::NfqueueAll => queue::stand(&net, Queued::All)?,
            Setting::MutualTls => proxies::stand(&net)?,
            Setting::Wireguard => tunnel::stand(&net)?,
        };
        Ok(Self { setting, daemons, _companions: companions, net })
    }

    /// Client's and server's daemon; an error where there is none.
    pub fn daemons(&self) -> Result<&[Enforcer; 2]> {
        self.daemons.as_ref().with_context(|| format!("no enforcer when {}", self.setting.name()))
    }

    /// Where the client reaches a port of the server.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        match self.setting {
            Setting::MutualTls => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            Setting::Wireguard => SocketAddr::new(tunnel::SERVER.into(), port),
            _ => self.net.server.at(Family::V4, port),
        }
    }
}

/// One of each.
#[derive(Debug)]
pub struct Stages([Stage; 3]);

impl Stages {
    /// Makes them.
    pub fn new() -> Result<Self> {
        let [native, nftables, enforced] = Setting::ALL;
        Ok(Self([Stage::new(native)?, Stage::new(nftables)?, Stage::new(enforced)?]))
    }

    /// The one without anything.
    #[must_use]
    pub fn native(&self) -> &Stage {
        &self.0[0]
    }

    /// The one with enforcers.
    #[must_use]
    pub fn enforced(&self) -> &Stage {
        &self.0[2]
    }

    /// All, beginning with another each time.
    pub fn from(&self, turn: usize) -> impl Iterator<Item = &Stage> {
        self.0.iter().cycle().skip(turn % 3).take(3)
    }
}

/// Prepares the client for many connections, and puts between both hosts what the setting is; enforcers have the keys of
/// `setup`. Returns the daemons, where it has some: the client's and the server's.
pub(super) fn furnish(
    setting: Setting,
    setup: Setup,
    client: &Host,
    server: &Host,
) -> Result<Option<[Enforcer; 2]>> {
    prepare_client(client)?;
    client.sysctl("ipv4/ip_local_port_range", CLIENT_PORTS)?;
    match setting {
        Setting::Native
        | Setting::NfqueueNew
        | Setting::NfqueueAll
        | Setting::MutualTls
        | Setting::Wireguard => Ok(None),
        Setting::Nftables => {
            firewall(client)?;
            firewall(server)?;
            Ok(None)
        }
        Setting::Enforced => enforce_with(setup, client, server).map(Some),
    }
}

/// Starts an enforcer on both hosts, as it would be run: certificates, a hundred rules, ordinary log.
pub fn enforce(client: &Host, server: &Host) -> Result<[Enforcer; 2]> {
    enforce_with(Setup::pki()?, client, server)
}

/// The same with these keys.
pub(super) fn enforce_with(setup: Setup, client: &Host, server: &Host) -> Result<[Enforcer; 2]> {
    let rules = policy();
    let setup = setup.client_policy(&rules).server_policy(&rules);
    let ordinary = |mut config: Config| {
        config.log_level = "info";
        config.limits.insert("flows".to_owned(), FLOWS);
        config
    };
    Ok([
        Enforcer::start(client, &ordinary(setup.client))?,
        Enforcer::start(server, &ordinary(setup.server))?,
    ])
}

/// The rule that is used, among others.
fn policy() -> String {
    let others = (0..OTHER_RULES)
        .map(|n| policy::allow_namespace(&format!("/acme/team-{n}"), &format!("/acme/shop-{n}")));
    let used = policy::allow(&scenario::client(), &scenario::server());
    others.chain([used]).collect::<Vec<_>>().join("\n")
}

/// A firewall on a host: policy drop, the servers' ports open.
fn firewall(host: &Host) -> Result<()> {
    let accept =
        format!("ct state established,related accept; tcp dport {FIRST_PORT}-{LAST_PORT} accept");
    let chain = |hook: &str| {
        format!("chain {hook} {{ type filter hook {hook} priority 0; policy drop; {accept}; }}")
    };
    host.nft(&format!("table ip rules {{\n{}\n{}\n}}", chain("input"), chain("output")))?;
    // Or minutes of closed connections fill the table of connections, and it drops what is new.
    host.sysctl("netfilter/nf_conntrack_tcp_timeout_time_wait", "10")
}
