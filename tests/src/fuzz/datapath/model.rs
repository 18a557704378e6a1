//! The way of a frame through the pure functions.

use enforcer_common::abi::{
    DropReason, Event, FlowKey, FlowValue, NetworkEntry, NetworkValue, address, direction,
    flow_state, mapped,
};
use enforcer_common::datapath::flow::{
    confirms, count, end, is_ended_by, is_finished_by, on_segment, pass,
};
use enforcer_common::datapath::network::allowing_rule;
use enforcer_common::datapath::opaque::Opaque;
use enforcer_common::wire::checksum::{self, VERIFIED_BYTES_MAX, sum_bytes};
use enforcer_common::wire::frame::{
    ETHERNET_BYTES, Frame, IPV4_OPTIONS_MAX, Packet, TCP_BYTES, check_ipv4_options, parse,
    protocol, tcp_flags,
};
use enforcer_common::wire::option::{OPTION_BYTES, OPTIONS_MAX, Options, ScanState, scan};
use enforcer_common::wire::room::{self, RoomState};

use super::bytes::{Rewritten, residues};
use super::case::Case;
use crate::program::kernel::Hook;
use crate::program::world::{ADDRESS_SET, EPOCH, WORKLOAD, World};

/// What must become of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// It passes, and this event is counted and nothing else.
    Pass(Rewritten, Option<Event>),
    /// It is dropped, and this reason is counted and nothing else.
    Drop(DropReason),
    /// It does not pass; the reason is among what is counted. The workload may be told by a reset.
    Refused(DropReason),
    /// It depends on more than is modelled; if it passes, it becomes this.
    Undecided(Option<Rewritten>),
}

/// What must become of the case's frame, and of the flow.
pub fn expect(case: &Case, world: &World) -> (Expected, Option<FlowValue>) {
    let flow = case.flow.map(|(_, flow)| flow);
    let mut model = Model { case, world, packet: Packet::default(), flow };
    let expected = model.judge().unwrap_or_else(Expected::Drop);
    (expected, model.flow)
}

struct Model<'a> {
    case: &'a Case,
    world: &'a World,
    packet: Packet,
    flow: Option<FlowValue>,
}

