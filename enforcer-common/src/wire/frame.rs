//! Ethernet, IPv4, IPv6 and TCP headers as far as the datapath reads them.

use super::Cursor;
use crate::abi::{AddressWords, DropReason, mapped_words};
use crate::datapath::opaque::Opaque;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_BYTES: usize = 14;
/// Bytes of an IPv6 header.
pub const IPV6_BYTES: usize = 40;
/// Bytes of a TCP header without options.
pub const TCP_BYTES: usize = 20;
/// Bytes of a UDP header (RFC 768).
pub const UDP_BYTES: usize = 8;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;

/// IP protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP flags (RFC 9293 3.1).
pub mod tcp_flags {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// ACK.
    pub const ACK: u8 = 16;
}

/// An IP packet: what the datapath reads of its headers. Offsets are from the start of the frame.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packet {
    /// Source address, IPv4 in mapped form.
    pub source: AddressWords,
    /// Destination address.
    pub destination: AddressWords,
    /// Sequence number (TCP).
    pub sequence: u32,
    /// Acknowledgement number (TCP).
    pub acknowledgement: u32,
    /// End of the IP packet; the frame may be padded behind it.
    pub end: u32,
    /// Offset of the transport header.
    pub transport: u16,
    /// Source port; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// 4 or 6.
    pub family: u8,
    /// Protocol of the transport header.
    pub protocol: u8,
    /// TCP flags.
    pub flags: u8,
    /// Bytes of the TCP header, options included.
    pub tcp_header: u8,
    /// ICMP or ICMPv6 type.
    pub icmp_type: u8,
    /// Zero.
    pub zero: [u8; 5],
}

impl Packet {
    /// Bytes behind the TCP header.
    #[must_use]
    #[inline(always)]
    pub fn payload(&self) -> u32 {
        self.end.saturating_sub(u32::from(self.transport) + u32::from(self.tcp_header))
    }

    /// Bytes of TCP options.
    #[must_use]
    #[inline(always)]
    pub fn options(&self) -> usize {
        (self.tcp_header as usize).saturating_sub(TCP_BYTES)
    }

    /// Whether every flag of `bits` is set.
    #[must_use]
    #[inline(always)]
    pub fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// An IP packet that was read whole.
    Ip,
    /// ARP.
    Arp,
}

/// Reads a frame's headers into `out`, or says why it must not pass.
#[inline(always)]
pub fn parse<C: Cursor + ?Sized>(frame: &C, out: &mut Packet) -> Result<Frame, DropReason> {
    let ethertype = frame.u16(12).ok_or(DropReason::Truncated)?;
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(frame, out)?,
        ETHERTYPE_IPV6 => parse_ipv6(frame, out)?,
        ETHERTYPE_ARP => return Ok(Frame::Arp),
        _ => return Err(DropReason::NotIp),
    }
    parse_transport(frame, out)?;
    Ok(Frame::Ip)
}

/// ```text
/// RFC 791 3.1, offsets from the start of the IP header
/// 0 version(4 bits) ihl(4 bits)   2 total length(2)   6 flags(3 bits) fragment offset(13 bits)
/// 9 protocol(1)  12 source(4)  16 destination(4)  20 options
/// ```
#[inline(always)]
fn parse_ipv4<C: Cursor + ?Sized>(frame: &C, out: &mut Packet) -> Result<(), DropReason> {
    const AT: usize = ETHERNET_BYTES;
    let first = frame.u8(AT).ok_or(DropReason::Truncated)?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < 20 {
        return Err(DropReason::MalformedHeader);
    }
    let total = usize::from(frame.u16(AT + 2).ok_or(DropReason::Truncated)?);
    if total < header {
        return Err(DropReason::MalformedHeader);
    }
    if AT + total > frame.frame_length() {
        return Err(DropReason::Truncated);
    }
    if frame.u16(AT + 6).ok_or(DropReason::Truncated)? & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    out.protocol = frame.u8(AT + 9).ok_or(DropReason::Truncated)?;
    out.source = mapped_words(frame.word(AT + 12).ok_or(DropReason::Truncated)?);
    out.destination = mapped_words(frame.word(AT + 16).ok_or(DropReason::Truncated)?);
    out.family = 4;
    out.transport = (AT + header) as u16;
    out.end = (AT + total) as u32;
    Ok(())
}

