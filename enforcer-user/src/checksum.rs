//! The TCP or UDP checksum of a whole frame.

use enforcer_common::wire::checksum::{fold, sum_bytes, transport};
use enforcer_common::wire::frame::{ETHERNET_BYTES, Frame, IPV6_BYTES, Packet, parse, protocol};

/// Offset of the checksum in the TCP header (RFC 9293 3.1).
const TCP_FIELD: usize = 16;
/// Offset of the checksum in the UDP header (RFC 768).
const UDP_FIELD: usize = 6;

/// Makes the checksum of a frame whole where it covers only the pseudo header, as the stack
/// leaves it for the device to finish. A whole one stays, as does a datagram without; any other is an error.
pub fn complete(frame: &mut [u8]) -> Result<(), &'static str> {
    let mut packet = Packet::default();
    let is_ip = parse(&*frame, &mut packet) == Ok(Frame::Ip);
    let at = match packet.protocol {
        protocol::TCP if is_ip => TCP_FIELD,
        protocol::UDP if is_ip => UDP_FIELD,
        _ => return Err("not a whole TCP or UDP segment"),
    };
    let (source, destination) = addresses(frame, packet.family).ok_or("its addresses are cut")?;
    let (start, end) = (usize::from(packet.transport), packet.end as usize);
    let segment = frame.get_mut(start..end).ok_or("its segment is cut")?;
    let field = read_field(segment, at);
    // RFC 768: none was computed. The sum of a pseudo header is never 0, as its protocol is not.
    if packet.protocol == protocol::UDP && field == 0 {
        return Ok(());
    }
    let pseudo = pseudo_sum(&source, &destination, packet.protocol, segment.len());
    if fold(u64::from(pseudo) + u64::from(sum_bytes(segment))) == 0xffff {
        return Ok(());
    }
    // 0 and 0xffff are one number in one's complement.
    if fold(u64::from(field)) % 0xffff != pseudo % 0xffff {
        return Err("its checksum is wrong");
    }
    write_field(segment, at, [0; 2]);
    let whole = match transport(&source, &destination, packet.protocol, segment) {
        // RFC 768: 0 would say that there is none.
        [0, 0] if packet.protocol == protocol::UDP => [0xff; 2],
        whole => whole,
    };
    write_field(segment, at, whole);
    Ok(())
}

fn addresses(frame: &[u8], family: u8) -> Option<(Vec<u8>, Vec<u8>)> {
    let (start, size) =
        if family == 4 { (ETHERNET_BYTES + 12, 4) } else { (ETHERNET_BYTES + IPV6_BYTES - 32, 16) };
    let bytes = frame.get(start..start + 2 * size)?;
    let (source, destination) = bytes.split_at(size);
    Some((source.to_vec(), destination.to_vec()))
}

fn pseudo_sum(source: &[u8], destination: &[u8], protocol: u8, length: usize) -> u16 {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    fold(
        u64::from(sum_bytes(source))
            + u64::from(sum_bytes(destination))
            + u64::from(u16::from_ne_bytes([0, protocol]))
            + u64::from(u16::from_ne_bytes(length.to_be_bytes())),
    )
}

fn read_field(segment: &[u8], at: usize) -> u16 {
    segment.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_ne_bytes(*bytes))
}

