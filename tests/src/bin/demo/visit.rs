//! Visits to the bar: what a client gets, what it should get, and what the server saw of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_tests::capture::Capture;
use enforcer_tests::host::{Family, Host};
use enforcer_tests::tcp::{Outcome, PATIENCE, SILENCE, Server, dial};
use enforcer_tests::topology::{INTERFACE, ThreeHosts};

use crate::show::micros;
use crate::{BEER, PORT};

/// The server that is visited.
pub struct Bar<'a> {
    net: &'a ThreeHosts,
    server: Server,
}

/// What a client got.
struct Visit {
    beer: Option<String>,
    latency: Duration,
    /// Connections that the server's socket handed to its application meanwhile.
    seen: u64,
}

impl<'a> Bar<'a> {
    /// A bar on the network's server.
    pub fn open(net: &'a ThreeHosts, server: Server) -> Self {
        Self { net, server }
    }

    /// A visit that must end with a beer; how long the connect took.
    pub fn serves(&self, who: &str, from: &Host) -> Result<Duration> {
        let visit = self.visit(from)?;
        let beer = visit.beer.as_deref();
        println!("  {who:<8} {:<26} {}", connected(visit.latency), beer.unwrap_or("nothing"));
        ensure!(beer == Some(BEER), "{who} got {beer:?}, expected {BEER:?}");
        ensure!(visit.seen == 1, "the server saw {} connections of {who}, expected 1", visit.seen);
        Ok(visit.latency)
    }

    /// A visit that must hear nothing: the server sees no connection, and sends no packet to the visitor.
    pub fn ignores(&self, who: &str, from: &Host, why: &str) -> Result<()> {
        let at_server = Capture::start(&self.net.server, INTERFACE)?;
        let visit = self.visit(from)?;
        let got = visit.beer.as_deref().unwrap_or("nothing");
        println!("  {who:<8} {:<26} {got}: {why}", format!("waited {:.1?}", visit.latency));
        ensure!(visit.beer.is_none(), "{who} got {got:?}, expected nothing: {why}");
        ensure!(visit.seen == 0, "the server saw {} connections of {who}", visit.seen);
        let given_up = visit.latency >= SILENCE;
        ensure!(given_up, "{who} got an answer after {:?}, expected silence", visit.latency);
        at_server.assert_silent_towards(from.address(Family::V4))
    }

    fn visit(&self, from: &Host) -> Result<Visit> {
        let before = self.server.accepted();
        let dialled = dial(from, self.net.server.at(Family::V4, PORT), SILENCE)?;
        let latency = dialled.latency;
        let beer = match dialled.outcome {
            Outcome::Connected(stream) => {
                let beer = std::io::read_to_string(stream).context("the line breaks off")?;
                self.wait_accepted(before)?;
                Some(beer.trim_end().to_owned())
            }
            Outcome::TimedOut | Outcome::Refused | Outcome::Rejected(_) => None,
        };
        Ok(Visit { beer, latency, seen: self.server.accepted() - before })
    }

    fn wait_accepted(&self, before: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.server.accepted() == before {
            ensure!(Instant::now() < deadline, "the server never saw the connection");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn connected(latency: Duration) -> String {
    format!("connected in {}", micros(latency))
}
