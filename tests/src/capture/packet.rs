//! Parsing of captured frames: Ethernet, IPv4 or IPv6 with extension headers, TCP with its options.
//!
//! Written apart from the enforcer's own parsers on purpose: what checks them must not share their mistakes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use super::Frame;

/// TCP option kind of the handshake: the first experimental one (RFC 4727).
pub const IDENTITY_KIND: u8 = 253;
/// Experiment identifier (RFC 6994) of the handshake's option.
pub const EXID: [u8; 2] = [0x45, 0x4E];

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// Which way a packet went on the captured interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Towards this host.
    In,
    /// From this host.
    Out,
    /// Between others: seen by a bridge port or a promiscuous interface.
    Passing,
}

/// An IP packet.
#[derive(Debug, Clone)]
pub struct Packet {
    /// When it was read.
    pub at: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The protocol after any extension headers (IANA number).
    pub protocol: u8,
    /// The first byte after the IP headers: the type of an ICMP message.
    pub first_byte: Option<u8>,
    /// The TCP segment, when it is one.
    pub tcp: Option<Segment>,
}

/// TCP flags, the low byte of the flags word (RFC 9293 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// FIN alone.
    pub const FIN: Self = Self(1);
    /// SYN alone.
    pub const SYN: Self = Self(2);
    /// RST alone.
    pub const RST: Self = Self(4);
    /// ACK alone.
    pub const ACK: Self = Self(16);
    /// SYN and ACK.
    pub const SYN_ACK: Self = Self(18);
    /// RST and ACK.
    pub const RST_ACK: Self = Self(20);

    /// Whether all flags of `other` are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A TCP option other than padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOption {
    /// Its kind.
    pub kind: u8,
    /// What follows kind and length.
    pub data: Vec<u8>,
}

/// A TCP segment.
#[derive(Debug, Clone)]
pub struct Segment {
    /// When it was read.
    pub at: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: Flags,
    /// Window, unscaled.
    pub window: u16,
    /// Options in their order, padding left out.
    pub options: Vec<TcpOption>,
    /// The options as they stand in the header, padding included: whole 32-bit words.
    pub option_bytes: Vec<u8>,
    /// Payload bytes; cut where the capture cuts frames.
    pub payload: Vec<u8>,
    /// The length of the payload on the wire in bytes.
    pub payload_length: usize,
    /// Whether the TCP checksum is right; none where hardware was still to compute it or the frame is cut.
    pub checksum_right: Option<bool>,
}

impl Segment {
    /// The 16-byte body of the handshake's option, when the segment carries one of the right length.
    #[must_use]
    pub fn identity(&self) -> Option<&[u8]> {
        let body = |option: &TcpOption| option.kind == IDENTITY_KIND && option.data.len() == 18;
        let option = self.options.iter().find(|o| body(o))?;
        option.data.strip_prefix(&EXID)
    }
}

impl Packet {
    /// Parses a frame; none for what is not IP or is cut before its TCP header ends.
    #[must_use]
    pub fn parse(frame: &Frame) -> Option<Self> {
        let direction = match (frame.outgoing, frame.other_host) {
            (true, _) => Direction::Out,
            (_, true) => Direction::Passing,
            _ => Direction::In,
        };
        let ether_type = frame.bytes.get(12..ETHERNET)?;
        let packet = &frame.bytes[ETHERNET..];
        let ip = match ether_type {
            [0x08, 0x00] => Ip::parse_v4(packet)?,
            [0x86, 0xDD] => Ip::parse_v6(packet)?,
            _ => return None,
        };
        let tcp = (ip.protocol == TCP && !ip.later_fragment)
            .then(|| segment(frame, &ip, direction))
            .flatten();
        Some(Self {
            at: frame.at,
            direction,
            source: ip.source,
            destination: ip.destination,
            protocol: ip.protocol,
            first_byte: ip.rest.first().copied(),
            tcp,
        })
    }

    /// Whether this is ICMPv6 address resolution or group membership, which is not part of any conversation.
    #[must_use]
    pub fn is_neighbour_discovery(&self) -> bool {
        let housekeeping = |kind: u8| matches!(kind, 130..=137 | 143);
        self.protocol == ICMPV6 && self.first_byte.is_some_and(housekeeping)
    }
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    later_fragment: bool,
    /// What follows the IP headers, without Ethernet padding.
    rest: &'a [u8],
    /// Its length on the wire.
    rest_length: usize,
}