fn write_field(segment: &mut [u8], at: usize, value: [u8; 2]) {
    if let Some(field) = segment.get_mut(at..at + 2) {
        field.copy_from_slice(&value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::datapath::reset::{Segment, frame};

    /// A frame with a whole checksum, with data of any length behind its header.
    fn segment(v6: bool, data: &[u8]) -> Vec<u8> {
        let (source, destination) = if v6 {
            ([0x20; 16], [0xfd; 16])
        } else {
            let mapped = enforcer_common::abi::mapped;
            (mapped([192, 0, 2, 1]), mapped([192, 0, 2, 2]))
        };
        let bare = frame(&Segment {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source,
            destination,
            source_port: 1000,
            destination_port: 80,
            sequence: 7,
            acknowledgement: 9,
        });
        with_data(&bare, v6, data)
    }

    fn with_data(bare: &[u8], v6: bool, data: &[u8]) -> Vec<u8> {
        let mut bytes = bare.to_vec();
        bytes.extend(data);
        let ip_length = bytes.len() - ETHERNET_BYTES - if v6 { IPV6_BYTES } else { 0 };
        let at = if v6 { ETHERNET_BYTES + 4 } else { ETHERNET_BYTES + 2 };
        bytes[at..at + 2].copy_from_slice(&u16::try_from(ip_length).unwrap().to_be_bytes());
        set_partial(&mut bytes);
        bytes
    }

    fn tcp_offset(bytes: &[u8]) -> usize {
        let mut packet = Packet::default();
        parse(bytes, &mut packet).unwrap();
        packet.transport.into()
    }

    /// As the stack leaves it: the sum of the pseudo header.
    fn set_partial(bytes: &mut [u8]) {
        let start = tcp_offset(bytes);
        let family = if bytes[12] == 8 { 4 } else { 6 };
        let (source, destination) = addresses(bytes, family).unwrap();
        let sum = pseudo_sum(&source, &destination, protocol::TCP, bytes.len() - start);
        write_field(&mut bytes[start..], TCP_FIELD, sum.to_ne_bytes());
    }

    /// An independent check: RFC 1071 over the pseudo header and the segment, byte by byte.
    fn verifies(bytes: &[u8]) -> bool {
        let start = tcp_offset(bytes);
        let family = if bytes[12] == 8 { 4 } else { 6 };
        let (source, destination) = addresses(bytes, family).unwrap();
        let length = u32::try_from(bytes.len() - start).unwrap();
        let mut all = [source, destination].concat();
        all.extend(length.to_be_bytes());
        all.extend([0, 0, 0, 6]);
        all.extend(&bytes[start..]);
        let mut sum = 0u32;
        for pair in all.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff
    }

    #[test]
    fn a_damaged_segment_is_not_repaired() {
        for v6 in [false, true] {
            let mut whole = segment(v6, b"hello");
            complete(&mut whole).unwrap();
            let last = whole.len() - 1;
            whole[last] ^= 0x10;
            assert_eq!(complete(&mut whole), Err("its checksum is wrong"));
        }
    }

    #[test]
    fn what_is_neither_a_segment_nor_a_datagram_is_refused() {
        let mut short = segment(false, &[]);
        short.truncate(40);
        assert!(complete(&mut short).is_err());
        let mut icmp = segment(false, &[0; 8]);
        icmp[ETHERNET_BYTES + 9] = 1;
        assert!(complete(&mut icmp).is_err());
        assert!(complete(&mut []).is_err());
    }

    /// A datagram whose checksum is what its field says.
    fn datagram(data: &[u8], checksum: impl Fn(u16) -> u16) -> Vec<u8> {
        let mut bytes = segment(false, &[]);
        let start = tcp_offset(&bytes);
        bytes.truncate(start);
        bytes[ETHERNET_BYTES + 9] = protocol::UDP;
        let length = u16::try_from(8 + data.len()).unwrap();
        let total = u16::try_from(bytes.len() - ETHERNET_BYTES).unwrap() + length;
        bytes[ETHERNET_BYTES + 2..ETHERNET_BYTES + 4].copy_from_slice(&total.to_be_bytes());
        bytes.extend([0, 53, 0x80, 0]);
        bytes.extend(length.to_be_bytes());
        let (source, destination) = addresses(&bytes, 4).unwrap();
        let sum = pseudo_sum(&source, &destination, protocol::UDP, length.into());
        bytes.extend(checksum(sum).to_ne_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn a_datagram_gets_its_checksum_unless_it_has_none() {
        let mut partial = datagram(b"answer", |sum| sum);
        complete(&mut partial).unwrap();
        let whole = partial.clone();
        complete(&mut partial).unwrap();
        assert_eq!(partial, whole);
        assert_ne!(whole, datagram(b"answer", |sum| sum));
        let last = partial.len() - 1;
        partial[last] ^= 1;
        assert_eq!(complete(&mut partial), Err("its checksum is wrong"));
        let mut without = datagram(b"answer", |_| 0);
        complete(&mut without).unwrap();
        assert_eq!(without, datagram(b"answer", |_| 0));
    }

    proptest! {
        #[test]
        fn a_partial_checksum_becomes_whole_and_a_whole_one_stays(v6: bool, data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = segment(v6, &data);
            complete(&mut bytes).unwrap();
            prop_assert!(verifies(&bytes));
            let once = bytes.clone();
            complete(&mut bytes).unwrap();
            prop_assert_eq!(once, bytes);
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            if bytes.len() > 24 {
                bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
                bytes[if v6 { 20 } else { 23 }] = 6;
                bytes[14] = if v6 { 0x60 } else { 0x45 };
            }
            let _ = complete(&mut bytes);
        }
    }
}
