//! A handshake as somebody on the path saw it, and how he plays it again.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::capture::{Capture, Direction, Flags, Segment};
use crate::custom::{Custom, Protocol};
use crate::host::{Family, Host};
use crate::raw::Forged;
use crate::tcp::PATIENCE;
use crate::topology::INTERFACE;

/// How long an answer to what is played again is waited for.
const ANSWER: Duration = Duration::from_secs(1);
/// How long the consequences are waited for.
const GRACE: Duration = Duration::from_millis(300);

/// The three segments that opened a connection, as they were on the wire of the server.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The SYN.
    pub s1: Segment,
    /// The SYN-ACK.
    pub s2: Segment,
    /// The first ACK.
    pub s3: Segment,
}

/// What the server did when it was played again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It said nothing at all.
    Nothing,
    /// It answered the SYN and said nothing else.
    Answer,
    /// It said more.
    More,
}

impl Recorded {
    /// Connects from a port of the client and closes in order, and keeps what was seen at the server.
    pub fn of(client: &Host, port: u16, server: &Host, to: SocketAddr) -> Result<Self> {
        let capture = Capture::start(server, INTERFACE)?;
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let socket = Custom::new(client, family, Protocol::Tcp)?.bound_to(port)?;
        drop(client.run(|| socket.connect(to))?);
        let of_client = move |s: &Segment| s.source.port() == port && s.destination == to;
        let is = |flags| move |s: &Segment| of_client(s) && s.flags == flags;
        let s1 = capture.wait_for("SYN", PATIENCE, is(Flags::SYN))?;
        let s3 = capture.wait_for("ACK", PATIENCE, is(Flags::ACK))?;
        let source = s1.source;
        let s2 = capture.wait_for("SYN-ACK", PATIENCE, move |s| {
            s.destination == source && s.flags == Flags::SYN_ACK
        })?;
        ensure!(s3.acknowledgement == s2.sequence.wrapping_add(1), "not one handshake: {s3:#?}");
        capture.wait_for("FIN", PATIENCE, |s| of_client(s) && s.flags.has(Flags::FIN))?;
        Ok(Self { s1, s2, s3 })
    }

    /// The SYN again, from another address and port.
    #[must_use]
    pub fn hello(&self, source: SocketAddr) -> Forged {
        Forged { source, ..Forged::replay(&self.s1) }
    }

    /// The ACK again, from another address and port and with the numbers of another handshake. Of its options only
    /// ours stays: the stack's time stamps are of another time.
    #[must_use]
    pub fn proof(&self, source: SocketAddr, acknowledged: &Segment) -> Forged {
        let bare = Forged {
            source,
            acknowledgement: acknowledged.sequence.wrapping_add(1),
            options: Vec::new(),
            ..Forged::replay(&self.s3)
        };
        match self.s3.identity() {
            Some(mac) => bare.identity(mac),
            None => bare,
        }
    }

    /// Plays it from a host in the name of `source`: the SYN, then, as soon as the server has answered, the ACK with
    /// the right numbers, and data. Returns what the server said.
    pub fn play(&self, from: &Host, source: SocketAddr, server: &Host) -> Result<Heard> {
        let capture = Capture::start(server, INTERFACE)?;
        self.hello(source).send(from)?;
        let told = |s: &Segment| s.direction == Direction::Out && s.destination == source;
        let Ok(s2) = capture.wait_for("answer", ANSWER, |s| told(s) && s.flags == Flags::SYN_ACK)
        else {
            let said = capture.segments()?.into_iter().any(|s| told(&s));
            return Ok(if said { Heard::More } else { Heard::Nothing });
        };
        let proof = self.proof(source, &s2);
        proof.send(from)?;
        Forged { options: Vec::new(), ..proof }.payload(b"played again").send(from)?;
        std::thread::sleep(GRACE);
        let said = capture.segments().context("what the server said")?;
        let more = said.iter().any(|s| told(s) && s.flags != Flags::SYN_ACK);
        Ok(if more { Heard::More } else { Heard::Answer })
    }
}
