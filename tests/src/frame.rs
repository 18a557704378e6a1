//! Ethernet frames by hand: tags, IPv4 options, IPv6 extension headers and fragments, as an attacker on the link
//! makes them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::capture::PacketSocket;
use crate::host::Host;
use crate::raw::Forged;
use crate::topology::INTERFACE;

const HOP_LIMIT: u8 = 64;
const TCP: u8 = 6;
/// Next header of a fragment header (RFC 8200 4.5).
pub const FRAGMENT: u8 = 44;
const IDENTIFICATION: u8 = 0x77;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// The link between two hosts as one of them addresses the other.
#[derive(Debug, Clone)]
pub struct Link {
    from: Host,
    source: [u8; 6],
    destination: [u8; 6],
}

impl Link {
    /// From [`INTERFACE`] of one host to that of another on the same link.
    pub fn between(from: &Host, to: &Host) -> Result<Self> {
        Ok(Self { from: from.clone(), source: link_address(from)?, destination: link_address(to)? })
    }

    /// The same with another sender's link address than that of the host that sends.
    pub fn in_the_name_of(mut self, other: &Host) -> Result<Self> {
        self.source = link_address(other)?;
        Ok(self)
    }

    /// The frame of an IP packet behind tags, outermost first, each TPID and TCI.
    #[must_use]
    pub fn frame(&self, tags: &[[u8; 4]], packet: &[u8]) -> Vec<u8> {
        let kind: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xDD] };
        [&self.destination[..], &self.source, &tags.concat(), &kind, packet].concat()
    }

    /// Sends the frame of an IP packet behind tags. That a program of the sender's own interface drops it is no
    /// failure.
    pub fn send(&self, tags: &[[u8; 4]], packet: &[u8]) -> Result<()> {
        let socket = self.from.run(|| PacketSocket::open(INTERFACE, Duration::from_millis(1)))?;
        match socket.put(&self.frame(tags, packet)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            sent => sent.context("cannot send a frame"),
        }
    }
}

/// The link address of [`INTERFACE`].
fn link_address(host: &Host) -> Result<[u8; 6]> {
    let shown = host.ip(&format!("-br link show dev {INTERFACE}"))?;
    let word = shown.split_whitespace().nth(2).context("`ip -br link` shows no link address")?;
    let bytes: Vec<u8> =
        word.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|bytes| anyhow::anyhow!("{bytes:?} is not a link address"))
}

/// The segment as an IP packet of its family, without options.
pub fn packet(segment: &Forged) -> Result<Vec<u8>> {
    match segment.source.ip() {
        IpAddr::V4(_) => ipv4(segment, &[]),
        IpAddr::V6(_) => ipv6(segment, &[]),
    }
}

/// The segment in an IPv4 packet with these options, padded with end-of-options to whole words.
pub fn ipv4(segment: &Forged, options: &[u8]) -> Result<Vec<u8>> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) =
        (segment.source.ip(), segment.destination.ip())
    else {
        bail!("{} to {} is not IPv4", segment.source, segment.destination)
    };
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    ensure!(options.len() <= 40, "{} bytes of IPv4 options, at most 40 fit", options.len());
    let tcp = segment.tcp()?;
    let header = IPV4_HEADER + options.len();
    let mut packet = vec![0x40 | u8::try_from(header / 4)?, 0];
    packet.extend(u16::try_from(header + tcp.len())?.to_be_bytes());
    packet.extend([0, IDENTIFICATION, 0, 0, HOP_LIMIT, TCP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    set_ipv4_sum(&mut packet);
    packet.extend(tcp);
    Ok(packet)
}

/// The segment in an IPv6 packet behind extension headers: each its own number and all its bytes, whose first is
/// overwritten by the number of what follows.
pub fn ipv6(segment: &Forged, extensions: &[(u8, Vec<u8>)]) -> Result<Vec<u8>> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) =
        (segment.source.ip(), segment.destination.ip())
    else {
        bail!("{} to {} is not IPv6", segment.source, segment.destination)
    };
    let mut payload = Vec::new();
    for (index, (_, bytes)) in extensions.iter().enumerate() {
        payload.push(extensions.get(index + 1).map_or(TCP, |next| next.0));
        payload.extend(bytes.iter().skip(1));
    }
    payload.extend(segment.tcp()?);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len())?.to_be_bytes());
    packet.extend([extensions.first().map_or(TCP, |first| first.0), HOP_LIMIT]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    Ok(packet)
}

