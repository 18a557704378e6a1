//! The raw socket of a probe.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv,
    send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::segment::{Answer, Ends, Shape, answer, syn};

/// How often a SYN is sent before silence counts.
const TRIES: u32 = 3;
/// The most bytes of a packet that are looked at.
const PACKET_BYTES: usize = 2048;

/// A raw TCP socket towards one host.
pub(super) struct Prober {
    raw: OwnedFd,
    source: IpAddr,
    remote: SocketAddr,
}

impl Prober {
    /// Opens it; needs root (CAP_NET_RAW).
    pub(super) fn open(remote: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { raw: raw_socket(remote)?, source: source_towards(remote)?, remote })
    }

    /// Sends a SYN of this shape until it is answered; `None` is silence.
    pub(super) fn ask(&self, shape: Shape, patience: Duration) -> anyhow::Result<Option<Answer>> {
        // A port of its own for each question: no answer is taken for another's. It is never connected, so
        // the kernel answers a SYN-ACK to it with a reset, and nothing stays half-open over there.
        let port = TcpListener::bind(SocketAddr::new(self.source, 0))
            .with_context(|| format!("cannot take a port on {}", self.source))?;
        let sequence = getrandom::u32().context("no randomness for a sequence number")?;
        let ends = Ends { local: port.local_addr()?, remote: self.remote, sequence };
        let segment = syn(&ends, shape);
        for _ in 0..TRIES {
            send(self.raw.as_raw_fd(), &segment, MsgFlags::empty())
                .with_context(|| format!("cannot send to {}", self.remote.ip()))?;
            if let Some(answer) = self.listen(&ends, Instant::now() + patience)? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    fn listen(&self, ends: &Ends, deadline: Instant) -> anyhow::Result<Option<Answer>> {
        let mut packet = [0; PACKET_BYTES];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let micros = i64::try_from(left.as_micros().max(1)).unwrap_or(i64::MAX);
            let timeout = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
            setsockopt(&self.raw, sockopt::ReceiveTimeout, &timeout).context("raw socket")?;
            match recv(self.raw.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Ok(bytes) => {
                    let found = tcp(&packet[..bytes], self.remote).and_then(|s| answer(ends, s));
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => bail!("{}: {error}", self.remote),
            }
        }
    }
}

/// The address this host would use towards another.
fn source_towards(remote: SocketAddr) -> anyhow::Result<IpAddr> {
    let any = if remote.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context("cannot open a socket")?;
    socket.connect(remote).with_context(|| format!("no route to {}", remote.ip()))?;
    Ok(socket.local_addr()?.ip())
}

fn raw_socket(remote: SocketAddr) -> anyhow::Result<OwnedFd> {
    let family = if remote.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let opened = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp);
    let raw = match opened {
        Err(Errno::EPERM | Errno::EACCES) => {
            bail!("a probe sends packets of its own making: run it as root (CAP_NET_RAW)")
        }
        other => other.context("cannot open a raw socket")?,
    };
    // A connected raw socket hears only this host. Its port means nothing to it, and IPv6 refuses one.
    let host = SockaddrStorage::from(SocketAddr::new(remote.ip(), 0));
    connect(raw.as_raw_fd(), &host).with_context(|| format!("no route to {}", remote.ip()))?;
    Ok(raw)
}

/// The TCP segment of a received packet: IPv4 raw sockets give the IP header too (raw(7)), IPv6 ones do not.
fn tcp(packet: &[u8], remote: SocketAddr) -> Option<&[u8]> {
    if remote.is_ipv6() {
        return Some(packet);
    }
    let header = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(header..)
}
