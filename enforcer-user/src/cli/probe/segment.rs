//! The SYNs that a probe sends and the answers it reads: TCP without IP header (RFC 9293 3.1).

use std::net::{IpAddr, SocketAddr};

/// Kind of an experimental option with an ExID (RFC 6994).
const EXPERIMENTAL_KIND: u8 = 253;
/// Our ExID in network order.
const EXID: [u8; 2] = enforcer_common::wire::option::EXID.to_be_bytes();
/// Length of our option: kind, length, ExID, 16 bytes of body.
const OPTION_BYTES: usize = 20;
/// Length of a TCP header without options.
const HEADER_BYTES: usize = 20;
/// Options of a usual SYN: MSS 1220, SACK permitted, window scale 7, padded by no-operations, because the
/// end-of-list option would hide ours.
const USUAL_OPTIONS: [u8; 12] = [2, 4, 0x04, 0xc4, 4, 2, 1, 3, 3, 7, 1, 1];
/// TCP's protocol number.
const TCP: u8 = 6;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What a SYN carries beyond the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Plain,
    Option,
    OptionAndData(usize),
}

impl Shape {
    /// Bytes behind the header.
    pub(super) fn data_bytes(self) -> usize {
        match self {
            Self::OptionAndData(bytes) => bytes,
            Self::Plain | Self::Option => 0,
        }
    }
}

/// The ends of a probe and its first sequence number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) sequence: u32,
}

/// What the other end said to a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The port is open. `echoed`: the answer carries an option of ours, real or mirrored.
    SynAck { echoed: bool },
    /// The port is closed; the reset acknowledges this many bytes behind the SYN.
    Reset { data_seen: u32 },
}

