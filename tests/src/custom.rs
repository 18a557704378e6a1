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

    /// Signs every segment to and from a peer with a key (TCP-MD5, RFC 2385).
    pub fn signed(self, peer: SocketAddr, key: &[u8]) -> Result<Self> {
        // struct tcp_md5sig of linux/tcp.h: address(128), flags, prefix, key length(2), interface, key(80).
        const ADDRESS: usize = 128;
        const KEY: usize = ADDRESS + 8;
        const SIGNATURE: usize = KEY + 80;
        anyhow::ensure!(key.len() <= SIGNATURE - KEY, "a key of {} bytes is too long", key.len());
        let mut option = [0u8; SIGNATURE];
        let bytes = socket_address(peer)?;
        option[..bytes.len()].copy_from_slice(&bytes);
        option[ADDRESS + 2..][..2].copy_from_slice(&u16::try_from(key.len())?.to_ne_bytes());
        option[KEY..][..key.len()].copy_from_slice(key);
        self.option(libc::IPPROTO_TCP, libc::TCP_MD5SIG, &option).context("TCP-MD5")
    }

    /// Puts these options into the header of every IPv4 packet (ip(7), IP_OPTIONS).
    pub fn ipv4_options(self, options: &[u8]) -> Result<Self> {
        self.option(libc::IPPROTO_IP, libc::IP_OPTIONS, options).context("IPv4 options")
    }

    /// Puts a header of destination options into every IPv6 packet (ipv6(7), IPV6_DSTOPTS).
    pub fn destination_options(self, header: &[u8]) -> Result<Self> {
        self.option(libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, header).context("destination options")
    }

    fn option(self, level: i32, name: i32, value: &[u8]) -> Result<Self> {
        // SAFETY: the pointer and the length describe `value`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                name,
                value.as_ptr().cast(),
                libc::socklen_t::try_from(value.len())?,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("socket option {level}/{name}"));
        }
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

/// A `sockaddr_in` (ip(7)) or `sockaddr_in6` (ipv6(7)).
fn socket_address(of: SocketAddr) -> Result<Vec<u8>> {
    let (family, address) = match of {
        SocketAddr::V4(v4) => (libc::AF_INET, v4.ip().octets().to_vec()),
        // Behind the flow label.
        SocketAddr::V6(v6) => (libc::AF_INET6, [&[0; 4][..], &v6.ip().octets(), &[0; 4]].concat()),
    };
    let family = libc::sa_family_t::try_from(family)?.to_ne_bytes();
    Ok([&family[..], &of.port().to_be_bytes(), &address].concat())
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
