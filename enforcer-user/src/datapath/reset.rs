//! The resets that end a flow at both of its ends.

use enforcer_common::abi::{Address, FlowKey, FlowValue, mapped};
use enforcer_common::wire::checksum::{fold, sum_bytes, transport};
use enforcer_common::wire::frame::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, TCP_BYTES, protocol, tcp_flags,
};

const TTL: u8 = 64;
const TCP_HEADER: u8 = 20;
const _: () = assert!(TCP_HEADER as usize == TCP_BYTES);

/// Frames that end a flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resets {
    /// As if sent by the far side.
    pub(super) to_workload: Vec<Vec<u8>>,
    /// As if sent by the workload.
    pub(super) to_remote: Vec<Vec<u8>>,
}

/// Both ends' resets of a TCP flow. A receiver obeys a reset only at exactly the sequence number
/// that it expects (RFC 5961 3.2): that is what it acknowledged last, or, where it has received
/// more than it acknowledged, the end of what was sent. Both are sent where they differ.
pub(super) fn resets(key: &FlowKey, flow: &FlowValue) -> Resets {
    if key.protocol != protocol::TCP {
        return Resets::default();
    }
    let towards_workload = Segment {
        source_mac: flow.remote_mac,
        destination_mac: flow.local_mac,
        source: key.remote,
        destination: key.local,
        source_port: key.remote_port,
        destination_port: key.local_port,
        sequence: 0,
        acknowledgement: flow.local_next,
    };
    let towards_remote = Segment {
        source_mac: flow.local_mac,
        destination_mac: flow.remote_mac,
        source: key.local,
        destination: key.remote,
        source_port: key.local_port,
        destination_port: key.remote_port,
        sequence: 0,
        acknowledgement: flow.remote_next,
    };
    Resets {
        to_workload: at_each(towards_workload, flow.local_ack, flow.remote_next),
        to_remote: at_each(towards_remote, flow.remote_ack, flow.local_next),
    }
}

fn at_each(segment: Segment, acknowledged: u32, sent: u32) -> Vec<Vec<u8>> {
    let mut sequences = vec![acknowledged];
    if sent != acknowledged {
        sequences.push(sent);
    }
    sequences.into_iter().map(|sequence| frame(&Segment { sequence, ..segment })).collect()
}

/// What a reset says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
}

/// A frame with RST and ACK set and its checksums whole.
pub(crate) fn frame(segment: &Segment) -> Vec<u8> {
    let (v4_source, v4_destination) = (unmapped(&segment.source), unmapped(&segment.destination));
    let mut frame = Vec::with_capacity(80);
    frame.extend(segment.destination_mac);
    frame.extend(segment.source_mac);
    if let (Some(source), Some(destination)) = (v4_source, v4_destination) {
        frame.extend(ETHERTYPE_IPV4.to_be_bytes());
        frame.extend(ipv4(source, destination));
        frame.extend(tcp(segment, &source, &destination));
    } else {
        frame.extend(ETHERTYPE_IPV6.to_be_bytes());
        frame.extend(ipv6(segment));
        frame.extend(tcp(segment, &segment.source, &segment.destination));
    }
    frame
}

/// RFC 791 3.1, without options, not to be fragmented.
fn ipv4(source: [u8; 4], destination: [u8; 4]) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[3] = 20 + TCP_HEADER;
    header[6] = 0x40;
    header[8] = TTL;
    header[9] = protocol::TCP;
    header[12..16].copy_from_slice(&source);
    header[16..].copy_from_slice(&destination);
    let sum = !fold(u64::from(sum_bytes(&header)));
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
    header
}

/// RFC 8200 3.
fn ipv6(segment: &Segment) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[5] = TCP_HEADER;
    header[6] = protocol::TCP;
    header[7] = TTL;
    header[8..24].copy_from_slice(&segment.source);
    header[24..].copy_from_slice(&segment.destination);
    header
}

