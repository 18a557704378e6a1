//! The AF_PACKET socket (packet(7)) of a capture.

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

/// 32 MB of frames may wait in the kernel while the thread is not scheduled.
const RECEIVE_BUFFER: libc::c_int = 32 << 20;
/// Bytes of a `virtio_net_hdr` (linux/virtio_net.h).
pub const OFFLOADS: usize = 10;

/// One frame as the interface saw it.
#[derive(Debug, Clone)]
pub struct Frame {
    /// When it was read.
    pub at: SystemTime,
    /// Whether this host sent it.
    pub outgoing: bool,
    /// Whether it was addressed to another host and only seen.
    pub other_host: bool,
    /// Whether the checksum is still to be filled in by (virtual) hardware and cannot be judged.
    pub checksum_pending: bool,
    /// The length on the wire in bytes; `bytes` may be cut.
    pub length: usize,
    /// The frame from its Ethernet header on.
    pub bytes: Vec<u8>,
}

/// How long [`PacketSocket::receive`] waits for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Not at all.
    None,
    /// The timeout with which the socket was opened.
    Tick,
}

/// A bound AF_PACKET socket with a receive timeout.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a socket on an interface of the calling thread's namespace.
    pub fn open(interface: &str, timeout: Duration) -> Result<Self> {
        let index = index_of(interface)?;
        let socket = Self::unbound()?;
        // No frame arrives before bind: the protocol is given there and not to socket().
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)?;
        socket.option(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32)?;
        socket.option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeval(timeout))?;
        socket.bind(index, libc::ETH_P_ALL)?;
        Ok(socket)
    }

    /// Opens a socket that takes frames off an interface and puts frames on it: it hears only what arrives, and
    /// every frame, heard or sent, stands behind a `virtio_net_hdr` of `OFFLOADS` bytes (packet(7),
    /// PACKET_VNET_HDR), which says what hardware would still do to it.
    pub fn open_forwarding(interface: &str, timeout: Duration) -> Result<Self> {
        let index = index_of(interface)?;
        let socket = Self::unbound()?;
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)?;
        socket.option(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32)?;
        socket.option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        socket.option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeval(timeout))?;
        socket.bind(index, libc::ETH_P_ALL)?;
        Ok(socket)
    }

    /// Waits for one frame of a forwarding socket, its `virtio_net_hdr` first; none when the timeout passed first.
    pub fn take(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match nix::sys::socket::recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends one frame, behind its `virtio_net_hdr` on a forwarding socket.
    pub fn put(&self, frame: &[u8]) -> io::Result<()> {
        nix::sys::socket::send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// Opens a socket that only sends, and past the interface's queueing discipline.
    pub fn sender(interface: &str) -> Result<Self> {
        let index = index_of(interface)?;
        let socket = Self::unbound()?;
        socket.option(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32)?;
        socket.bind(index, 0)?;
        Ok(socket)
    }

    /// Sends a frame as it is. `false` if the interface has no room for it.
    pub fn send(&self, frame: &[u8]) -> io::Result<bool> {
        // SAFETY: pointer and length describe `frame`, which outlives the call.
        let result =
            unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        match os_result(result as i64) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn unbound() -> Result<Self> {
        // SAFETY: takes three integers; the descriptor returned is owned by nobody else.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error()).context("cannot open an AF_PACKET socket");
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self(fd))
    }

    fn bind(&self, index: u32, protocol: libc::c_int) -> Result<()> {
        // SAFETY: sockaddr_ll is plain data for which all zeroes is a value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_protocol = u16::try_from(protocol)?.to_be();
        address.sll_ifindex = i32::try_from(index)?;
        // SAFETY: the pointer and the length describe `address`, which outlives the call.
        let result =
            unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), size(&address)) };
        os_result(result.into()).context("cannot bind the AF_PACKET socket").map(drop)
    }

    fn option<T>(&self, level: i32, name: i32, value: &T) -> Result<()> {
        // SAFETY: the pointer and the length describe `value`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size(value),
            )
        };
        os_result(result.into()).with_context(|| format!("socket option {level}/{name}")).map(drop)
    }

    /// Waits for one frame; none when there was none within the `patience`. `buffer` cuts longer frames.
    pub fn receive(&self, buffer: &mut [u8], patience: Patience) -> io::Result<Option<Frame>> {
        let wait = if patience == Patience::None { libc::MSG_DONTWAIT } else { 0 };
        // SAFETY: sockaddr_ll and msghdr are plain data for which all zeroes is a value.
        let (mut address, mut message): (libc::sockaddr_ll, libc::msghdr) =
            unsafe { (zeroed(), zeroed()) };
        let mut vector =
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = [0u64; 16];
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size(&address);
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in `message` is to a local that outlives the call, with its own length.
        let result =
            unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_TRUNC | wait) };
        let length = match os_result(result as i64) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Frame {
            at: SystemTime::now(),
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
            other_host: address.sll_pkttype == libc::PACKET_OTHERHOST,
            checksum_pending: status(&message) & libc::TP_STATUS_CSUMNOTREADY != 0,
            length,
            bytes: buffer[..length.min(buffer.len())].to_vec(),
        }))
    }

    /// Frames the kernel dropped since the last call because the socket was full.
    #[must_use]
    pub fn lost(&self) -> u64 {
        // SAFETY: tpacket_stats is plain data for which all zeroes is a value.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = size(&stats);
        // SAFETY: pointer and length describe `stats`, which outlives the call.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if result == 0 { u64::from(stats.tp_drops) } else { 0 }
    }
}

fn index_of(interface: &str) -> Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: the name is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error()).with_context(|| {
            format!("interface {interface} not found in this namespace; `ip -br link` lists those that are")
        });
    }
    Ok(index)
}

fn status(message: &libc::msghdr) -> u32 {
    // SAFETY: the header was filled in by recvmsg; the macros walk the control buffer within its length, and
    // the data of a PACKET_AUXDATA message is a tpacket_auxdata, copied into one of our own.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_PACKET
                && (*header).cmsg_type == libc::PACKET_AUXDATA
            {
                let mut data: libc::tpacket_auxdata = zeroed();
                let length = size_of::<libc::tpacket_auxdata>();
                libc::CMSG_DATA(header).copy_to_nonoverlapping((&raw mut data).cast(), length);
                return data.tp_status;
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    0
}

fn timeval(timeout: Duration) -> libc::timeval {
    libc::timeval {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_usec: i64::from(timeout.subsec_micros()),
    }
}

fn size<T>(_: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

fn os_result(result: i64) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