/// The bytes of an extension header of `words` times 8 bytes, full of options that a receiver skips (RFC 8200 4.2;
/// number 0x1e of RFC 4727).
#[must_use]
pub fn extension(words: u8) -> Vec<u8> {
    const SKIPPED: u8 = 0x1e;
    let mut bytes = vec![0, words - 1];
    let mut left = usize::from(words) * 8 - 2;
    while left > 0 {
        // At least two bytes must stay for a further option.
        let option = if left == 258 { 256 } else { left.min(257) };
        bytes.extend([SKIPPED, u8::try_from(option - 2).unwrap_or(u8::MAX)]);
        bytes.resize(bytes.len() + option - 2, 0);
        left -= option;
    }
    bytes
}

/// The bytes of a routing header of `words` times 8 bytes, of an experimental type (RFC 4727), with nothing left to
/// visit.
#[must_use]
pub fn routing(words: u8) -> Vec<u8> {
    const EXPERIMENTAL: u8 = 253;
    let mut bytes = vec![0, words - 1, EXPERIMENTAL];
    bytes.resize(usize::from(words) * 8, 0);
    bytes
}

/// The packet cut into fragments of `bytes` of payload each, a multiple of 8; a shorter packet becomes one
/// fragment that is first and last.
pub fn fragments(packet: &[u8], bytes: usize) -> Result<Vec<Vec<u8>>> {
    ensure!(bytes > 0 && bytes.is_multiple_of(8), "{bytes} is not a multiple of 8");
    let v4 = packet[0] >> 4 == 4;
    let header = if v4 { IPV4_HEADER } else { IPV6_HEADER };
    let payload = &packet[header..];
    let parts = payload.chunks(bytes).enumerate().map(|(index, part)| {
        let more = (index + 1) * bytes < payload.len();
        let offset = u16::try_from(index * bytes)?;
        let head = &packet[..header];
        if v4 { fragment4(head, offset, more, part) } else { fragment6(head, offset, more, part) }
    });
    parts.collect()
}

fn fragment4(header: &[u8], offset: u16, more: bool, part: &[u8]) -> Result<Vec<u8>> {
    let mut fragment = header.to_vec();
    let total = u16::try_from(header.len() + part.len())?;
    fragment[2..4].copy_from_slice(&total.to_be_bytes());
    fragment[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
    set_ipv4_sum(&mut fragment);
    fragment.extend(part);
    Ok(fragment)
}

fn fragment6(header: &[u8], offset: u16, more: bool, part: &[u8]) -> Result<Vec<u8>> {
    let mut fragment = header.to_vec();
    let next = std::mem::replace(&mut fragment[6], FRAGMENT);
    fragment[4..6].copy_from_slice(&u16::try_from(8 + part.len())?.to_be_bytes());
    fragment.extend([next, 0]);
    fragment.extend((offset | u16::from(more)).to_be_bytes());
    fragment.extend([0, 0, 0, IDENTIFICATION]);
    fragment.extend(part);
    Ok(fragment)
}

/// The header checksum (RFC 791 3.1) of a packet that is all header.
fn set_ipv4_sum(header: &mut [u8]) {
    header[10..12].fill(0);
    let words = header.chunks(2).map(|pair| (u32::from(pair[0]) << 8) | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap_or(0)).to_be_bytes());
}