/// ```text
/// RFC 8200 3, offsets from the start of the IP header
/// 0 version(4 bits)   4 payload length(2)   6 next header(1)   8 source(16)   24 destination(16)
/// ```
#[inline(always)]
fn parse_ipv6<C: Cursor + ?Sized>(frame: &C, out: &mut Packet) -> Result<(), DropReason> {
    const AT: usize = ETHERNET_BYTES;
    if frame.u8(AT).ok_or(DropReason::Truncated)? >> 4 != 6 {
        return Err(DropReason::MalformedHeader);
    }
    let payload = usize::from(frame.u16(AT + 4).ok_or(DropReason::Truncated)?);
    if AT + IPV6_BYTES + payload > frame.frame_length() {
        return Err(DropReason::Truncated);
    }
    out.protocol = frame.u8(AT + 6).ok_or(DropReason::Truncated)?;
    match out.protocol {
        44 => return Err(DropReason::Fragment),
        // Hop-by-hop, routing, ESP, AH, destination options, mobility, HIP, shim6 (IANA registry
        // of extension headers): none is walked, none passes.
        0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => {
            return Err(DropReason::ExtensionHeader);
        }
        _ => {}
    }
    out.source = address_at(frame, AT + 8)?;
    out.destination = address_at(frame, AT + 24)?;
    if is_mapped(out.source) || is_mapped(out.destination) {
        return Err(DropReason::MalformedHeader);
    }
    out.family = 6;
    out.transport = (AT + IPV6_BYTES) as u16;
    out.end = (AT + IPV6_BYTES + payload) as u32;
    Ok(())
}

/// A mapped IPv4 address never stands in a packet (RFC 4291 2.5.5.2, RFC 6890); here it would be
/// taken for the IPv4 address itself.
#[inline(always)]
fn is_mapped(a: AddressWords) -> bool {
    mapped_words(a[3]) == a
}

#[inline(always)]
fn address_at<C: Cursor + ?Sized>(frame: &C, at: usize) -> Result<AddressWords, DropReason> {
    Ok([
        frame.word(at).ok_or(DropReason::Truncated)?,
        frame.word(at + 4).ok_or(DropReason::Truncated)?,
        frame.word(at + 8).ok_or(DropReason::Truncated)?,
        frame.word(at + 12).ok_or(DropReason::Truncated)?,
    ])
}

