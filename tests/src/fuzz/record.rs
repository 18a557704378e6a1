//! Records of the event rings.

use enforcer_common::abi::{FlowKey, HELD_FRAME_MAX, HeldSegment, ReportedSegment, record_kind};
use enforcer_user::datapath::record::{opened, parse_held, parse_reported};
use enforcer_user::engine::HeldFrame;

use super::feed::Feed;

/// Where a held record says its side.
const HOST_SIDE: usize = std::mem::offset_of!(HeldSegment, host_side);

/// `data` is a record as it comes; and its bytes are fields of records that read back.
pub fn run(data: &[u8]) {
    if let Some(held) = parse_held(data) {
        assert!(held.frame.len() <= HELD_FRAME_MAX);
        // Epoch and padding are not read.
        let bytes = held_bytes(&held, &data[HeldSegment::HEADER_BYTES - 8..][..8], data[HOST_SIDE]);
        assert!(data.starts_with(&bytes), "{held:?}");
        assert!(parse_held(&bytes[..bytes.len() - 1]).is_none());
        assert!(parse_reported(data).is_none());
    }
    if let Some(rejected) = parse_reported(data) {
        assert!(data.starts_with(&rejected_bytes(&rejected)), "{rejected:?}");
        if let Some(flow) = opened(&rejected) {
            assert_eq!((rejected.kind, flow.key), (record_kind::OPENED, rejected.key));
            assert!([flow.key.local_port, flow.key.remote_port].contains(&flow.port));
        }
    }
    held_reads_back(Feed::new(data));
    rejected_reads_back(Feed::new(data));
}

fn held_reads_back(mut feed: Feed<'_>) {
    let host_side = feed.byte();
    let held = HeldFrame {
        ifindex: feed.u32(),
        host_side: host_side != 0,
        time_ns: feed.u64(),
        key: key(&mut feed),
        local_handle: feed.array(),
        peer: feed.u64(),
        port: feed.u16(),
        direction: feed.byte(),
        transport_offset: feed.u16(),
        frame: feed.bytes(HELD_FRAME_MAX + 1).to_vec(),
    };
    let bytes = held_bytes(&held, &[0; 8], host_side);
    let expected = (held.frame.len() <= HELD_FRAME_MAX).then_some(held);
    assert_eq!(parse_held(&bytes), expected);
}

fn rejected_reads_back(mut feed: Feed<'_>) {
    let kinds = [record_kind::REJECTED, record_kind::CONNECTED, record_kind::OPENED];
    let rejected = ReportedSegment {
        kind: kinds[usize::from(feed.byte()) % kinds.len()],
        ifindex: feed.u32(),
        time_ns: feed.u64(),
        key: key(&mut feed),
        peer: feed.u64(),
        reason: feed.u16(),
        from_workload: feed.byte(),
        tcp_flags: feed.byte(),
        zero: feed.u32(),
    };
    let bytes = rejected_bytes(&rejected);
    assert_eq!(bytes.len(), size_of::<ReportedSegment>());
    let read = parse_reported(&bytes).expect("a whole record");
    assert_eq!(rejected_bytes(&read), bytes);
    assert!(parse_reported(&bytes[..bytes.len() - 1]).is_none());
}

fn key(feed: &mut Feed<'_>) -> FlowKey {
    FlowKey {
        workload: feed.u16(),
        protocol: feed.byte(),
        zero: feed.byte(),
        local_port: feed.u16(),
        remote_port: feed.u16(),
        local: feed.array(),
        remote: feed.array(),
    }
}

fn key_bytes(key: &FlowKey) -> Vec<u8> {
    let mut bytes = key.workload.to_ne_bytes().to_vec();
    bytes.extend([key.protocol, key.zero]);
    bytes.extend(key.local_port.to_ne_bytes());
    bytes.extend(key.remote_port.to_ne_bytes());
    bytes.extend(key.local);
    bytes.extend(key.remote);
    bytes
}

/// The record as the kernel's layout has it (`HeldSegment`), with the last eight bytes in front of
/// the frame given, and the byte that says the side.
fn held_bytes(held: &HeldFrame, unread: &[u8], host_side: u8) -> Vec<u8> {
    let mut bytes = record_kind::HELD.to_ne_bytes().to_vec();
    bytes.extend(held.ifindex.to_ne_bytes());
    bytes.extend(held.time_ns.to_ne_bytes());
    bytes.extend(key_bytes(&held.key));
    bytes.extend(held.local_handle);
    bytes.extend(held.peer.to_ne_bytes());
    bytes.extend(held.port.to_ne_bytes());
    bytes.extend([held.direction, host_side]);
    bytes.extend(held.transport_offset.to_ne_bytes());
    let length = u16::try_from(held.frame.len()).expect("a frame's length");
    bytes.extend(length.to_ne_bytes());
    bytes.extend(unread);
    assert_eq!(bytes.len(), HeldSegment::HEADER_BYTES);
    bytes.extend(&held.frame);
    bytes
}

fn rejected_bytes(rejected: &ReportedSegment) -> Vec<u8> {
    let mut bytes = rejected.kind.to_ne_bytes().to_vec();
    bytes.extend(rejected.ifindex.to_ne_bytes());
    bytes.extend(rejected.time_ns.to_ne_bytes());
    bytes.extend(key_bytes(&rejected.key));
    bytes.extend(rejected.peer.to_ne_bytes());
    bytes.extend(rejected.reason.to_ne_bytes());
    bytes.extend([rejected.from_workload, rejected.tcp_flags]);
    bytes.extend(rejected.zero.to_ne_bytes());
    bytes
}
