//! The arrangement most tests share: a client, a server, a daemon on each, and who may call whom.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::accounting::{Account, Books};
use crate::config::{Config, Mode, Workload};
use crate::enforcer::{Counters, Enforcer};
use crate::host::{Family, Host};
use crate::keys::Keys;
use crate::policy;
use crate::tcp::{Got, PATIENCE, SILENCE, Server, dial};
use crate::topology::{INTERFACE, OneNode, TwoHosts};
use crate::twin::Enforcement;

/// The namespace of client and server.
pub const NAMESPACE: &str = "/acme/prod";
/// The port servers listen on unless a test needs another.
pub const PORT: u16 = 8080;
/// Why tests of flows that a daemon cuts keep no books: the resets that it sends itself are in no counter of
/// the kernel's.
pub const CUT_BY_DAEMON: &str = "the daemon's own resets are in no counter of the datapath";
/// How long a server is watched after a connect that failed.
const GRACE: Duration = Duration::from_millis(200);

/// The caller of most tests.
#[must_use]
pub fn client() -> Workload {
    Workload::own(NAMESPACE, "client")
}

/// The callee of most tests.
#[must_use]
pub fn server() -> Workload {
    Workload::own(NAMESPACE, "server")
}

/// A node with a pre-shared key and both its workloads behind veths, under one policy.
pub fn one_node(net: &OneNode, policy: &str) -> Result<Config> {
    let workload = |host: &Host, port: &str| {
        let addresses = Family::BOTH.map(|family| host.address(family).to_string());
        Workload::behind(NAMESPACE, host.label(), port, &addresses)
    };
    let keys = Keys::psk()?.node("node", NAMESPACE)?;
    let mut config = Config::new(keys, workload(&net.a, OneNode::TO_A), policy);
    config.workloads.push(workload(&net.b, OneNode::TO_B));
    Ok(config)
}

/// Configurations of both ends, to be changed before the start.
#[derive(Debug)]
pub struct Setup {
    /// Where both nodes' keys come from.
    pub keys: Keys,
    /// The client's node.
    pub client: Config,
    /// The server's node.
    pub server: Config,
}

impl Setup {
    /// Both nodes hold one pre-shared key; the client may call the server.
    pub fn psk() -> Result<Self> {
        Self::with(Keys::psk()?)
    }

    /// Both nodes are certified by one authority for [`NAMESPACE`]; the client may call the server.
    pub fn pki() -> Result<Self> {
        Self::with(Keys::pki()?)
    }

    /// Both nodes with keys of this kind; the client may call the server.
    pub fn with(keys: Keys) -> Result<Self> {
        let policy = policy::allow(&client(), &server());
        Ok(Self {
            client: Config::new(keys.node("client-node", NAMESPACE)?, client(), &policy),
            server: Config::new(keys.node("server-node", NAMESPACE)?, server(), &policy),
            keys,
        })
    }

    /// Replaces the client's policy.
    #[must_use]
    pub fn client_policy(mut self, text: &str) -> Self {
        text.clone_into(&mut self.client.policy);
        self
    }

    /// Replaces the server's policy.
    #[must_use]
    pub fn server_policy(mut self, text: &str) -> Self {
        text.clone_into(&mut self.server.policy);
        self
    }

    /// Starts the daemons on two hosts.
    pub fn start(self, client: &Host, server: &Host, enforcement: Enforcement) -> Result<Daemons> {
        let mode = match enforcement {
            Enforcement::Enforced => Mode::Enforce,
            Enforcement::Observed => Mode::Observe,
            Enforcement::Absent => {
                return Ok(Daemons { client: None, server: None });
            }
        };
        Ok(Daemons {
            client: Some(Enforcer::start(client, &self.client.mode(mode))?),
            server: Some(Enforcer::start(server, &self.server.mode(mode))?),
        })
    }

    /// Starts the daemons on two new hosts and opens the books of both.
    pub fn start_pair(self, enforcement: Enforcement) -> Result<Pair> {
        self.start_on(TwoHosts::new()?, enforcement)
    }

