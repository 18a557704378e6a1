//! Floods: prepared frames, sent over and over at full speed, a bounded number of times.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::capture::PacketSocket;
use crate::host::Host;

/// No flood sends more frames than this, whatever becomes of its test.
pub const FRAMES_MAX: u64 = 20_000_000;

/// A flood under way.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Flood {
    /// Sends `frames` from an interface of the host, in turn, until told to stop or [`FRAMES_MAX`] were sent.
    #[must_use]
    pub fn start(host: &Host, interface: &str, frames: Vec<Vec<u8>>) -> Self {
        Self::start_where(host, interface, frames, None)
    }

    /// The same on one processor, which it has for itself if nobody else is there.
    #[must_use]
    pub fn start_on(host: &Host, interface: &str, frames: Vec<Vec<u8>>, processor: usize) -> Self {
        Self::start_where(host, interface, frames, Some(processor))
    }

    fn start_where(
        host: &Host,
        interface: &str,
        frames: Vec<Vec<u8>>,
        processor: Option<usize>,
    ) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count, interface) =
            (Arc::clone(&stop), Arc::clone(&sent), interface.to_owned());
        let thread = host.spawn(move || {
            if let Some(processor) = processor {
                let mut own = CpuSet::new();
                own.set(processor)?;
                sched_setaffinity(Pid::from_raw(0), &own).context("a processor of its own")?;
            }
            let socket = PacketSocket::sender(&interface)?;
            for frame in frames.iter().cycle() {
                if ended.load(Ordering::Relaxed) || count.load(Ordering::Relaxed) >= FRAMES_MAX {
                    break;
                }
                if socket.send(frame).context("flooding")? {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        });
        Self { stop, sent, thread }
    }

    /// Frames sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it. Returns how many frames were sent.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

/// Spoofed source number `n`: 500 addresses of two documentation networks (RFC 5737), ports in turn.
#[must_use]
pub fn spoofed(n: u32) -> SocketAddr {
    let last = u8::try_from(1 + n % 250).unwrap_or(1);
    let address = if n.is_multiple_of(2) {
        Ipv4Addr::new(203, 0, 113, last)
    } else {
        Ipv4Addr::new(198, 51, 100, last)
    };
    SocketAddr::new(IpAddr::V4(address), port(n))
}

/// Port number `n` of those that a flood uses.
#[must_use]
pub fn port(n: u32) -> u16 {
    u16::try_from(1024 + n % 60_000).unwrap_or(1024)
}

/// The link address of a host's interface.
pub fn link_address(host: &Host, interface: &str) -> Result<[u8; 6]> {
    let shown = host.ip(&format!("-o link show dev {interface}"))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    let text = words.next().with_context(|| format!("no link address in: {shown}"))?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().with_context(|| text.to_owned())?;
    bytes.try_into().ok().with_context(|| format!("{text} is no link address"))
}