impl<'a> Ip<'a> {
    fn parse_v4(packet: &'a [u8]) -> Option<Self> {
        let header = packet.get(..20)?;
        let header_length = usize::from(header[0] & 15) * 4;
        let total = usize::from(be16(packet, 2)?);
        // A BIG TCP packet has a total length of zero; none is made here.
        let rest_length = total.checked_sub(header_length)?;
        let rest = packet.get(header_length..)?;
        Some(Self {
            source: Ipv4Addr::from(array::<4>(packet, 12)?).into(),
            destination: Ipv4Addr::from(array::<4>(packet, 16)?).into(),
            protocol: header[9],
            later_fragment: be16(packet, 6)? & 0x1FFF != 0,
            rest: &rest[..rest.len().min(rest_length)],
            rest_length,
        })
    }

    fn parse_v6(packet: &'a [u8]) -> Option<Self> {
        let mut rest_length = usize::from(be16(packet, 4)?);
        let mut protocol = *packet.get(6)?;
        let mut rest = packet.get(40..)?;
        rest = &rest[..rest.len().min(rest_length)];
        let mut later_fragment = false;
        // At most as many extension headers as a sane packet can hold.
        for _ in 0..8 {
            let length = match protocol {
                0 | 43 | 60 => (usize::from(*rest.get(1)?) + 1) * 8,
                44 => {
                    later_fragment |= be16(rest, 2)? & 0xFFF8 != 0;
                    8
                }
                _ => break,
            };
            protocol = *rest.first()?;
            rest = rest.get(length..)?;
            rest_length = rest_length.checked_sub(length)?;
        }
        Some(Self {
            source: Ipv6Addr::from(array::<16>(packet, 8)?).into(),
            destination: Ipv6Addr::from(array::<16>(packet, 24)?).into(),
            protocol,
            later_fragment,
            rest,
            rest_length,
        })
    }
}

fn segment(frame: &Frame, ip: &Ip<'_>, direction: Direction) -> Option<Segment> {
    let tcp = ip.rest;
    let header_length = usize::from(*tcp.get(12)? >> 4) * 4;
    let header = tcp.get(..header_length.max(20))?;
    let whole = tcp.len() == ip.rest_length;
    let judged = whole && !frame.checksum_pending;
    Some(Segment {
        at: frame.at,
        direction,
        source: SocketAddr::new(ip.source, be16(tcp, 0)?),
        destination: SocketAddr::new(ip.destination, be16(tcp, 2)?),
        sequence: u32::from_be_bytes(array(tcp, 4)?),
        acknowledgement: u32::from_be_bytes(array(tcp, 8)?),
        flags: Flags(tcp[13]),
        window: be16(tcp, 14)?,
        options: options(&header[20..]),
        option_bytes: header[20..].to_vec(),
        payload: tcp[header.len()..].to_vec(),
        payload_length: ip.rest_length.checked_sub(header.len())?,
        checksum_right: judged.then(|| tcp_sum(ip.source, ip.destination, tcp) == 0),
    })
}

fn options(mut bytes: &[u8]) -> Vec<TcpOption> {
    let mut found = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        if kind == 0 {
            break;
        }
        if kind == 1 {
            bytes = rest;
            continue;
        }
        let Some(&length) = rest.first() else { break };
        let Some(data) = rest.get(1..usize::from(length).max(2) - 1) else { break };
        found.push(TcpOption { kind, data: data.to_vec() });
        bytes = &rest[data.len() + 1..];
    }
    found
}

/// The Internet checksum (RFC 1071) of a TCP segment with its pseudo header: zero when the segment's own
/// checksum field is right, otherwise the value to put there if the field was zero.
#[must_use]
pub fn tcp_sum(source: IpAddr, destination: IpAddr, tcp: &[u8]) -> u16 {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let addresses = [address(source), address(destination)].concat();
    let words = |bytes: &[u8]| -> u64 {
        bytes
            .chunks(2)
            .map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)))
            .sum()
    };
    let mut sum = words(&addresses) + words(tcp) + u64::from(TCP) + tcp.len() as u64;
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
