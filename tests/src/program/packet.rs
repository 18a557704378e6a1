//! Ethernet, IPv4 and IPv6 frames and what is not TCP in them, with checksums of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::abi::{Address, mapped};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// IP protocol of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol of UDP.
pub const UDP: u8 = 17;
/// IP protocol of ICMPv6.
pub const ICMPV6: u8 = 58;

/// One side of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Link address.
    pub mac: [u8; 6],
    /// Network address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
}

impl End {
    /// The address as the maps hold it.
    #[must_use]
    pub fn mapped(&self) -> Address {
        match self.address {
            IpAddr::V4(v4) => mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        }
    }

    /// The address as it stands in a packet.
    #[must_use]
    pub fn octets(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    }
}

/// The Internet checksum (RFC 1071) over the concatenation of `parts`, each of even length but the last.
#[must_use]
pub fn internet_checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}

/// The checksum of a transport segment whose own checksum field is zero.
#[must_use]
pub fn transport_checksum(from: &End, to: &End, protocol: u8, segment: &[u8]) -> [u8; 2] {
    let length = u32::try_from(segment.len()).expect("a frame's length").to_be_bytes();
    let (source, destination) = (from.octets(), to.octets());
    internet_checksum(&[&source, &destination, &length, &[0, protocol], segment])
}

/// A whole frame around a transport segment.
#[must_use]
pub fn ip(from: &End, to: &End, protocol: u8, body: &[u8]) -> Vec<u8> {
    ip_with_options(from, to, protocol, &[], body)
}

/// The same with IPv4 options, a multiple of four bytes; they must be empty for IPv6.
#[must_use]
pub fn ip_with_options(from: &End, to: &End, protocol: u8, options: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = [to.mac, from.mac].concat();
    match (from.address, to.address) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00]);
            frame.extend(ipv4_header(source, destination, protocol, options, body.len()));
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            assert!(options.is_empty(), "IPv6 has no header options");
            frame.extend([0x86, 0xdd]);
            frame.extend(ipv6_header(source, destination, protocol, body.len()));
        }
        other => panic!("both sides must be of one family, found {other:?}"),
    }
    frame.extend(body);
    frame
}

fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, options: &[u8], body: usize) -> Vec<u8> {
    let length = 20 + options.len();
    let total = u16::try_from(length + body).expect("a frame's length").to_be_bytes();
    let words = u8::try_from(length / 4).expect("at most 15 words");
    let mut header = vec![0x40 | words, 0, total[0], total[1], 0x12, 0x34, 0x40, 0, 64, protocol];
    header.extend([0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    header.extend(options);
    let sum = internet_checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    header
}

fn ipv6_header(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, body: usize) -> Vec<u8> {
    let length = u16::try_from(body).expect("a frame's length").to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

/// A UDP datagram in a frame.
#[must_use]
pub fn udp(from: &End, to: &End, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram's length");
    let mut body = Vec::new();
    for number in [from.port, to.port, length, 0] {
        body.extend(number.to_be_bytes());
    }
    body.extend(payload);
    let sum = transport_checksum(from, to, UDP, &body);
    body[6..8].copy_from_slice(&sum);
    ip(from, to, UDP, &body)
}

/// An ICMP or ICMPv6 message of eight bytes and `body` behind them, in a frame.
#[must_use]
pub fn icmp(from: &End, to: &End, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(body);
    let (protocol, sum) = match from.address {
        IpAddr::V4(_) => (ICMP, internet_checksum(&[&message])),
        IpAddr::V6(_) => (ICMPV6, transport_checksum(from, to, ICMPV6, &message)),
    };
    message[2..4].copy_from_slice(&sum);
    let mut frame = ip(from, to, protocol, &message);
    if protocol == ICMPV6 {
        // Neighbour discovery counts only with the highest hop limit (RFC 4861 7.1).
        frame[ETHERNET + 7] = 255;
    }
    frame
}

/// Destination unreachable (RFC 792, RFC 4443 3.1), quoting the first bytes of the packet in `frame`.
#[must_use]
pub fn unreachable(from: &End, to: &End, frame: &[u8]) -> Vec<u8> {
    let quoted = &frame[ETHERNET..frame.len().min(ETHERNET + 48)];
    let kind = if from.address.is_ipv4() { 3 } else { 1 };
    icmp(from, to, kind, 0, quoted)
}

/// An ARP packet (RFC 826); `operation` is 1 to ask and 2 to answer.
#[must_use]
pub fn arp(sender: &End, claims: ([u8; 6], Ipv4Addr), operation: u8) -> Vec<u8> {
    let mut frame = [[0xff; 6], sender.mac].concat();
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(claims.0);
    frame.extend(claims.1.octets());
    frame.extend([0; 6]);
    frame.extend([192, 0, 2, 254]);
    frame
}
