//! Hand-made TCP segments: forged, replayed or malformed, sent by a raw socket as an attacker would.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::capture::{EXID, Flags, IDENTITY_KIND, Segment, tcp_sum};
use crate::host::Host;

const TCP: u8 = 6;
const HOP_LIMIT: u8 = 64;
const TCP_HEADER: usize = 20;
const IPV4_HEADER: usize = 20;
/// A link address that no interface of a test has.
const NOBODY: [u8; 6] = [2, 0xEE, 0, 0, 0, 0xEE];

/// A TCP segment to be sent as it is; only the checksum is computed.
#[derive(Debug, Clone)]
pub struct Forged {
    /// Source address and port, any.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: Flags,
    /// The option bytes as they stand; padded with end-of-options to a multiple of four when sent.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Forged {
    /// A segment without options and payload.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, flags: Flags) -> Self {
        Self {
            source,
            destination,
            sequence: 0x1000_0000,
            acknowledgement: 0,
            flags,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// A SYN with a maximum segment size option, as every stack sends it.
    #[must_use]
    pub fn syn(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(source, destination, Flags::SYN).option(2, &1400u16.to_be_bytes())
    }

    /// The segment that was captured, with its options byte for byte; only the window is another.
    #[must_use]
    pub fn replay(of: &Segment) -> Self {
        Self {
            source: of.source,
            destination: of.destination,
            sequence: of.sequence,
            acknowledgement: of.acknowledgement,
            flags: of.flags,
            options: of.option_bytes.clone(),
            payload: of.payload.clone(),
        }
    }

    /// The same with another option, of a kind that has a length (all but 0 and 1, RFC 9293 section 3.1).
    ///
    /// # Panics
    ///
    /// For kinds 0 and 1: what follows them would be read as other options. Linux 7.2 drops a SYN
    /// whose options do not parse (`TCP_AUTH_HDR`), 6.18 reads as far as it can.
    #[must_use]
    pub fn option(mut self, kind: u8, data: &[u8]) -> Self {
        assert!(kind > 1, "option {kind} has no length");
        let length = u8::try_from(data.len() + 2).unwrap_or(u8::MAX);
        self.options.extend([kind, length]);
        self.options.extend(data);
        self
    }

    /// The same with the handshake's option.
    #[must_use]
    pub fn identity(self, body: &[u8]) -> Self {
        self.option(IDENTITY_KIND, &[&EXID, body].concat())
    }

    /// The same with this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Sends it from a host; routing and neighbour resolution are the host's own.
    pub fn send(&self, host: &Host) -> Result<()> {
        let packet = self.packet()?;
        host.run(|| send_packet(self.destination.ip(), &packet))
    }

    /// Sends it with its last byte changed after the checksum was computed.
    pub fn send_corrupted(&self, host: &Host) -> Result<()> {
        let mut packet = self.packet()?;
        let last = packet.last_mut().context("a packet without bytes")?;
        *last = !*last;
        host.run(|| send_packet(self.destination.ip(), &packet))
    }

    /// The frame for a link address, as an AF_PACKET socket sends it; it comes from a link address of nobody.
    pub fn frame(&self, to: [u8; 6]) -> Result<Vec<u8>> {
        let mut packet = self.packet()?;
        let kind = if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xDD] };
        if self.source.is_ipv4() {
            let header = packet.first_chunk().context("an IPv4 packet without header")?;
            let sum = ipv4_sum(header);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Ok([&to[..], &NOBODY, &kind, &packet].concat())
    }

    fn packet(&self) -> Result<Vec<u8>> {
        let tcp = self.tcp()?;
        let length = |extra: usize| u16::try_from(tcp.len() + extra).context("segment too long");
        let mut packet = Vec::new();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet.extend([0x45, 0]);
                packet.extend(length(20)?.to_be_bytes());
                // The kernel fills in the identification and the header checksum.
                packet.extend([0, 0, 0, 0, HOP_LIMIT, TCP, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(length(0)?.to_be_bytes());
                packet.extend([TCP, HOP_LIMIT]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            (source, destination) => {
                anyhow::bail!("{source} and {destination} are not of one family")
            }
        }
        packet.extend(tcp);
        Ok(packet)
    }

    /// The TCP segment alone, its checksum computed for its addresses.
    pub(crate) fn tcp(&self) -> Result<Vec<u8>> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        ensure!(options.len() <= 40, "{} bytes of options, at most 40 fit", options.len());
        let words = u8::try_from((TCP_HEADER + options.len()) / 4)?;
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        tcp.extend([words << 4, self.flags.0, 0xFF, 0xFF, 0, 0, 0, 0]);
        tcp.extend(&options);
        tcp.extend(&self.payload);
        let sum = tcp_sum(self.source.ip(), self.destination.ip(), &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        Ok(tcp)
    }
}

/// The checksum of an IPv4 header without options (RFC 791 3.1), its own field taken as zero.
#[must_use]
pub fn ipv4_sum(header: &[u8; IPV4_HEADER]) -> u16 {
    let words = header.as_chunks::<2>().0.iter().enumerate();
    let sum: u32 =
        words.filter(|(n, _)| *n != 5).map(|(_, w)| u32::from(u16::from_be_bytes(*w))).sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !u16::try_from((folded & 0xFFFF) + (folded >> 16)).unwrap_or_default()
}

fn send_packet(to: IpAddr, packet: &[u8]) -> Result<()> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // Protocol 255 means: the IP header is in the data, in both families.
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
        .context("cannot open a raw socket")?;
    let address = SockaddrStorage::from(SocketAddr::new(to, 0));
    let sent = sendto(raw.as_raw_fd(), packet, &address, MsgFlags::empty())
        .with_context(|| format!("cannot send to {to}"))?;
    ensure!(sent == packet.len(), "{sent} of {} bytes sent", packet.len());
    Ok(())
}
