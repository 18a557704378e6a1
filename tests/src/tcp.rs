//! TCP servers and clients on hosts: connect with its outcome and latency, echo, one line, bulk.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::bulk::{hash_to_end, write_pattern};
use crate::host::Host;

/// Long enough for every exchange that must succeed, a retransmission or two included.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long silence must last to count as silence: past the first two SYN retransmissions (1 s, 3 s).
pub const SILENCE: Duration = Duration::from_millis(3500);
/// A connection that is open and idle is given up after this.
const IDLE: Duration = Duration::from_mins(10);

/// How a connect ended.
#[derive(Debug)]
pub enum Outcome {
    /// The handshake completed.
    Connected(TcpStream),
    /// A RST answered, or the local stack refused.
    Refused,
    /// ICMP said no, or there is no route; the operating system's word for it.
    Rejected(ErrorKind),
    /// Nothing came back in the time given.
    TimedOut,
}

/// The outcome without its stream, for comparing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// A connection.
    Connection,
    /// A refusal: RST or ICMP.
    Refusal,
    /// Nothing within the time given.
    Silence,
}

/// A connect with the time it took.
#[derive(Debug)]
pub struct Dial {
    /// From the call of connect until its end.
    pub latency: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl Dial {
    /// The outcome without its stream.
    #[must_use]
    pub fn got(&self) -> Got {
        match self.outcome {
            Outcome::Connected(_) => Got::Connection,
            Outcome::Refused | Outcome::Rejected(_) => Got::Refusal,
            Outcome::TimedOut => Got::Silence,
        }
    }

    /// The stream of a completed handshake; anything else is an error.
    pub fn stream(self) -> Result<TcpStream> {
        match self.outcome {
            Outcome::Connected(stream) => Ok(stream),
            other => bail!("expected a connection, got {other:?} after {:?}", self.latency),
        }
    }
}

/// Connects from a host. A failure of the harness is an error; a refused connection is not.
pub fn dial(host: &Host, to: SocketAddr, timeout: Duration) -> Result<Dial> {
    host.run(|| dial_here(to, timeout))
}

/// Connects from the namespace of the calling thread.
pub fn dial_here(to: SocketAddr, timeout: Duration) -> Result<Dial> {
    let start = Instant::now();
    let result = TcpStream::connect_timeout(&to, timeout);
    let latency = start.elapsed();
    let outcome = match result {
        Ok(stream) => {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            Outcome::Connected(stream)
        }
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Outcome::Refused,
            ErrorKind::TimedOut => Outcome::TimedOut,
            kind @ (ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied) => Outcome::Rejected(kind),
            _ => return Err(error).with_context(|| format!("connecting to {to}")),
        },
    };
    Ok(Dial { latency, outcome })
}

/// What a server does with each connection.
#[derive(Debug, Clone)]
pub enum Service {
    /// Sends back what it reads.
    Echo,
    /// Sends one line and closes.
    Line(String),
    /// Reads one byte, writes one byte and waits for the close, on the accepting thread: for connection rates.
    OneByte,
    /// Reads to the end of the stream, then answers with the 32 bytes of its BLAKE3 hash.
    Digest,
    /// Sends this many bytes of [`crate::bulk::pattern`] and closes.
    Source(u64),
}

/// How an accepted connection ended, as the server saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed,
    /// By a RST.
    Reset,
    /// By any other error.
    Failed(ErrorKind),
}

/// A listening server with its threads; stops when dropped.
#[derive(Debug)]
pub struct Server {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptors: Vec<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicU64,
    ends: Mutex<Vec<End>>,
}

/// The last ends of connections that are kept.
const MAX_ENDS: usize = 65_536;

impl Server {
    /// Listens on `port` of all addresses of the host, both families.
    pub fn start(host: &Host, port: u16, service: &Service) -> Result<Self> {
        Self::start_threads(host, port, service, 1)
    }

    /// The same with several accepting threads, for [`Service::OneByte`].
    pub fn start_threads(
        host: &Host,
        port: u16,
        service: &Service,
        threads: usize,
    ) -> Result<Self> {
        let any = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = host.run(|| TcpListener::bind(any).context("cannot listen"))?;
        let address = listener.local_addr()?;
        let listener = Arc::new(listener);
        let shared = Arc::new(Shared::default());
        let acceptors = (0..threads.max(1))
            .map(|_| {
                let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
                let service = service.clone();
                std::thread::spawn(move || accept_loop(&listener, &shared, &service))
            })
            .collect();
        Ok(Self { listener, address, shared, acceptors })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that the socket has handed to the application so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// How the connections that are over ended, in that order; the newest 65,536.
    #[must_use]
    pub fn ends(&self) -> Vec<End> {
        self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `count` connections have ended and returns how.
    pub fn wait_ends(&self, count: usize, timeout: Duration) -> Result<Vec<End>> {
        let deadline = Instant::now() + timeout;
        loop {
            let ends = self.ends();
            if ends.len() >= count {
                return Ok(ends);
            }
            ensure!(
                Instant::now() < deadline,
                "{} of {count} connections ended within {timeout:?}: {ends:?}",
                ends.len()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd;
        self.shared.stop.store(true, Ordering::Release);
        // On Linux this wakes every thread that waits in accept, with EINVAL.
        let fd = self.listener.as_raw_fd();
        if nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both).is_ok() {
            for acceptor in self.acceptors.drain(..) {
                if !matches!(acceptor.join(), Ok(Ok(()))) {
                    eprintln!("an accepting thread of {} failed", self.address);
                }
            }
        }
    }
}

fn accept_loop(listener: &TcpListener, shared: &Arc<Shared>, service: &Service) -> Result<()> {
    loop {
        let accepted = listener.accept();
        if shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // The client may be gone before the connection is taken from the queue.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error).context("accept"),
        };
        shared.accepted.fetch_add(1, Ordering::AcqRel);
        if matches!(service, Service::OneByte) {
            shared.note(&serve(stream, service));
        } else {
            let (shared, service) = (Arc::clone(shared), service.clone());
            std::thread::spawn(move || shared.note(&serve(stream, &service)));
        }
    }
}

impl Shared {
    fn note(&self, result: &io::Result<()>) {
        let end = match result {
            Ok(()) => End::Closed,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
            Err(error) => End::Failed(error.kind()),
        };
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() < MAX_ENDS {
            ends.push(end);
        }
    }
}

fn serve(mut stream: TcpStream, service: &Service) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    match service {
        Service::Echo => io::copy(&mut stream.try_clone()?, &mut stream).map(drop),
        Service::Line(line) => {
            stream.write_all(format!("{line}\n").as_bytes())?;
            finish(&mut stream)
        }
        Service::OneByte => {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
            stream.read(&mut byte).map(drop)
        }
        Service::Digest => {
            let (hash, _) = hash_to_end(&mut stream)?;
            stream.write_all(hash.as_bytes())
        }
        Service::Source(bytes) => {
            write_pattern(&mut stream, *bytes)?;
            finish(&mut stream)
        }
    }
}

/// Closes in an order that cannot turn into a RST: first our FIN, then wait for theirs.
fn finish(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    io::copy(stream, &mut io::sink()).map(drop)
}

/// Connects, reads one line and closes.
pub fn read_line(host: &Host, to: SocketAddr, timeout: Duration) -> Result<String> {
    let mut stream = dial(host, to, timeout)?.stream()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("reading a line from {to}"))?;
    Ok(text.trim_end().to_owned())
}
