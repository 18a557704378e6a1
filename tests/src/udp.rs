//! UDP: a tiny responder, such as a name server, and one question to it.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

use crate::host::Host;

/// How often a waiting responder looks whether it was dropped.
const TICK: Duration = Duration::from_millis(20);

/// Answers every datagram with the same bytes, reversed, so that an answer cannot be a mirror of the question.
#[derive(Debug)]
pub struct Responder {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Binds `port` of all addresses of the host, both families.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let socket = host.run(|| bind(Ipv6Addr::UNSPECIFIED.into(), port))?;
        socket.set_read_timeout(Some(TICK))?;
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&received));
        let thread = std::thread::spawn(move || respond(&socket, &stopped, &counter));
        Ok(Self { stop, received, thread: Some(thread) })
    }

    /// Datagrams that reached the socket.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("a UDP responder thread panicked");
        }
    }
}

fn respond(socket: &UdpSocket, stop: &AtomicBool, received: &AtomicU64) {
    let mut buffer = [0; 1500];
    while !stop.load(Ordering::Acquire) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        received.fetch_add(1, Ordering::AcqRel);
        buffer[..length].reverse();
        // An answer that cannot be sent shows as a question without answer.
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// Asks a [`Responder`] once. None when no answer came in time or the question was refused.
pub fn ask(host: &Host, to: SocketAddr, timeout: Duration) -> Result<Option<Vec<u8>>> {
    let any =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Asker::new(host, any, to, timeout)?.ask()
}

/// Asks a [`Responder`] from one address and port.
#[derive(Debug)]
pub struct Asker(UdpSocket);

impl Asker {
    /// Binds an address of the host and a free port. With `IP_TRANSPARENT` it sends from there also once the
    /// host has lost the address.
    pub fn new(host: &Host, from: IpAddr, to: SocketAddr, timeout: Duration) -> Result<Self> {
        let socket = host.run(|| bind(from, 0))?;
        setsockopt(&socket, sockopt::IpTransparent, &true).context("cannot set IP_TRANSPARENT")?;
        socket.set_read_timeout(Some(timeout))?;
        socket.connect(to)?;
        Ok(Self(socket))
    }

    /// The answer; none if none came in time or the question was refused.
    pub fn ask(&self) -> Result<Option<Vec<u8>>> {
        const QUESTION: &[u8] = b"which beer today?";
        let mut answer = [0; 1500];
        match self.0.send(QUESTION).and_then(|_| self.0.recv(&mut answer)) {
            Ok(length) => Ok(Some(answer[..length].iter().rev().copied().collect())),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock
                | ErrorKind::TimedOut
                | ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::PermissionDenied => Ok(None),
                _ => Err(error).context("asking over UDP"),
            },
        }
    }
}

fn bind(address: IpAddr, port: u16) -> Result<UdpSocket> {
    UdpSocket::bind((address, port)).with_context(|| format!("cannot bind UDP port {port}"))
}