/// RFC 9293 3.1, without options, with a window of 0.
fn tcp(segment: &Segment, source: &[u8], destination: &[u8]) -> [u8; TCP_BYTES] {
    let mut header = [0; TCP_BYTES];
    header[..2].copy_from_slice(&segment.source_port.to_be_bytes());
    header[2..4].copy_from_slice(&segment.destination_port.to_be_bytes());
    header[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    header[8..12].copy_from_slice(&segment.acknowledgement.to_be_bytes());
    header[12] = (TCP_HEADER / 4) << 4;
    header[13] = tcp_flags::RST | tcp_flags::ACK;
    let checksum = transport(source, destination, protocol::TCP, &header);
    header[16..18].copy_from_slice(&checksum);
    header
}

fn unmapped(address: &Address) -> Option<[u8; 4]> {
    let last = *address.last_chunk()?;
    (mapped(last) == *address).then_some(last)
}

#[cfg(test)]
mod tests {
    use enforcer_common::abi::flow_state;
    use enforcer_common::datapath::flow::on_segment;
    use enforcer_common::wire::frame::{Frame, Packet, parse};

    use super::*;
    use crate::checksum;

    fn key(v6: bool) -> FlowKey {
        let address = |last: u8| if v6 { [last; 16] } else { mapped([192, 0, 2, last]) };
        FlowKey {
            workload: 1,
            protocol: protocol::TCP,
            zero: 0,
            local_port: 40_000,
            remote_port: 80,
            local: address(1),
            remote: address(2),
        }
    }

    fn flow() -> FlowValue {
        FlowValue {
            deadline_ns: u64::MAX,
            state: flow_state::CUT,
            local_next: 100,
            local_ack: 500,
            remote_next: 500,
            remote_ack: 100,
            local_mac: [2; 6],
            remote_mac: [4; 6],
            ..FlowValue::default()
        }
    }

    fn read(frame: &[u8]) -> Packet {
        let mut packet = Packet::default();
        assert_eq!(parse(frame, &mut packet), Ok(Frame::Ip));
        packet
    }

    #[test]
    fn an_idle_flow_gets_one_reset_at_each_end_with_the_expected_numbers() {
        for v6 in [false, true] {
            let both = resets(&key(v6), &flow());
            let [inward] = &both.to_workload[..] else { panic!("{both:?}") };
            let [outward] = &both.to_remote[..] else { panic!("{both:?}") };
            let (i, o) = (read(inward), read(outward));
            assert_eq!((i.sequence, i.acknowledgement), (500, 100));
            assert_eq!((o.sequence, o.acknowledgement), (100, 500));
            let at = if v6 { 22..38 } else { 26..30 };
            let shown = |address: &Address| address[16 - at.len()..].to_vec();
            assert_eq!((inward[at.clone()].to_vec(), i.source_port), (shown(&key(v6).remote), 80));
            assert_eq!(
                (outward[at.clone()].to_vec(), o.source_port),
                (shown(&key(v6).local), 40_000)
            );
            assert_eq!(inward[..6], [2; 6]);
            assert_eq!(outward[..6], [4; 6]);
            assert!(i.has(tcp_flags::RST | tcp_flags::ACK));
        }
    }

    #[test]
    fn what_was_sent_but_not_acknowledged_gets_a_second_reset() {
        let f = FlowValue { remote_next: 700, ..flow() };
        let both = resets(&key(false), &f);
        let sequences: Vec<u32> =
            both.to_workload.iter().map(|frame| read(frame).sequence).collect();
        assert_eq!(sequences, [500, 700]);
        assert_eq!(both.to_remote.len(), 1);
    }

    #[test]
    fn the_kernel_lets_them_through_a_cut_flow() {
        for v6 in [false, true] {
            let f = FlowValue { remote_next: 700, local_next: 300, ..flow() };
            let both = resets(&key(v6), &f);
            for (frames, from_workload) in [(both.to_workload, false), (both.to_remote, true)] {
                for frame in frames {
                    let judged = on_segment(&mut f.clone(), &read(&frame), from_workload, 1);
                    assert_eq!(judged, Ok(()));
                }
            }
        }
    }

    #[test]
    fn checksums_are_whole() {
        for v6 in [false, true] {
            for frame in resets(&key(v6), &flow()).to_workload {
                let mut checked = frame.clone();
                checksum::complete(&mut checked).unwrap();
                assert_eq!(checked, frame);
            }
        }
        let v4 = resets(&key(false), &flow()).to_remote.remove(0);
        assert_eq!(fold(u64::from(sum_bytes(&v4[14..34]))), 0xffff);
    }

    #[test]
    fn other_protocols_have_no_reset() {
        let udp = FlowKey { protocol: protocol::UDP, ..key(false) };
        assert_eq!(resets(&udp, &flow()), Resets::default());
    }
}
