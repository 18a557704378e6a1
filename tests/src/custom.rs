//! TCP sockets that need options, a local port or a protocol of their own before they connect.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    Backlog, MsgFlags, SockaddrStorage, bind, connect, listen, sendto, setsockopt, sockopt,
};
use nix::sys::time::TimeVal;

use crate::host::{Family, Host};

/// The longest wait of one connect, write or read, in seconds.
const TIMEOUT_SECONDS: i64 = 10;

/// What the socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// Multipath TCP (RFC 8684).
    Multipath,
}

/// A socket that is not yet connected; set options through its descriptor.
#[derive(Debug)]
pub struct Custom {
    socket: OwnedFd,
    family: Family,
}

impl Custom {
    /// A socket of a host.
    pub fn new(host: &Host, family: Family, protocol: Protocol) -> Result<Self> {
        let socket = host.run(|| open(family, protocol))?;
        let timeout = TimeVal::new(TIMEOUT_SECONDS, 0);
        setsockopt(&socket, sockopt::SendTimeout, &timeout)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self { socket, family })
    }

    /// Takes a local port, also one that an ended connection still holds.
    pub fn bound_to(self, port: u16) -> Result<Self> {
        let any = match self.family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        setsockopt(&self.socket, sockopt::ReuseAddr, &true)?;
        bind(self.socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port)))
            .with_context(|| format!("cannot bind port {port}"))?;
        Ok(self)
    }

    /// Connects, within ten seconds.
    pub fn connect(self, to: SocketAddr) -> Result<TcpStream> {
        let address = SockaddrStorage::from(to);
        let mut connected = connect(self.socket.as_raw_fd(), &address);
        // With a time limit on the socket the kernel does not restart the call itself; a further one
        // waits for the attempt under way.
        while connected == Err(Errno::EINTR) {
            connected = connect(self.socket.as_raw_fd(), &address);
        }
        connected.with_context(|| format!("connecting to {to}"))?;
        Ok(self.socket.into())
    }
}

impl Custom {
    /// Connects by sending `data`, all of it (TCP Fast Open, RFC 7413): with a cookie of the server at hand the data is
    /// in the SYN, without one it is not and the SYN asks for one.
    pub fn connect_sending(self, to: SocketAddr, data: &[u8]) -> Result<TcpStream> {
        let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
        let sent = sendto(self.socket.as_raw_fd(), data, &SockaddrStorage::from(to), flags)
            .with_context(|| format!("sending to {to} without a connection"))?;
        let mut stream = TcpStream::from(self.socket);
        stream.write_all(&data[sent..])?;
        Ok(stream)
    }

    /// Listens; the socket must be bound.
    pub fn listen(self) -> Result<TcpListener> {
        listen(&self.socket, Backlog::new(128)?).context("cannot listen")?;
        Ok(self.socket.into())
    }
}

impl AsFd for Custom {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(family: Family, protocol: Protocol) -> Result<OwnedFd> {
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let number = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Multipath => libc::IPPROTO_MPTCP,
    };
    // SAFETY: takes three integers; the descriptor returned is owned by nobody else.
    unsafe {
        let fd = libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, number);
        if fd < 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("this kernel opens no {protocol:?} socket"));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
