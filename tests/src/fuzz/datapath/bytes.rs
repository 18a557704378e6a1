//! Frames byte by byte: growing, cutting, and how far a checksum is from right.

use enforcer_common::wire::checksum::{fold, sum_bytes};
use enforcer_common::wire::frame::{ETHERNET_BYTES, Frame, Packet, parse, protocol};

const TCP_CHECK: usize = 16;
const NONCE_BYTES: usize = 8;
const IPV4_CHECK: usize = ETHERNET_BYTES + 10;

/// What a frame must have become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// Its bytes, checksums zero.
    pub without_checksums: Vec<u8>,
    /// How far IPv4's and TCP's checksums must be from right; `None` where that is not known.
    pub residues: Option<[u16; 2]>,
    /// Where a nonce stands that only the programs know; it is zero above.
    pub nonce_at: Option<usize>,
}

impl Rewritten {
    /// The frame as it is.
    pub fn unchanged(frame: &[u8]) -> Self {
        let (without_checksums, residues) = (without_checksums(frame), Some(residues(frame)));
        Self { without_checksums, residues, nonce_at: None }
    }

    /// The frame with `behind` instead of everything behind the first `header` bytes of TCP, its
    /// header `grown` longer than that.
    pub fn resized(frame: &[u8], p: &Packet, header: usize, grown: usize, behind: &[u8]) -> Self {
        let (at, transport) = (ETHERNET_BYTES, usize::from(p.transport));
        let mut new = frame[..transport + header].to_vec();
        new.extend(behind);
        let words = u8::try_from((header + grown) / 4).expect("at most 15");
        new[transport + 12] = words << 4 | (new[transport + 12] & 0x0f);
        let length = u16::try_from(new.len() - at).expect("a frame's length");
        if p.family == 4 {
            new[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
        } else {
            new[at + 4..at + 6].copy_from_slice(&(length - 40).to_be_bytes());
        }
        let without_checksums = without_checksums(&new);
        Self { without_checksums, residues: Some(residues(frame)), nonce_at: None }
    }
}

/// Whether the bytes are as they must be, checksums apart.
pub fn is_same(expected: &Rewritten, found: &[u8]) -> bool {
    let mut found = without_checksums(found);
    let nonce = expected.nonce_at.and_then(|at| found.get_mut(at..at + NONCE_BYTES));
    if let Some(nonce) = nonce {
        nonce.fill(0);
    }
    found == expected.without_checksums
}

/// The frame with zeros for IPv4's and TCP's checksums.
pub fn without_checksums(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let mut p = Packet::default();
    if parse(frame, &mut p) == Ok(Frame::Ip) {
        if p.family == 4 {
            bytes[IPV4_CHECK..IPV4_CHECK + 2].fill(0);
        }
        if p.protocol == protocol::TCP {
            let at = usize::from(p.transport) + TCP_CHECK;
            bytes[at..at + 2].fill(0);
        }
    }
    bytes
}

/// The sums over what IPv4's and TCP's checksums cover; zero is right, or there is none.
pub fn residues(frame: &[u8]) -> [u16; 2] {
    let mut p = Packet::default();
    if parse(frame, &mut p) != Ok(Frame::Ip) {
        return [0; 2];
    }
    let transport = usize::from(p.transport);
    let network = if p.family == 4 { sum_bytes(&frame[ETHERNET_BYTES..transport]) } else { 0xffff };
    let mut sum = 0xffff;
    if p.protocol == protocol::TCP {
        let segment = &frame[transport..p.end as usize];
        let addresses = if p.family == 4 { 12..20 } else { 8..40 };
        let addresses = &frame[ETHERNET_BYTES + addresses.start..ETHERNET_BYTES + addresses.end];
        let length = u16::try_from(segment.len()).expect("a frame's length").to_be_bytes();
        let parts = [addresses, &length, &[0, p.protocol], segment];
        sum = fold(parts.iter().map(|part| u64::from(sum_bytes(part))).sum());
    }
    // One's complement has two zeros.
    [network, sum].map(|sum| if sum == 0xffff { 0 } else { sum })
}
