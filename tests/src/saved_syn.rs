//! The SYN as the receiving stack saw it (TCP_SAVE_SYN, tcp(7)): past every program of the interface, where a
//! capture cannot look.

use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::capture::{Frame, Packet, Segment};
use crate::host::Host;

/// A listening socket that keeps the SYN of every connection.
#[derive(Debug)]
pub struct SynListener(TcpListener);

impl SynListener {
    /// Listens on `port` of all addresses of the host, both families.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let listener =
            host.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).context("cannot listen"))?;
        let on: libc::c_int = 1;
        // SAFETY: the pointer and the length describe `on`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_SAVE_SYN,
                (&raw const on).cast(),
                4,
            )
        };
        (result == 0).then_some(Self(listener)).ok_or_else(os_error).context("TCP_SAVE_SYN")
    }

    /// Waits for one connection and returns its SYN: headers and options; the payload's length as the IP
    /// header says it.
    pub fn accept(&self) -> Result<Segment> {
        let (stream, _) = self.0.accept().context("accept")?;
        let headers = saved(&stream)?;
        let ether_type = if headers[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xDD] };
        let bytes = [&[0; 12][..], &ether_type, &headers].concat();
        let frame = Frame {
            at: SystemTime::now(),
            outgoing: false,
            other_host: false,
            checksum_pending: true,
            length: bytes.len(),
            bytes,
        };
        Packet::parse(&frame).and_then(|packet| packet.tcp).context("the saved SYN does not parse")
    }
}

fn saved(stream: &TcpStream) -> Result<Vec<u8>> {
    let mut headers = vec![0; 256];
    let mut length = libc::socklen_t::try_from(headers.len())?;
    // SAFETY: the pointer and the length describe `headers`; the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            headers.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(os_error()).context("TCP_SAVED_SYN");
    }
    headers.truncate(usize::try_from(length)?);
    anyhow::ensure!(!headers.is_empty(), "the kernel kept no SYN");
    Ok(headers)
}

fn os_error() -> anyhow::Error {
    std::io::Error::last_os_error().into()
}
