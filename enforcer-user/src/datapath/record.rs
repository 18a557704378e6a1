//! Records of the event rings, read without trust in their lengths.

use enforcer_common::abi::{
    Address, FlowKey, HELD_FRAME_MAX, HeldSegment, ReportedSegment, direction, flow_flags,
    record_kind,
};

use crate::engine::{HeldFrame, LiveFlow};

/// Reads a record of a segment that the kernel asks about; `None` if it is not whole.
#[must_use]
pub fn parse_held(record: &[u8]) -> Option<HeldFrame> {
    parse_frame(record, record_kind::HELD)
}

/// Reads a record of a datagram to or from a name server; `None` if it is not whole.
#[must_use]
pub fn parse_names(record: &[u8]) -> Option<HeldFrame> {
    parse_frame(record, record_kind::NAMES)
}

fn parse_frame(record: &[u8], kind: u32) -> Option<HeldFrame> {
    let mut fields = Fields(record);
    if fields.u32()? != kind {
        return None;
    }
    let ifindex = fields.u32()?;
    let time_ns = fields.u64()?;
    let key = fields.key()?;
    let local_handle = fields.take()?;
    let peer = fields.u64()?;
    let port = fields.u16()?;
    let [direction, host_side] = fields.take()?;
    let transport_offset = fields.u16()?;
    let length = usize::from(fields.u16()?);
    let _epoch = fields.u32()?;
    let _zero = fields.u32()?;
    debug_assert_eq!(record.len() - fields.0.len(), HeldSegment::HEADER_BYTES);
    if length > HELD_FRAME_MAX {
        return None;
    }
    let frame = fields.0.get(..length)?.to_vec();
    let host_side = host_side != 0;
    Some(HeldFrame {
        ifindex,
        host_side,
        time_ns,
        key,
        local_handle,
        peer,
        port,
        direction,
        transport_offset,
        frame,
    })
}

/// Reads a record of a sampled drop or of a connection that is told; `None` if it is not whole.
#[must_use]
pub fn parse_reported(record: &[u8]) -> Option<ReportedSegment> {
    let mut fields = Fields(record);
    let kind = fields.u32()?;
    if ![record_kind::REJECTED, record_kind::CONNECTED, record_kind::OPENED].contains(&kind) {
        return None;
    }
    let ifindex = fields.u32()?;
    let time_ns = fields.u64()?;
    let key = fields.key()?;
    let peer = fields.u64()?;
    let reason = fields.u16()?;
    let [from_workload, tcp_flags] = fields.take()?;
    let zero = fields.u32()?;
    Some(ReportedSegment {
        kind,
        ifindex,
        time_ns,
        key,
        peer,
        reason,
        from_workload,
        tcp_flags,
        zero,
    })
}

/// The connection that a record of kind [`record_kind::OPENED`] tells of; `None` if it is none or contradicts itself.
#[must_use]
pub fn opened(record: &ReportedSegment) -> Option<LiveFlow> {
    let key = record.key;
    // The tuple is said from the workload's side, whichever segment was the last of the handshake.
    let (direction, port) = match record.from_workload {
        0 => (direction::INGRESS, key.local_port),
        1 => (direction::EGRESS, key.remote_port),
        _ => return None,
    };
    let is_plain = record.kind == record_kind::OPENED
        && record.peer == 0
        && record.reason == 0
        && key.zero == 0;
    is_plain.then_some(LiveFlow { key, peer: 0, port, direction, flags: flow_flags::PLAIN })
}