/// A SYN with its checksum.
pub(super) fn syn(ends: &Ends, shape: Shape) -> Vec<u8> {
    let mut options = USUAL_OPTIONS.to_vec();
    if shape != Shape::Plain {
        options.extend([EXPERIMENTAL_KIND, 20, EXID[0], EXID[1]]);
        options.resize(USUAL_OPTIONS.len() + OPTION_BYTES, 0);
    }
    let words = u8::try_from((HEADER_BYTES + options.len()) / 4).expect("at most 60 bytes");
    let mut segment = Vec::with_capacity(HEADER_BYTES + options.len() + shape.data_bytes());
    segment.extend(ends.local.port().to_be_bytes());
    segment.extend(ends.remote.port().to_be_bytes());
    segment.extend(ends.sequence.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend([words << 4, SYN]);
    segment.extend(64_240_u16.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(options);
    segment.resize(segment.len() + shape.data_bytes(), 0xa5);
    let sum = checksum(ends.local.ip(), ends.remote.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The answer in a segment, if it is one to the SYN of `ends`.
pub(super) fn answer(ends: &Ends, segment: &[u8]) -> Option<Answer> {
    let header = segment.get(..HEADER_BYTES)?;
    let be16 = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let ours = be16(0) == ends.remote.port() && be16(2) == ends.local.port();
    let flags = header[13] & (FIN | SYN | RST | ACK);
    let acknowledged = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let beyond_syn = acknowledged.wrapping_sub(ends.sequence).wrapping_sub(1);
    // Whatever acknowledges more than one packet's worth answers somebody else's SYN.
    if !ours || beyond_syn > u32::from(u16::MAX) {
        return None;
    }
    if flags == SYN | ACK {
        let header_bytes = usize::from(header[12] >> 4) * 4;
        let options = segment.get(HEADER_BYTES..header_bytes)?;
        return Some(Answer::SynAck { echoed: has_our_option(options) });
    }
    (flags == RST | ACK).then_some(Answer::Reset { data_seen: beyond_syn })
}

fn has_our_option(mut options: &[u8]) -> bool {
    loop {
        match *options {
            [] | [0, ..] => return false,
            [1, ..] => options = &options[1..],
            [kind, length, ..] if length >= 2 && usize::from(length) <= options.len() => {
                let (option, rest) = options.split_at(usize::from(length));
                if kind == EXPERIMENTAL_KIND && option.get(2..4) == Some(&EXID) {
                    return true;
                }
                options = rest;
            }
            _ => return false,
        }
    }
}

/// The checksum over pseudo header and segment (RFC 9293 3.1, RFC 8200 8.1).
fn checksum(local: IpAddr, remote: IpAddr, segment: &[u8]) -> u16 {
    let mut pseudo = Vec::with_capacity(40);
    for address in [local, remote] {
        match address {
            IpAddr::V4(v4) => pseudo.extend(v4.octets()),
            IpAddr::V6(v6) => pseudo.extend(v6.octets()),
        }
    }
    let length = u32::try_from(segment.len()).expect("a probe is one packet");
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, 0, 0, TCP]);
    let words = |bytes: &[u8]| -> u64 {
        let pairs = bytes.chunks(2);
        pairs.map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = words(&pseudo) + words(segment);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(local: &str, remote: &str) -> Ends {
        Ends {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            sequence: 0xffff_fff0,
        }
    }

    fn v4() -> Ends {
        ends("192.0.2.1:40000", "198.51.100.7:443")
    }

    /// An answer of the remote end, without options but `options`.
    fn reply(flags: u8, acknowledged: u32, options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; HEADER_BYTES];
        segment[..2].copy_from_slice(&443_u16.to_be_bytes());
        segment[2..4].copy_from_slice(&40_000_u16.to_be_bytes());
        segment[8..12].copy_from_slice(&acknowledged.to_be_bytes());
        segment[12] = u8::try_from((HEADER_BYTES + options.len()) / 4).unwrap() << 4;
        segment[13] = flags;
        segment.extend(options);
        segment
    }

    #[test]
    fn every_shape_has_its_size_and_a_checksum_that_holds() {
        let v6 = ends("[2001:db8::1]:40000", "[2001:db8::2]:443");
        for ends in [v4(), v6] {
            for (shape, bytes) in
                [(Shape::Plain, 32), (Shape::Option, 52), (Shape::OptionAndData(1001), 1053)]
            {
                let segment = syn(&ends, shape);
                assert_eq!(segment.len(), bytes);
                // Over a segment that holds its right checksum the sum is zero (RFC 1071).
                assert_eq!(checksum(ends.local.ip(), ends.remote.ip(), &segment), 0);
                let header = usize::from(segment[12] >> 4) * 4;
                assert_eq!(header + shape.data_bytes(), bytes);
                let options = &segment[HEADER_BYTES..header];
                assert_eq!(has_our_option(options), shape != Shape::Plain);
            }
        }
    }

    #[test]
    fn a_syn_ack_tells_whether_it_carries_our_option() {
        let acknowledged = 0xffff_fff1;
        let plain = reply(SYN | ACK, acknowledged, &[2, 4, 5, 0xb4]);
        assert_eq!(answer(&v4(), &plain), Some(Answer::SynAck { echoed: false }));
        let mut option = vec![1, 1, EXPERIMENTAL_KIND, 6, EXID[0], EXID[1], 0, 0];
        let echoed = reply(SYN | ACK, acknowledged, &option);
        assert_eq!(answer(&v4(), &echoed), Some(Answer::SynAck { echoed: true }));
        option[3] = 200;
        let broken = reply(SYN | ACK, acknowledged, &option);
        assert_eq!(answer(&v4(), &broken), Some(Answer::SynAck { echoed: false }));
    }

    #[test]
    fn a_reset_tells_how_much_data_arrived() {
        for data_seen in [0, 1000] {
            let acknowledged = 0xffff_fff1_u32.wrapping_add(data_seen);
            let reset = reply(RST | ACK, acknowledged, &[]);
            assert_eq!(answer(&v4(), &reset), Some(Answer::Reset { data_seen }));
        }
    }

    #[test]
    fn what_answers_another_syn_is_no_answer() {
        assert_eq!(answer(&v4(), &reply(RST | ACK, 5_000_000, &[])), None);
        assert_eq!(answer(&v4(), &reply(ACK, 0xffff_fff1, &[])), None);
        let mut other_port = reply(SYN | ACK, 0xffff_fff1, &[]);
        other_port[3] ^= 1;
        assert_eq!(answer(&v4(), &other_port), None);
        let mut beyond = reply(SYN | ACK, 0xffff_fff1, &[]);
        beyond[12] = 0xf0;
        assert_eq!(answer(&v4(), &beyond), None);
        assert_eq!(answer(&v4(), &[0; 19]), None);
    }
}