/// ```text
/// RFC 9293 3.1, offsets from the start of the TCP header
/// 0 source port(2)  2 destination port(2)  4 sequence(4)  8 acknowledgement(4)
/// 12 data offset(4 bits)  13 flags(1)
/// ```
#[inline(always)]
fn parse_transport<C: Cursor + ?Sized>(frame: &C, out: &mut Packet) -> Result<(), DropReason> {
    let at = usize::from(out.transport) & 0x7f;
    let room = (out.end as usize).saturating_sub(at);
    match out.protocol {
        protocol::TCP => {
            if room < TCP_BYTES {
                return Err(DropReason::Truncated);
            }
            read_ports(frame, at, out)?;
            out.sequence = frame.u32(at + 4).ok_or(DropReason::Truncated)?;
            out.acknowledgement = frame.u32(at + 8).ok_or(DropReason::Truncated)?;
            out.tcp_header = (frame.u8(at + 12).ok_or(DropReason::Truncated)? >> 4) * 4;
            out.flags = frame.u8(at + 13).ok_or(DropReason::Truncated)?;
            if usize::from(out.tcp_header) < TCP_BYTES || usize::from(out.tcp_header) > room {
                return Err(DropReason::MalformedHeader);
            }
        }
        protocol::UDP | protocol::SCTP => {
            if room < 8 {
                return Err(DropReason::Truncated);
            }
            read_ports(frame, at, out)?;
        }
        protocol::ICMP | protocol::ICMPV6 => {
            if room < 8 {
                return Err(DropReason::Truncated);
            }
            out.icmp_type = frame.u8(at).ok_or(DropReason::Truncated)?;
        }
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn read_ports<C: Cursor + ?Sized>(
    frame: &C,
    at: usize,
    out: &mut Packet,
) -> Result<(), DropReason> {
    out.source_port = frame.u16(at).ok_or(DropReason::Truncated)?;
    out.destination_port = frame.u16(at + 2).ok_or(DropReason::Truncated)?;
    Ok(())
}

/// Most bytes of IPv4 options.
pub const IPV4_OPTIONS_MAX: usize = 40;

/// Most IPv4 options (no-operations counted) that are read.
const IPV4_OPTION_STEPS: usize = 12;

impl Packet {
    /// Bytes of IPv4 options; 0 for IPv6.
    #[must_use]
    #[inline(always)]
    pub fn ipv4_options(&self) -> usize {
        if self.family == 4 {
            usize::from(self.transport).saturating_sub(ETHERNET_BYTES + 20)
        } else {
            0
        }
    }
}

/// Loose (131) and strict (137) source routes are refused (RFC 791 3.1, RFC 7126 4.3), and so is
/// what does not parse. `length` is in bytes, at most [`IPV4_OPTIONS_MAX`]; `position` is working
/// memory.
#[inline(always)]
pub fn check_ipv4_options(
    options: &[u8; IPV4_OPTIONS_MAX],
    length: usize,
    position: &mut Opaque,
) -> Result<(), DropReason> {
    position.set(0);
    let mut step = 0;
    while step < IPV4_OPTION_STEPS {
        step += 1;
        let at = (position.value() & 63) as usize;
        if at >= length || at >= IPV4_OPTIONS_MAX {
            return Ok(());
        }
        let size = match options[at] {
            0 => return Ok(()),
            1 => 1,
            131 | 137 => return Err(DropReason::SourceRoute),
            _ if at + 1 < IPV4_OPTIONS_MAX && options[at + 1] > 1 => usize::from(options[at + 1]),
            _ => return Err(DropReason::MalformedHeader),
        };
        // A length that leaves the header could hide a source route from us alone.
        if at + size > length {
            return Err(DropReason::MalformedHeader);
        }
        position.set((at + size) as u32);
    }
    if position.value() as usize >= length { Ok(()) } else { Err(DropReason::MalformedHeader) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0u8; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(u16::try_from(20 + body.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(body);
        frame
    }

    fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0u8; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        frame.extend([next, 64]);
        frame.extend([1; 16]);
        frame.extend([2; 16]);
        frame.extend(body);
        frame
    }

    const SYN: [u8; 20] = [0x12, 0x34, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, 2, 0, 0, 0, 0, 0, 0];

    fn read(frame: &[u8]) -> Result<Packet, DropReason> {
        let mut out = Packet::default();
        parse(frame, &mut out).map(|_| out)
    }

    #[test]
    fn both_families_read_alike() {
        for (frame, family) in [(ipv4(6, &SYN), 4), (ipv6(6, &SYN), 6)] {
            let p = read(&frame).unwrap();
            assert_eq!((p.family, p.protocol, p.flags), (family, 6, tcp_flags::SYN));
            assert_eq!((p.source_port, p.destination_port), (0x1234, 80));
            assert_eq!((p.sequence, p.acknowledgement, p.tcp_header), (7, 9, 20));
            assert_eq!(p.end as usize, frame.len());
            assert_eq!(p.payload(), 0);
        }
    }

    #[test]
    fn padding_behind_the_packet_is_not_payload() {
        let mut frame = ipv4(6, &SYN);
        frame.extend([0; 6]);
        assert_eq!(read(&frame).unwrap().payload(), 0);
    }

    #[test]
    fn what_must_not_pass_has_its_reason() {
        let mut fragment = ipv4(6, &SYN);
        fragment[20] = 0x20;
        assert_eq!(read(&fragment), Err(DropReason::Fragment));
        let mut late = ipv4(6, &SYN);
        late[21] = 1;
        assert_eq!(read(&late), Err(DropReason::Fragment));
        assert_eq!(read(&ipv6(44, &SYN)), Err(DropReason::Fragment));
        assert_eq!(read(&ipv6(43, &SYN)), Err(DropReason::ExtensionHeader));
        assert_eq!(read(&ipv4(6, &SYN[..12])), Err(DropReason::Truncated));
        let mut long = ipv4(6, &SYN);
        long[34 + 12] = 0x60;
        assert_eq!(read(&long), Err(DropReason::MalformedHeader));
        let mut vlan = ipv4(6, &SYN);
        vlan[12..14].copy_from_slice(&[0x81, 0]);
        assert_eq!(read(&vlan), Err(DropReason::NotIp));
    }

    #[test]
    fn source_routes_are_refused() {
        let check = |bytes: &[u8]| {
            let mut options = [0; IPV4_OPTIONS_MAX];
            options[..bytes.len()].copy_from_slice(bytes);
            check_ipv4_options(&options, bytes.len(), &mut Opaque::default())
        };
        assert_eq!(check(&[131, 4, 4, 0]), Err(DropReason::SourceRoute));
        assert_eq!(check(&[1, 1, 137, 3]), Err(DropReason::SourceRoute));
        assert_eq!(check(&[148, 4, 0, 0]), Ok(()));
        assert_eq!(check(&[148, 0, 0, 0]), Err(DropReason::MalformedHeader));
        assert_eq!(check(&[148, 1, 0, 0]), Err(DropReason::MalformedHeader));
        assert_eq!(check(&[148, 5, 0, 0]), Err(DropReason::MalformedHeader));
        assert_eq!(check(&[148, 66, 0, 0]), Err(DropReason::MalformedHeader));
        assert_eq!(check(&[1, 1, 1, 148]), Err(DropReason::MalformedHeader));
        assert_eq!(check(&[1, 1, 1, 0]), Ok(()));
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn as_many_ipv4_options_are_read_as_the_limit_says() {
        let check =
            |length| check_ipv4_options(&[1; IPV4_OPTIONS_MAX], length, &mut Opaque::default());
        assert_eq!(check(IPV4_OPTION_STEPS), Ok(()));
        assert_eq!(check(IPV4_OPTION_STEPS + 4), Err(DropReason::MalformedHeader));
    }

    #[test]
    fn ipv4_options_are_measured() {
        let mut frame = ipv4(6, &SYN);
        frame[14] = 0x46;
        frame.splice(34..34, [1, 1, 1, 0]);
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        let p = read(&frame).unwrap();
        assert_eq!((p.ipv4_options(), p.destination_port), (4, 80));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), ethertype in prop_oneof![Just(0x0800u16), Just(0x86dd), any::<u16>()]) {
            let mut frame = bytes;
            if frame.len() >= 14 {
                frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            let _ = read(&frame);
        }
    }
}