    /// The same on hosts that are there.
    pub fn start_on(self, net: TwoHosts, enforcement: Enforcement) -> Result<Pair> {
        let daemons = self.start(&net.client, &net.server, enforcement)?;
        let mut pair = Pair::new(daemons, net);
        pair.books = Some(pair.open_books()?);
        Ok(pair)
    }
}

/// The daemons of a client and a server, none without enforcement.
#[derive(Debug)]
pub struct Daemons {
    client: Option<Enforcer>,
    server: Option<Enforcer>,
}

impl Daemons {
    /// Of two that run.
    #[must_use]
    pub fn of(client: Enforcer, server: Enforcer) -> Self {
        Self { client: Some(client), server: Some(server) }
    }

    /// Those that run, the client's first.
    pub fn each(&mut self) -> impl Iterator<Item = &mut Enforcer> {
        [&mut self.client, &mut self.server].into_iter().flatten()
    }

    /// The client's daemon; an error without enforcement.
    pub fn client(&mut self) -> Result<&mut Enforcer> {
        self.client.as_mut().context("the client has no enforcer in this scenario")
    }

    /// The server's daemon; an error without enforcement.
    pub fn server(&mut self) -> Result<&mut Enforcer> {
        self.server.as_mut().context("the server has no enforcer in this scenario")
    }
}

/// Two hosts with their daemons. Dropped by a test that has not failed, it fails the test unless every packet
/// lost on either host was counted under a reason.
#[derive(Debug)]
pub struct Pair {
    books: Option<Books>,
    /// The daemons, ended before the hosts go.
    pub daemons: Daemons,
    /// The hosts.
    pub net: TwoHosts,
}

impl Pair {
    /// Without books.
    #[must_use]
    pub fn new(daemons: Daemons, net: TwoHosts) -> Self {
        Self { books: None, daemons, net }
    }

    /// The same without books, where they cannot balance for the reason given: the stack and the wire count
    /// differently, or a daemon that is away cannot be asked.
    #[must_use]
    pub fn without_books(mut self, _reason: &str) -> Self {
        self.books = None;
        self
    }

    /// Starts to count packets and drops of both hosts.
    pub fn open_books(&self) -> Result<Books> {
        Books::open([&self.net.client, &self.net.server], INTERFACE, &|side| self.counters(side))
    }

    /// Stops to count. Returns the client's and the server's account.
    pub fn close_books(&self, books: &Books) -> Result<[Account; 2]> {
        books.close(&|side| self.counters(side))
    }

    /// The counters of the client's (0) or the server's (1) enforcer, none without one.
    fn counters(&self, side: usize) -> Result<Counters> {
        let enforcer = if side == 0 { &self.daemons.client } else { &self.daemons.server };
        enforcer.as_ref().map_or_else(|| Ok(Counters::default()), Enforcer::counters)
    }
}

/// What came of one connect to a server that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// What the client got.
    pub got: Got,
    /// Whether the server's socket handed a connection to its application.
    pub seen_by_server: bool,
}

impl Contact {
    /// A connection at both ends.
    pub const MADE: Self = Self { got: Got::Connection, seen_by_server: true };
    /// A refusal that the server's application knows nothing of.
    pub const REFUSED: Self = Self { got: Got::Refusal, seen_by_server: false };
    /// No answer, and the server's application knows nothing of it.
    pub const SILENT: Self = Self { got: Got::Silence, seen_by_server: false };

    /// Whether either end believes in a connection.
    #[must_use]
    pub fn is_made(self) -> bool {
        self.got == Got::Connection || self.seen_by_server
    }
}

/// Connects once, past the first retransmissions, and looks at both ends.
pub fn contact(client: &Host, to: SocketAddr, server: &Server) -> Result<Contact> {
    let before = server.accepted();
    let dialled = dial(client, to, SILENCE)?;
    let got = dialled.got();
    let deadline = Instant::now() + if got == Got::Connection { PATIENCE } else { GRACE };
    while server.accepted() == before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(Contact { got, seen_by_server: server.accepted() > before })
}

impl Drop for Pair {
    fn drop(&mut self) {
        let Some(books) = self.books.take() else { return };
        if std::thread::panicking() {
            return;
        }
        let accounts = self.close_books(&books).expect("the books can be closed");
        for account in accounts {
            if let Err(error) = account.verify() {
                panic!("{error:#}");
            }
        }
    }
}
