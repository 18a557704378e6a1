//! The kernel's word that an interface came, went, was renamed or got an address, or that somebody
//! changed filters (rtnetlink(7)): so that a workload is attached at once, and not at the next tick.
//!
//! It only says where to look. Nothing is believed of it, and a message that is lost costs the time
//! until the next tick.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::error::DatapathError;
use super::netlink::{self, BUFFER_BYTES};

/// Multicast groups (`<linux/rtnetlink.h>`): links, traffic control, addresses of both families.
const GROUPS: i32 =
    libc::RTMGRP_LINK | libc::RTMGRP_TC | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;

/// The most datagrams read at once; what is left is read the next time.
const MAX_DATAGRAMS: usize = 64;

/// How long nothing is read after something was: interfaces that change without end must not keep
/// the daemon from its work.
const PAUSE: Duration = Duration::from_millis(20);

/// Where something changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Messages were lost: anything may have changed.
    pub everything: bool,
    /// Numbers of interfaces that changed, or whose addresses did.
    pub numbers: Vec<u32>,
    /// Numbers of interfaces whose qdiscs or filters changed.
    pub filters: Vec<u32>,
    /// Names of interfaces that came, were renamed or otherwise changed.
    pub names: Vec<String>,
}

/// A socket that hears of changes in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Watcher {
    socket: AsyncFd<OwnedFd>,
    next: Instant,
    buffer: Vec<u8>,
}

impl Watcher {
    /// Begins to listen. Must be called within a tokio runtime.
    pub fn open() -> Result<Self, DatapathError> {
        listen()
            .map(|socket| Self { socket, next: Instant::now(), buffer: vec![0; BUFFER_BYTES] })
            .map_err(|source| DatapathError::Netlink {
                action: "hear of changed interfaces".to_owned(),
                source,
            })
    }

    /// Waits for changes. What was not returned is not lost when the future is dropped.
    pub async fn changed(&mut self) -> Changes {
        tokio::time::sleep_until(self.next).await;
        loop {
            let Ok(mut ready) = self.socket.readable().await else {
                // The runtime ends: nobody waits for an answer.
                return std::future::pending().await;
            };
            let changes = drain(self.socket.get_ref(), &mut self.buffer);
            if changes == Changes::default() {
                ready.clear_ready();
                continue;
            }
            self.next = Instant::now() + PAUSE;
            return changes;
        }
    }
}

fn listen() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS.cast_unsigned()))?;
    // SAFETY: the descriptor is owned, and stays open and the same until the watcher is dropped.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}

/// Reads what is there. An empty answer means that nothing is left.
fn drain(socket: &OwnedFd, buffer: &mut [u8]) -> Changes {
    let mut changes = Changes::default();
    for _ in 0..MAX_DATAGRAMS {
        match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => changes.read(buffer.get(..length).unwrap_or_default()),
            Err(nix::Error::EAGAIN) => break,
            Err(nix::Error::EINTR) => {}
            // ENOBUFS: the kernel had no room for more. Whatever else it is, ticks go on.
            Err(_) => changes.everything = true,
        }
    }
    changes
}

impl Changes {
    fn read(&mut self, datagram: &[u8]) {
        let Ok(notes) = netlink::notes(datagram) else {
            self.everything = true;
            return;
        };
        for note in notes {
            let numbers = if note.filters { &mut self.filters } else { &mut self.numbers };
            numbers.push(note.ifindex);
            self.names.extend(note.link.map(|link| link.name));
        }
    }
}