/// The rest of a record. Integers are in host order, as the programs wrote them.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn key(&mut self) -> Option<FlowKey> {
        let workload = self.u16()?;
        let [protocol, zero] = self.take()?;
        let local_port = self.u16()?;
        let remote_port = self.u16()?;
        let local: Address = self.take()?;
        let remote: Address = self.take()?;
        Some(FlowKey { workload, protocol, zero, local_port, remote_port, local, remote })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> FlowKey {
        FlowKey {
            workload: 7,
            protocol: 6,
            zero: 0,
            local_port: 80,
            remote_port: 40_000,
            local: [1; 16],
            remote: [2; 16],
        }
    }

    fn bytes_of<T: aya::Pod>(value: &T) -> Vec<u8> {
        let start = std::ptr::from_ref(value).cast::<u8>();
        // SAFETY: a `Pod` value has no padding, so all of its bytes are initialised.
        unsafe { std::slice::from_raw_parts(start, size_of::<T>()) }.to_vec()
    }

    fn held() -> Vec<u8> {
        let mut frame = [0; HELD_FRAME_MAX];
        frame[..4].copy_from_slice(&[9, 8, 7, 6]);
        bytes_of(&HeldSegment {
            kind: record_kind::HELD,
            ifindex: 3,
            time_ns: 5,
            key: key(),
            local_handle: [4; 8],
            peer: 6,
            port: 80,
            direction: 2,
            host_side: 1,
            transport_offset: 34,
            frame_length: 4,
            epoch: 11,
            zero: 0,
            frame,
        })
    }

    #[test]
    fn a_held_segment_reads_as_the_kernel_lays_it_out() {
        let expected = HeldFrame {
            ifindex: 3,
            host_side: true,
            time_ns: 5,
            key: key(),
            local_handle: [4; 8],
            peer: 6,
            port: 80,
            direction: 2,
            transport_offset: 34,
            frame: vec![9, 8, 7, 6],
        };
        let record = held();
        assert_eq!(parse_held(&record), Some(expected.clone()));
        assert_eq!(parse_names(&record), None);
        let mut names = record.clone();
        names[..4].copy_from_slice(&record_kind::NAMES.to_ne_bytes());
        assert_eq!(parse_names(&names), Some(expected.clone()));
        // Only the frame's own bytes travel.
        let short = &record[..HeldSegment::HEADER_BYTES + 4];
        assert_eq!(parse_held(short), Some(expected));
        assert_eq!(parse_held(&short[..short.len() - 1]), None);
    }

    #[test]
    fn a_reported_segment_reads_as_the_kernel_lays_it_out() {
        let record = ReportedSegment {
            kind: record_kind::CONNECTED,
            ifindex: 3,
            time_ns: 5,
            key: key(),
            peer: 1 << 40,
            reason: 16,
            from_workload: 1,
            tcp_flags: 2,
            zero: 0,
        };
        let bytes = bytes_of(&record);
        let read = parse_reported(&bytes).unwrap();
        assert_eq!(bytes_of(&read), bytes);
        assert!(parse_reported(&bytes[..71]).is_none());
        assert!(parse_held(&bytes).is_none());
    }

    #[test]
    fn who_opened_a_connection_says_whose_port_it_is_for() {
        let record = ReportedSegment {
            kind: record_kind::OPENED,
            ifindex: 3,
            time_ns: 5,
            key: key(),
            peer: 0,
            reason: 0,
            from_workload: 0,
            tcp_flags: 16,
            zero: 0,
        };
        let told =
            |record: &ReportedSegment| opened(record).map(|flow| (flow.direction, flow.port));
        let called = ReportedSegment { from_workload: 1, ..record };
        assert_eq!(told(&record), Some((direction::INGRESS, 80)));
        assert_eq!(told(&called), Some((direction::EGRESS, 40_000)));
        let foreign = FlowKey { zero: 1, ..key() };
        for surprising in [
            ReportedSegment { kind: record_kind::CONNECTED, ..record },
            ReportedSegment { peer: 1, ..record },
            ReportedSegment { reason: 16, ..record },
            ReportedSegment { from_workload: 2, ..record },
            ReportedSegment { key: foreign, ..record },
        ] {
            assert_eq!(told(&surprising), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 1u32..7) {
            if let Some(first) = bytes.first_chunk_mut() {
                *first = kind.to_ne_bytes();
            }
            let _ = parse_held(&bytes);
            let _ = parse_names(&bytes);
            let _ = parse_reported(&bytes).as_ref().map(opened);
        }
    }
}
