//! A frame of the network: headers as the datapath reads them, and a held segment as the engine does.

use enforcer_common::abi::{DropReason, address, mapped};
use enforcer_common::datapath::opaque::Opaque;
use enforcer_common::wire::frame::{
    ETHERNET_BYTES, Frame, IPV4_OPTIONS_MAX, Packet, check_ipv4_options, parse, protocol,
};
use enforcer_user::engine::segment::{complete_checksum, read};
use enforcer_user::identity::MAX_CREDENTIAL_BYTES;

use crate::program::packet::internet_checksum;

/// Most IPv4 options that the datapath reads.
const IPV4_OPTIONS_READ: usize = 12;

/// `data` is the frame.
pub fn run(data: &[u8]) {
    let mut packet = Packet::default();
    if let Ok(Frame::Ip) = parse(data, &mut packet) {
        bounds(data, &packet);
        same_bytes(data, &packet);
        padding_says_nothing(data, packet);
        ipv4_options(data, &packet);
        checksum(data, &packet);
    }
    segment(data);
}

fn bounds(data: &[u8], p: &Packet) {
    let (transport, end) = (usize::from(p.transport), p.end as usize);
    assert!(ETHERNET_BYTES + 20 <= transport && transport <= end && end <= data.len());
    assert!(p.ipv4_options() <= IPV4_OPTIONS_MAX);
    if p.protocol == protocol::TCP {
        let header = usize::from(p.tcp_header);
        assert!((20..=60).contains(&header) && transport + header <= end);
        assert_eq!(p.payload() as usize, end - transport - header);
        assert_eq!(p.options(), header - 20);
    }
}

/// What was read, looked up in the bytes again.
fn same_bytes(data: &[u8], p: &Packet) {
    let at = ETHERNET_BYTES;
    let (source, destination, number) = match p.family {
        4 => {
            let v4 = |at: usize| mapped(*data[at..].first_chunk().expect("inside"));
            (v4(at + 12), v4(at + 16), data[at + 9])
        }
        6 => {
            let v6 = |at: usize| *data[at..].first_chunk().expect("inside");
            (v6(at + 8), v6(at + 24), data[at + 6])
        }
        other => panic!("family {other}"),
    };
    assert_eq!((address(p.source), address(p.destination)), (source, destination));
    assert_eq!(p.protocol, number);
    let transport = &data[usize::from(p.transport)..p.end as usize];
    match p.protocol {
        protocol::TCP => {
            let fields = [&p.source_port.to_be_bytes()[..], &p.destination_port.to_be_bytes()];
            assert_eq!(transport[..4], fields.concat());
            assert_eq!(transport[4..8], p.sequence.to_be_bytes());
            assert_eq!(transport[8..12], p.acknowledgement.to_be_bytes());
            assert_eq!((transport[12] >> 4) * 4, p.tcp_header);
            assert_eq!(transport[13], p.flags);
        }
        protocol::UDP | protocol::SCTP => {
            let fields = [&p.source_port.to_be_bytes()[..], &p.destination_port.to_be_bytes()];
            assert_eq!(transport[..4], fields.concat());
        }
        protocol::ICMP | protocol::ICMPV6 => assert_eq!(transport[0], p.icmp_type),
        _ => assert_eq!((p.source_port, p.destination_port), (0, 0)),
    }
}

/// A frame that ends with its packet reads the same, one that ends earlier does not read at all.
fn padding_says_nothing(data: &[u8], packet: Packet) {
    let end = packet.end as usize;
    let mut again = Packet::default();
    assert_eq!(parse(&data[..end], &mut again), Ok(Frame::Ip));
    assert_eq!(again, packet);
    assert!(parse(&data[..end - 1], &mut again).is_err());
}

fn ipv4_options(data: &[u8], p: &Packet) {
    let length = p.ipv4_options();
    let mut options = [0; IPV4_OPTIONS_MAX];
    options[..length].copy_from_slice(&data[ETHERNET_BYTES + 20..][..length]);
    let found = check_ipv4_options(&options, length, &mut Opaque::default());
    assert_eq!(found, ipv4_options_plainly(&options[..length]), "{options:02x?}");
}

/// RFC 791 3.1 as one would write it without a verifier.
fn ipv4_options_plainly(mut rest: &[u8]) -> Result<(), DropReason> {
    for _ in 0..IPV4_OPTIONS_READ {
        rest = match rest {
            [] | [0, ..] => return Ok(()),
            [1, rest @ ..] => rest,
            [131 | 137, ..] => return Err(DropReason::SourceRoute),
            [_, size, ..] if *size >= 2 => {
                rest.get(usize::from(*size)..).ok_or(DropReason::MalformedHeader)?
            }
            _ => return Err(DropReason::MalformedHeader),
        };
    }
    if rest.is_empty() { Ok(()) } else { Err(DropReason::MalformedHeader) }
}

/// Completing a checksum changes nothing else, makes it right where it changes it, and does so once.
fn checksum(data: &[u8], p: &Packet) {
    let mut completed = data.to_vec();
    complete_checksum(&mut completed, p);
    let at = usize::from(p.transport) + 16;
    if completed == data {
        return;
    }
    assert_eq!(completed.len(), data.len());
    assert_eq!((&completed[..at], &completed[at + 2..]), (&data[..at], &data[at + 2..]));
    assert!(is_right(&completed, p), "completed to a wrong checksum");
}

fn is_right(frame: &[u8], p: &Packet) -> bool {
    let (source, destination) = (address(p.source), address(p.destination));
    let skipped = if p.family == 4 { 12 } else { 0 };
    let segment = &frame[usize::from(p.transport)..p.end as usize];
    let length = u32::try_from(segment.len()).expect("a frame's length").to_be_bytes();
    let parts = [&source[skipped..], &destination[skipped..], &length, &[0, p.protocol], segment];
    internet_checksum(&parts) == [0, 0]
}

fn segment(data: &[u8]) {
    let Ok(segment) = read(data) else { return };
    let (start, end) = (segment.credential.start, segment.credential.end);
    assert!(start <= end && end == segment.packet.end as usize && end <= data.len());
    assert!(end - start <= MAX_CREDENTIAL_BYTES);
    let header = usize::from(segment.packet.transport) + usize::from(segment.packet.tcp_header);
    assert!(header <= start);
    let option = &data[header - 20..header];
    assert_eq!(option[..4], [253, 20, 0x45, 0x4e]);
    assert!(segment.handle == [0; 8] || option[4..12] == segment.handle);
}
