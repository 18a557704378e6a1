//! A server and a client with their daemons, and somebody without an identity who must hear nothing, whatever happens to
//! the daemons.

use anyhow::Result;

use crate::config::Place;
use crate::enforcer::Enforcer;
use crate::host::Family;
use crate::interactive::Interactive;
use crate::intruder::Intruder;
use crate::scenario::{Contact, PORT, Setup, contact};
use crate::tcp::{Server, Service};
use crate::topology::ThreeHosts;

/// All of them, and what listens at [`PORT`] of the server. Dropped in this order: daemons before hosts.
#[derive(Debug)]
pub struct Onlooked {
    /// The server's daemon.
    pub server: Enforcer,
    /// The client's daemon.
    pub client: Enforcer,
    /// What listens.
    pub echo: Server,
    /// The hosts; `other` has no identity.
    pub net: ThreeHosts,
}

impl Onlooked {
    /// With a pre-shared key; the client may call the server.
    pub fn start() -> Result<Self> {
        Self::start_at(&Setup::psk()?, |_| ())
    }

    /// With the server's daemon in another place than usual.
    pub fn start_at(setup: &Setup, change: impl FnOnce(&mut Place)) -> Result<Self> {
        let net = ThreeHosts::new()?;
        let mut server = Enforcer::prepare_at(&net.server, &setup.server, change)?;
        server.launch()?;
        Ok(Self {
            server,
            client: Enforcer::start(&net.client, &setup.client)?,
            echo: Server::start(&net.server, PORT, &Service::Echo)?,
            net,
        })
    }

    /// A connection of the client.
    pub fn open(&self) -> Result<Interactive> {
        Interactive::open(&self.net.client, self.net.server.at(Family::V4, PORT))
    }

    /// Has the one without an identity call all the time.
    #[must_use]
    pub fn intruder(&self) -> Intruder {
        Intruder::start(&self.net.other, self.net.server.at(Family::V4, PORT))
    }

    /// What comes of a call of the client.
    pub fn contact(&self) -> Result<Contact> {
        contact(&self.net.client, self.net.server.at(Family::V4, PORT), &self.echo)
    }
}
