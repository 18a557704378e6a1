//! TCP segments as stacks send them, and what the protocol adds.

use enforcer_common::abi::{Handle, Mac, Nonce};

use super::packet::{End, ip_with_options, transport_checksum};

/// FIN.
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// PSH.
pub const PSH: u8 = 8;
/// ACK.
pub const ACK: u8 = 16;

/// IP protocol of TCP.
pub const TCP: u8 = 6;
/// The options of a Linux SYN: MSS, SACK permitted, timestamps, no-operation, window scale.
pub const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 1, 2, 0, 0, 0, 0, 1, 3, 3, 7];
/// The options of any later Linux segment: two no-operations, timestamps.
pub const LATER_OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 1, 3, 0, 0, 1, 2];

/// A TCP segment with its addresses; lengths and checksums come when it becomes a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Source.
    pub from: End,
    /// Destination.
    pub to: End,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: u8,
    /// Option bytes, a multiple of four.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Options of the IPv4 header, a multiple of four bytes.
    pub ip_options: Vec<u8>,
}

impl Segment {
    /// A segment without options and payload.
    #[must_use]
    pub fn new(from: End, to: End, flags: u8, sequence: u32, acknowledgement: u32) -> Self {
        let (options, payload, ip_options) = Default::default();
        Self { from, to, sequence, acknowledgement, flags, options, payload, ip_options }
    }

    /// The same with these options.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// The same with this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The same with other flags.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// The same with the option of S1 or S2 behind the others.
    #[must_use]
    pub fn hello(self, handle: Handle, nonce: Nonce) -> Self {
        self.stamped(&[handle, nonce].concat())
    }

    /// The same with the option of S3 behind the others.
    #[must_use]
    pub fn proof(self, mac: Mac) -> Self {
        self.stamped(&mac)
    }

    fn stamped(mut self, body: &[u8]) -> Self {
        self.options.extend([253, 20, 0x45, 0x4e]);
        self.options.extend(body);
        self
    }

    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.from.port.to_be_bytes());
        tcp.extend(self.to.port.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        let words = u8::try_from((20 + self.options.len()) / 4).expect("a TCP header's length");
        assert!(self.options.len() % 4 == 0 && words <= 15, "options: {:?}", self.options);
        tcp.extend([words << 4, self.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let sum = transport_checksum(&self.from, &self.to, TCP, &tcp);
        tcp[16..18].copy_from_slice(&sum);
        ip_with_options(&self.from, &self.to, TCP, &self.ip_options, &tcp)
    }
}

/// Whether the TCP checksum of a frame without IPv4 options is right.
#[must_use]
pub fn is_intact(frame: &[u8], from: &End, to: &End) -> bool {
    let header = if from.address.is_ipv4() { 20 } else { 40 };
    // With the checksum in place, the sum over everything is zero.
    transport_checksum(from, to, TCP, &frame[14 + header..]) == [0, 0]
}
