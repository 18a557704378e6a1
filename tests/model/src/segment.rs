//! A TCP segment, as far as the handshake reads it.

use enforcer_common::abi::{Address, Handle, Mac};
use enforcer_common::wire::frame::{Packet, protocol};
use enforcer_common::wire::option::OPTION_BYTES;

const TRANSPORT: u16 = 34;
const HEADER_BYTES: u8 = 20;

/// Address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    /// IPv4 in mapped form.
    pub address: Address,
    /// TCP port.
    pub port: u16,
}

/// A connection, seen from one workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// The workload's end.
    pub local: End,
    /// The far end.
    pub remote: End,
}

/// What stands in front of the credential in S2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// `mac_B`.
    pub mac: Mac,
    /// B's end as B sees it.
    pub end: End,
}

/// A segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Segment {
    /// Source.
    pub from: End,
    /// Destination.
    pub to: End,
    /// TCP flags.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Body of our option: handle and nonce, or the proof.
    pub option: Option<[u8; 16]>,
    /// In S2, in front of the credential.
    pub prefix: Option<Prefix>,
    /// Handle of the credential that is the rest of the payload. All credentials are equally long.
    pub credential: Option<Handle>,
    /// Bytes of the application's data.
    pub data: u16,
    /// Whether the TCP checksum is right.
    pub is_intact: bool,
}

impl Segment {
    /// A segment without option and payload.
    #[must_use]
    pub fn new(ends: [End; 2], flags: u8, sequence: u32, acknowledgement: u32) -> Self {
        let [from, to] = ends;
        Self {
            from,
            to,
            flags,
            sequence,
            acknowledgement,
            option: None,
            prefix: None,
            credential: None,
            data: 0,
            is_intact: true,
        }
    }

    /// Whether every flag of `bits` is set.
    #[must_use]
    pub fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }

    /// The segment without what the protocol adds. The checksum follows the credential that `handle` names, so it is
    /// wrong if another one travelled.
    #[must_use]
    pub fn stripped(mut self, handle: Option<Handle>) -> Self {
        self.is_intact &= self.credential == handle;
        (self.option, self.prefix, self.credential) = (None, None, None);
        self
    }

    /// The headers, as the flow's logic reads them.
    #[must_use]
    // The option has 20 bytes.
    #[allow(clippy::cast_possible_truncation)]
    pub fn packet(&self) -> Packet {
        let tcp_header = HEADER_BYTES + if self.option.is_some() { OPTION_BYTES as u8 } else { 0 };
        Packet {
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            end: u32::from(TRANSPORT) + u32::from(tcp_header) + u32::from(self.data),
            transport: TRANSPORT,
            source_port: self.from.port,
            destination_port: self.to.port,
            family: 4,
            protocol: protocol::TCP,
            flags: self.flags,
            tcp_header,
            ..Packet::default()
        }
    }
}