impl Model<'_> {
    fn judge(&mut self) -> Result<Expected, DropReason> {
        let frame = &self.case.frame;
        if self.is_from() && frame[6..12] != self.world.local.mac {
            return Err(DropReason::SpoofedSource);
        }
        if parse(&frame[..], &mut self.packet)? == Frame::Arp {
            return Ok(self.arp());
        }
        if self.is_ordinary()
            && let Some(flow) = self.own_flow().copied()
            && self.passes(&flow)
            && flow.epoch == EPOCH
            && flow.deadline_ns > self.world.now_ns
        {
            self.record();
            self.finish();
            return Ok(self.pass(None));
        }
        self.check_ipv4_options()?;
        if self.packet.protocol != protocol::TCP {
            return self.datagram();
        }
        let (flags, p) = (self.packet.flags, &self.packet);
        if !p.has(tcp_flags::SYN) {
            return self.segment();
        }
        if flags & (tcp_flags::FIN | tcp_flags::RST) != 0 {
            return Err(DropReason::MalformedHeader);
        }
        match (p.has(tcp_flags::ACK), self.is_from()) {
            (false, true) => self.call(),
            (false, false) => self.called(),
            (true, true) => {
                self.refuse_forged()?;
                Ok(Expected::Undecided(None))
            }
            (true, false) => Ok(self.answered()),
        }
    }

    fn is_from(&self) -> bool {
        self.case.hook == Hook::From
    }

    fn pass(&self, counted: Option<Event>) -> Expected {
        Expected::Pass(Rewritten::unchanged(&self.case.frame), counted)
    }

    /// RFC 826: a workload speaks for its own addresses, a probe for none.
    fn arp(&self) -> Expected {
        let body = &self.case.frame[ETHERNET_BYTES..];
        if !self.is_from() {
            return self.pass(None);
        }
        let Some(sender) = body.get(14..18) else { return Expected::Drop(DropReason::Truncated) };
        let own = self.world.local;
        let may = body[8..14] == own.mac && (sender == [0; 4] || sender == own.octets());
        if may { self.pass(None) } else { Expected::Drop(DropReason::SpoofedSource) }
    }

    fn is_ordinary(&self) -> bool {
        let p = &self.packet;
        let is_segment = p.protocol == protocol::TCP
            && p.flags & (tcp_flags::SYN | tcp_flags::RST) == 0
            && p.options() < OPTION_BYTES;
        (is_segment || p.protocol == protocol::UDP) && p.ipv4_options() == 0
    }

    /// Whether ordinary packets of the flow pass without a question.
    fn passes(&self, flow: &FlowValue) -> bool {
        if self.packet.protocol == protocol::TCP {
            return matches!(flow.state, flow_state::ESTABLISHED | flow_state::CLOSING);
        }
        flow.state == flow_state::DATAGRAM && (!self.is_from() || flow.address_set() == ADDRESS_SET)
    }

    /// The flow, if the packet is of its connection.
    fn own_flow(&mut self) -> Option<&mut FlowValue> {
        let (key, _) = self.case.flow?;
        if self.key() != key {
            return None;
        }
        self.flow.as_mut()
    }

    fn key(&self) -> FlowKey {
        let p = &self.packet;
        let (source, destination) = (address(p.source), address(p.destination));
        let (local, remote, local_port, remote_port) = if self.is_from() {
            (source, destination, p.source_port, p.destination_port)
        } else {
            (destination, source, p.destination_port, p.source_port)
        };
        FlowKey {
            workload: WORKLOAD,
            protocol: p.protocol,
            zero: 0,
            local_port,
            remote_port,
            local,
            remote,
        }
    }

    fn record(&mut self) {
        let (packet, from, now) = (self.packet, self.is_from(), self.world.now_ns);
        match &mut self.flow {
            Some(flow) if packet.protocol == protocol::TCP => pass(flow, &packet, from, now),
            Some(flow) => count(flow, &packet, from, now),
            None => {}
        }
    }

    /// Forgets the flow if the packet is the last of it.
    fn finish(&mut self) {
        let packet = self.packet;
        let is_last =
            |flow: &FlowValue| packet.protocol == protocol::TCP && is_finished_by(flow, &packet);
        if !self.is_from() && self.flow.as_ref().is_some_and(is_last) && self.has_right_checksum() {
            self.flow = None;
        }
    }

    fn check_ipv4_options(&self) -> Result<(), DropReason> {
        let length = self.packet.ipv4_options();
        let mut options = [0; IPV4_OPTIONS_MAX];
        options[..length].copy_from_slice(&self.case.frame[ETHERNET_BYTES + 20..][..length]);
        check_ipv4_options(&options, length, &mut Opaque::default())
    }

    fn check_address(&self) -> Result<(), DropReason> {
        let is_own = address(self.packet.source) == self.world.local.mapped();
        if is_own { Ok(()) } else { Err(DropReason::SpoofedSource) }
    }

    fn is_allowed(&self) -> bool {
        let (Some(rule), key) = (self.case.rule, self.key()) else { return false };
        let mut value = NetworkValue::default();
        let (port_low, port_high) = rule.ports;
        let (protocol, direction) = (rule.protocol, rule.direction);
        value.entries[0] = NetworkEntry { protocol, direction, port_low, port_high, rule: 1 };
        let (asked, port) = if self.is_from() {
            (direction::EGRESS, key.remote_port)
        } else {
            (direction::INGRESS, key.local_port)
        };
        key.remote == self.world.remote.mapped()
            && allowing_rule(&value, asked, key.protocol, port).is_some()
    }

    fn is_mesh(&self) -> bool {
        let (theirs, known) = (self.key().remote, self.world.remote.mapped());
        let bytes = if mapped([0; 4])[..12] == known[..12] { 15 } else { 6 };
        theirs[..bytes] == known[..bytes]
    }

    fn datagram(&mut self) -> Result<Expected, DropReason> {
        let (number, kind) = (self.packet.protocol, self.packet.icmp_type);
        let is_neighbour = self.packet.family == 6 && (133..=137).contains(&kind);
        let is_error = match number {
            protocol::ICMP => matches!(kind, 3 | 11 | 12),
            protocol::ICMPV6 => is_neighbour || (1..=4).contains(&kind),
            _ => false,
        };
        if is_error {
            return Ok(Expected::Undecided(Some(Rewritten::unchanged(&self.case.frame))));
        }
        let from = self.is_from();
        if from {
            self.check_address()?;
        }
        if let Some(flow) = self.own_flow() {
            if flow.state == flow_state::CUT {
                return Err(DropReason::FlowCut);
            }
            flow.state = flow_state::DATAGRAM;
            if from {
                flow.note_address_set(ADDRESS_SET);
            }
            self.record();
            return Ok(self.pass(None));
        }
        if self.is_allowed() {
            Ok(self.pass(Some(Event::PlainOpened)))
        } else {
            Err(DropReason::NetworkDenied)
        }
    }

    fn scan(&self) -> Result<Options, DropReason> {
        let (options, length, _) = self.options();
        scan(&options, length, &mut ScanState::default()).ok_or(DropReason::MalformedOption)
    }

    /// A segment other than SYN and SYN-ACK.
    fn segment(&mut self) -> Result<Expected, DropReason> {
        let mut carries_proof = false;
        if self.packet.options() >= OPTION_BYTES {
            let found = self.scan()?;
            if self.is_from() && (found.ours || found.wrong) {
                return Err(DropReason::ForgedOption);
            }
            if found.wrong {
                return Err(DropReason::WrongVersion);
            }
            carries_proof = found.ours;
        }
        let (packet, from, now) = (self.packet, self.is_from(), self.world.now_ns);
        let is_reset = packet.has(tcp_flags::RST);
        let may_end = from || self.has_right_checksum();
        let Some(flow) = self.own_flow() else {
            if !from || is_reset {
                return Ok(Expected::Drop(DropReason::NoFlow));
            }
            self.check_address()?;
            return Ok(Expected::Refused(DropReason::NoFlow));
        };
        let mut counted = None;
        if flow.state == flow_state::UNCONFIRMED && !from {
            let (client, server) =
                (flow.remote_ack.wrapping_sub(1), flow.remote_next.wrapping_sub(1));
            if confirms(&packet, client, flow.local_next, server) {
                flow.state = flow_state::ESTABLISHED;
                counted = Some(Event::Confirmed);
            } else if !is_reset {
                return Err(DropReason::AwaitingProof);
            }
        }
        let judged = on_segment(flow, &packet, from, now);
        if judged.is_ok() && is_ended_by(flow, &packet, from) {
            if may_end {
                end(flow, now);
            } else if counted.replace(Event::ResetUnverified).is_some() {
                // Confirmed too: two counters, which no other case has.
                return Ok(Expected::Undecided(None));
            }
        }
        match judged {
            // Confirmed and dropped all the same: two counters, which no other case has.
            Err(_) if counted.is_some() => Ok(Expected::Undecided(None)),
            Err(reason) => Err(reason),
            Ok(()) if carries_proof && packet.payload() > 0 && counted.is_some() => {
                Ok(Expected::Undecided(None))
            }
            Ok(()) if carries_proof && packet.payload() > 0 => Err(DropReason::ProofWithData),
            Ok(()) if carries_proof => Ok(Expected::Pass(self.stripped(), counted)),
            Ok(()) => {
                self.finish();
                Ok(self.pass(counted))
            }
        }
    }

    fn has_right_checksum(&self) -> bool {
        let segment = &self.case.frame[self.packet.transport.into()..self.packet.end as usize];
        segment.len() <= VERIFIED_BYTES_MAX as usize
            && checksum::is_right(&self.packet, sum_bytes(segment).into())
    }

    /// Without our option, which is the last, and all that stands behind it.
    fn stripped(&self) -> Rewritten {
        let header = usize::from(self.packet.tcp_header) - OPTION_BYTES;
        Rewritten::resized(&self.case.frame, &self.packet, header, 0, &[])
    }

    fn refuse_forged(&self) -> Result<(), DropReason> {
        let found = self.scan()?;
        if found.ours || found.wrong {
            Err(DropReason::ForgedOption)
        } else if found.join {
            Err(DropReason::MultipathJoin)
        } else {
            Ok(())
        }
    }

    /// A SYN of the workload.
    fn call(&self) -> Result<Expected, DropReason> {
        self.refuse_forged()?;
        self.check_address()?;
        if !self.is_mesh() {
            let denied = Expected::Refused(DropReason::NetworkDenied);
            return Ok(if self.is_allowed() { self.pass(None) } else { denied });
        }
        let (frame, header) = self.with_room()?;
        let own = &self.world.own;
        // The nonce is the programs' own; the rest of the frame is known to the byte.
        let nonce = [0; 8];
        let added = [&[253, 20, 0x45, 0x4e][..], &own.handle, &nonce, &own.bytes].concat();
        let stamped = Rewritten::resized(&frame, &self.packet, header, OPTION_BYTES, &added);
        let nonce_at = usize::from(self.packet.transport) + header + 12;
        let residues = Some(residues(&self.case.frame));
        let stamped = Rewritten { nonce_at: Some(nonce_at), residues, ..stamped };
        Ok(Expected::Pass(stamped, Some(Event::S1Sent)))
    }

    /// The frame with room for our option in its header, and the bytes of that header.
    fn with_room(&self) -> Result<(Vec<u8>, usize), DropReason> {
        let (mut options, length, at) = self.options();
        let mut state = ScanState::default();
        let whole = scan(&options, length, &mut state).is_some() && state.end() >= length;
        if whole && length + OPTION_BYTES <= OPTIONS_MAX {
            return Ok((self.case.frame.clone(), TCP_BYTES + length));
        }
        let kept = room::make(&mut options, length, &mut RoomState::default());
        let kept = kept.filter(|kept| kept + OPTION_BYTES <= OPTIONS_MAX);
        let kept = kept.ok_or(DropReason::NoOptionRoom)?;
        let mut frame = self.case.frame.clone();
        frame[at..at + kept].copy_from_slice(&options[..kept]);
        Ok((frame, TCP_BYTES + kept))
    }

    /// The options, their bytes, and where they stand in the frame.
    fn options(&self) -> ([u8; OPTIONS_MAX], usize, usize) {
        let (length, at) = (self.packet.options(), usize::from(self.packet.transport) + TCP_BYTES);
        let mut options = [0; OPTIONS_MAX];
        options[..length].copy_from_slice(&self.case.frame[at..at + length]);
        (options, length, at)
    }

    /// A SYN towards the workload.
    fn called(&self) -> Result<Expected, DropReason> {
        let found = self.scan()?;
        if found.wrong {
            return Err(DropReason::WrongVersion);
        }
        if found.join {
            return Err(DropReason::MultipathJoin);
        }
        if found.ours {
            return Ok(Expected::Undecided(Some(self.stripped_of_credential())));
        }
        if self.is_allowed() { Ok(self.pass(None)) } else { Err(DropReason::PeerWithoutIdentity) }
    }

    /// The credential's sum is taken for known, so another credential leaves a wrong checksum.
    fn stripped_of_credential(&self) -> Rewritten {
        let start = usize::from(self.packet.transport) + usize::from(self.packet.tcp_header);
        let payload = &self.case.frame[start..self.packet.end as usize];
        let stripped = self.stripped();
        let residues = stripped.residues.filter(|_| payload == self.world.theirs.bytes);
        Rewritten { residues, ..stripped }
    }

    /// A SYN-ACK that answers nothing the workload has asked.
    fn answered(&self) -> Expected {
        let unchanged = Rewritten::unchanged(&self.case.frame);
        Expected::Undecided(Some(unchanged))
    }
}
