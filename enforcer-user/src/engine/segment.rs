//! What a held frame says: its step of the handshake, the handle, and where the credential stands.

use std::ops::Range;

use enforcer_common::abi::{Handle, address, direction};
use enforcer_common::wire::checksum::{fold, sum_bytes, transport};
use enforcer_common::wire::frame::{self, Frame, Packet, protocol, tcp_flags};
use enforcer_common::wire::option::{self, HandshakeOption, OPTION_BYTES, OPTIONS_MAX, ScanState};
use enforcer_common::wire::prefix::PREFIX_BYTES;

use super::counters::Refused;
use crate::identity::MAX_CREDENTIAL_BYTES;

/// Offset of the checksum in a TCP header (RFC 9293 3.1).
const CHECKSUM: usize = 16;

/// A step of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// S1: the peer calls, its credential is the whole payload.
    Call,
    /// S2: the peer answers, its credential stands behind the fixed prefix.
    Answer,
    /// S3: the proof, which carries no credential.
    Proof,
}

impl Step {
    /// Direction of the connection, from the workload's side.
    #[must_use]
    pub fn direction(self) -> u8 {
        match self {
            Self::Answer => direction::EGRESS,
            Self::Call | Self::Proof => direction::INGRESS,
        }
    }
}

/// A held segment, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its headers.
    pub packet: Packet,
    /// Its step.
    pub step: Step,
    /// The handle it names; zero in S3.
    pub handle: Handle,
    /// Where the credential stands in the frame; empty in S3.
    pub credential: Range<usize>,
    /// The server's port as the server sees it: the policy is asked for this one.
    pub port: u16,
}

/// Reads a frame. Whatever is not one step of the handshake, whole and consistent, is refused.
pub fn read(bytes: &[u8]) -> Result<Segment, Refused> {
    let mut packet = Packet::default();
    if frame::parse(bytes, &mut packet) != Ok(Frame::Ip) || packet.protocol != protocol::TCP {
        return Err(Refused::Malformed);
    }
    let (at, end) = (usize::from(packet.transport), packet.end as usize);
    let header = at + usize::from(packet.tcp_header);
    let options = bytes.get(at + frame::TCP_BYTES..header).ok_or(Refused::Malformed)?;
    let own = own_option(options)?;
    let step = step(&packet)?;
    let skipped = if step == Step::Answer { PREFIX_BYTES } else { 0 };
    let credential = header + skipped..end;
    let fits = match step {
        Step::Proof => credential.is_empty(),
        Step::Call | Step::Answer => {
            (1..=MAX_CREDENTIAL_BYTES).contains(&end.saturating_sub(credential.start))
        }
    };
    if !fits || bytes.get(credential.clone()).is_none() {
        return Err(Refused::CredentialLength);
    }
    let handle = if step == Step::Proof { Handle::default() } else { own.handle() };
    let port = match step {
        Step::Answer => answered_port(bytes, credential.start).ok_or(Refused::CredentialLength)?,
        Step::Call | Step::Proof => packet.destination_port,
    };
    Ok(Segment { packet, step, handle, credential, port })
}

/// The port that ends the prefix of S2.
fn answered_port(bytes: &[u8], prefix_end: usize) -> Option<u16> {
    bytes.get(..prefix_end)?.last_chunk().map(|port| u16::from_be_bytes(*port))
}

fn own_option(options: &[u8]) -> Result<HandshakeOption, Refused> {
    let mut padded = [0; OPTIONS_MAX];
    padded.get_mut(..options.len()).ok_or(Refused::Malformed)?.copy_from_slice(options);
    let found = option::scan(&padded, options.len(), &mut ScanState::default())
        .ok_or(Refused::Malformed)?;
    let last = options.last_chunk::<OPTION_BYTES>().filter(|_| found.ours);
    let [h0, h1, h2, h3, body @ ..] = *last.ok_or(Refused::NoOption)?;
    let own = HandshakeOption { head: [h0, h1, h2, h3], body };
    if own.is_ours() { Ok(own) } else { Err(Refused::NoOption) }
}

fn step(packet: &Packet) -> Result<Step, Refused> {
    const STEPS: u8 = tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST | tcp_flags::FIN;
    const ANSWER: u8 = tcp_flags::SYN | tcp_flags::ACK;
    match packet.flags & STEPS {
        tcp_flags::SYN => Ok(Step::Call),
        ANSWER => Ok(Step::Answer),
        tcp_flags::ACK => Ok(Step::Proof),
        _ => Err(Refused::Malformed),
    }
}

/// Completes a checksum that the sending stack left to its hardware.
///
/// Such a segment (`CHECKSUM_PARTIAL`) holds the sum of the pseudo header alone, uncomplemented.
/// Any other checksum stays as it is, so that a damaged segment does not become a valid one.
pub fn complete_checksum(bytes: &mut [u8], packet: &Packet) {
    let (source, destination) = (address(packet.source), address(packet.destination));
    // IPv4 addresses are in mapped form: the pseudo header has their last four bytes.
    let skipped = if packet.family == 4 { 12 } else { 0 };
    let (source, destination) = (&source[skipped..], &destination[skipped..]);
    let (at, end) = (usize::from(packet.transport), packet.end as usize);
    let Some(segment) = bytes.get_mut(at..end) else { return };
    let Ok(length) = u16::try_from(segment.len()) else { return };
    let pseudo = u64::from(sum_bytes(source))
        + u64::from(sum_bytes(destination))
        + u64::from(u16::from_ne_bytes([0, packet.protocol]))
        + u64::from(u16::from_ne_bytes(length.to_be_bytes()));
    let Some(&found) = segment.get(CHECKSUM..).and_then(|rest| rest.first_chunk::<2>()) else {
        return;
    };
    if found == fold(pseudo).to_ne_bytes() {
        segment[CHECKSUM..CHECKSUM + 2].fill(0);
        let whole = transport(source, destination, packet.protocol, segment);
        segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&whole);
    }
}
