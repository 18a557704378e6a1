//! The flow table, and the two paths through it: established segments, and all others of a flow.

use aya_ebpf::bindings::__sk_buff;
use core::arch::asm;
use enforcer_common::{
    abi::{
        AddressWords, DropReason, Event, FlowKey, FlowKey4, FlowValue, InterfaceValue, address,
        direction, flow_flags, flow_state, interface_flags,
    },
    datapath::flow,
    wire::{
        Cursor,
        frame::{self, Frame, Packet, protocol, tcp_flags},
        option::OPTION_BYTES,
    },
};

use crate::{
    address, attempt, checksum, clock, counter,
    cursor::{FrameCursor, PlainCursor, mac_at},
    entry::SLOW,
    handshake, interface,
    maps::{CONFIG, FLOWS4, FLOWS6},
    network, proof, quota,
    scratch::Scratch,
    skb::load,
    verdict::{self, Verdict},
};

/// Within this, the daemon has reset both ends of a flow that was cut.
const CUT_LASTS_NS: u64 = 2_000_000_000;

/// Not a verdict: the packet passes, and is the last of its flow.
pub const FINISHED: u32 = 1 << 21;

const BPF_NOEXIST: u64 = 1;
const BPF_EXIST: u64 = 2;

/// Reads the packet and, if it is a plain segment or datagram of an open flow under the current epoch,
/// decides it with one look-up. Everything else is left in the scratch for the slow path.
#[inline(never)]
pub fn established<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    clock::read_tick(s);
    let now_ns = s.now_ns;
    s.peer = 0;
    // SAFETY: a read of the program's context.
    s.ifindex = unsafe { (*skb).ifindex };
    if !interface::find(s) {
        return unread(s, DropReason::NoWorkload);
    }
    let interface = s.interface;
    let Some(config) = CONFIG.get(0) else { return unread(s, DropReason::Internal) };
    s.epoch = config.epoch;
    // The kernel keeps an 802.1Q tag beside the frame: a tagged one would be judged as untagged. A
    // priority tag (VID 0) names no other network.
    // SAFETY: reads of the program's context.
    let tag = unsafe { if (*skb).vlan_present != 0 { (*skb).vlan_tci & 0x0fff } else { 0 } };
    if tag != 0 {
        return unread(s, DropReason::NotIp);
    }
    let mut packet = Packet::default();
    let frame = if let Some(cursor) = PlainCursor::<false>::of_skb(skb) {
        read::<FROM>(&cursor, &interface, &mut packet)
    } else if let Some(cursor) = PlainCursor::<true>::of_skb(skb) {
        read::<FROM>(&cursor, &interface, &mut packet)
    } else {
        read::<FROM>(&FrameCursor::of_skb(skb), &interface, &mut packet)
    };
    match frame {
        Ok(Frame::Ip) => {}
        Ok(Frame::Arp) => {
            s.packet.family = 0;
            return SLOW;
        }
        Err(reason) => return unread(s, reason),
    }
    if is_ordinary(&packet) {
        let flow = if packet.family == 4 {
            apart(FLOWS4.get_ptr_mut(&tuple4::<FROM>(interface.workload, &packet)))
        } else {
            FLOWS6.get_ptr_mut(&tuple::<FROM>(interface.workload, &packet))
        };
        if let Some(flow) = flow {
            // SAFETY: as in `find`.
            let flow = unsafe { &mut *flow };
            if passes::<FROM>(flow, &packet, interface.workload)
                && (flow.epoch == config.epoch || cfg!(feature = "mutate-epoch"))
                && flow.deadline_ns > now_ns
            {
                if packet.protocol == protocol::TCP {
                    flow::pass(flow, &packet, FROM, now_ns);
                    if !FROM && flow::is_finished_by(flow, &packet) {
                        s.key = tuple::<FROM>(interface.workload, &packet);
                        s.packet = packet;
                        return FINISHED;
                    }
                } else {
                    flow::count(flow, &packet, FROM, now_ns);
                }
                return 0;
            }
        }
    }
    s.key = tuple::<FROM>(interface.workload, &packet);
    s.packet = packet;
    SLOW
}

/// Reads the headers of a frame whose source link address the workload may use.
#[inline(always)]
fn read<const FROM: bool>(
    cursor: &impl Cursor,
    interface: &InterfaceValue,
    packet: &mut Packet,
) -> Result<Frame, DropReason> {
    if FROM && interface.flags & interface_flags::CHECK_MAC != 0 {
        let mac = mac_at(cursor, 6).ok_or(DropReason::Truncated)?;
        if mac != mac_words(&interface.mac) {
            return Err(DropReason::SpoofedSource);
        }
    }
    frame::parse(cursor, packet)
}

/// A frame whose headers were not read: what the log shows of it must not be another packet's.
#[inline(always)]
pub fn unread(s: &mut Scratch, reason: DropReason) -> u32 {
    s.packet = Packet::default();
    s.key = FlowKey::default();
    reason as u32
}

#[inline(always)]
fn mac_words(mac: &[u8; 6]) -> (u32, u16) {
    (u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]), u16::from_ne_bytes([mac[4], mac[5]]))
}

/// Gives back the result of a look-up in one of two tables, and keeps the compiler from making one call of the two: the
/// kernel calls a table's own function only where it knows the table, else any, through a retpoline.
#[inline(always)]
fn apart<T>(found: T) -> T {
    // SAFETY: no instruction at all.
    unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
    found
}

/// Whether packets of the flow pass without a question: segments where both ends have accepted it, datagrams
/// where a rule allowed it. Those that leave need their source address found, too: the flow may be one that the
/// far side opened towards an address that is not the workload's, or the workload may have lost the address since.
/// Of what may be a question to a name server the slow path asks each time whether its answer is to be read.
#[inline(always)]
fn passes<const FROM: bool>(flow: &FlowValue, p: &Packet, workload: u16) -> bool {
    if p.protocol == protocol::TCP {
        return flow.state == flow_state::ESTABLISHED || flow.state == flow_state::CLOSING;
    }
    let leaves =
        || p.destination_port != network::NAME_SERVER_PORT && address::is_known(flow, workload);
    flow.state == flow_state::DATAGRAM && (!FROM || leaves())
}

/// Whether the packet is a segment that neither opens nor resets nor has room for our option, or a datagram.
#[inline(always)]
fn is_ordinary(p: &Packet) -> bool {
    let is_segment = p.protocol == protocol::TCP
        && p.flags & (tcp_flags::SYN | tcp_flags::RST) == 0
        && p.options() < OPTION_BYTES;
    (is_segment || p.protocol == protocol::UDP) && p.ipv4_options() == 0
}

/// The tuple from the workload's side.
#[inline(always)]
pub fn tuple<const FROM: bool>(workload: u16, p: &Packet) -> FlowKey {
    let (local, remote, local_port, remote_port) = ends::<FROM>(p);
    FlowKey {
        workload: keyed(workload),
        protocol: p.protocol,
        zero: 0,
        local_port,
        remote_port,
        local: address(local),
        remote: address(remote),
    }
}

/// The same for a packet of IPv4.
#[inline(always)]
fn tuple4<const FROM: bool>(workload: u16, p: &Packet) -> FlowKey4 {
    let (local, remote, local_port, remote_port) = ends::<FROM>(p);
    FlowKey4 {
        workload: keyed(workload),
        protocol: p.protocol,
        zero: 0,
        local_port,
        remote_port,
        local: local[3].to_ne_bytes(),
        remote: remote[3].to_ne_bytes(),
    }
}

#[inline(always)]
fn keyed(workload: u16) -> u16 {
    if cfg!(feature = "mutate-workload-in-flow-key") { 0 } else { workload }
}

/// Local and remote address and port of a packet.
#[inline(always)]
fn ends<const FROM: bool>(p: &Packet) -> (AddressWords, AddressWords, u16, u16) {
    if FROM {
        (p.source, p.destination, p.source_port, p.destination_port)
    } else {
        (p.destination, p.source, p.destination_port, p.source_port)
    }
}

/// The flow of a tuple.
#[inline(always)]
pub fn find(key: &FlowKey, family: u8) -> Option<&'static mut FlowValue> {
    let value =
        if family == 4 { apart(FLOWS4.get_ptr_mut(&key.to_v4())) } else { FLOWS6.get_ptr_mut(key) };
    // SAFETY: the table is preallocated, so the memory stays a flow's for as long as the map lives.
    // It may become another flow's while it is used: a removed element goes to the next key without
    // a grace period. Every bit pattern is a value, and fields are plain integers, so what is read
    // is at worst another tuple's; docs/ARCHITECTURE.md (entries change hands) says what can come
    // of that.
    value.map(|value| unsafe { &mut *value })
}

/// Inserts `s.flow`, with the link addresses of the packet: resets are built from them. Not zero: the reason
/// why not.
#[inline(always)]
pub fn insert<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let mut macs = [[0u8; 6]; 2];
    if let Err(reason) = load(skb, 0, &mut macs) {
        return reason as u32;
    }
    let [destination, source] = macs;
    (s.flow.local_mac, s.flow.remote_mac) =
        if FROM { (source, destination) } else { (destination, source) };
    let refused = take_place(s);
    merged(s, refused)
}

/// The number, through memory: the verifier walks what follows once and not once for each number.
#[inline(always)]
fn merged(s: &mut Scratch, number: u32) -> u32 {
    s.outcome.set(number);
    s.outcome.value()
}

/// Puts `s.flow` into the table, within the workload's share. In the place of an older flow of the tuple it
/// needs no other.
#[inline(never)]
fn take_place(s: &mut Scratch) -> u32 {
    let taken = quota::take_flow(s);
    let refused = merged(s, taken);
    if refused == 0 {
        if put(s, BPF_NOEXIST) == 0 {
            return 0;
        }
        quota::give_back_flow(s);
    }
    if put(s, BPF_EXIST) == 0 {
        return 0;
    }
    if refused == 0 { DropReason::FlowTableFull as u32 } else { refused }
}

#[inline(never)]
fn put(s: &Scratch, mode: u64) -> u32 {
    let inserted = if s.packet.family == 4 {
        apart(FLOWS4.insert(&s.key.to_v4(), &s.flow, mode))
    } else {
        FLOWS6.insert(&s.key, &s.flow, mode)
    };
    u32::from(inserted.is_err())
}

/// Forgets the flow of the packet's tuple.
#[inline(never)]
pub fn remove(s: &mut Scratch) -> u32 {
    let Some(flow) = find(&s.key, s.packet.family) else { return 0 };
    let flags = flow.flags;
    remove_found(s, flags)
}

/// Forgets the flow whose last segment the packet is, if its checksum is right: else the workload's stack refuses it,
/// and its FIN goes out again, which needs the flow. Lets the packet pass.
#[inline(never)]
pub fn finish(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    if checksum::is_right(skb, s) == 0 {
        return 0;
    }
    match find(&s.key, s.packet.family) {
        Some(flow) if flow::is_finished_by(flow, &s.packet) => {
            let flags = flow.flags;
            remove_found(s, flags)
        }
        _ => 0,
    }
}

/// Forgets the flow of the packet's tuple, which has these flags.
#[inline(always)]
fn remove_found(s: &mut Scratch, flags: u8) -> u32 {
    let removed = if s.packet.family == 4 {
        apart(FLOWS4.remove(&s.key.to_v4()))
    } else {
        FLOWS6.remove(&s.key)
    };
    // Absence is what is wanted, and an error can only mean that: another has removed and counted it.
    if removed.is_ok() {
        quota::flow_removed(s, flags);
    }
    0
}

/// A TCP segment, other than SYN and SYN-ACK, that was not decided by [`established`].
#[inline(never)]
pub fn segment<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let mut carries_proof = false;
    if s.packet.options() >= OPTION_BYTES {
        let found = handshake::scan_options(skb, s);
        if found & handshake::MALFORMED != 0 {
            return DropReason::MalformedOption as u32;
        }
        if FROM && found & (handshake::OURS | handshake::WRONG) != 0 {
            return DropReason::ForgedOption as u32;
        }
        if found & handshake::WRONG != 0 {
            return DropReason::WrongVersion as u32;
        }
        carries_proof = found & handshake::OURS != 0;
    }
    if carries_proof {
        let accepted = proof::accept(skb, s);
        if accepted != proof::NOT_AWAITED {
            return accepted;
        }
    }
    let Some(flow) = find(&s.key, s.packet.family) else {
        return attempt::segment::<FROM>(skb, s);
    };
    if let Err(reason) = refresh(s, flow) {
        return reason as u32;
    }
    if flow.state == flow_state::UNCONFIRMED && !FROM {
        confirm(s, flow);
        // What does not confirm is not of the server, and must not move the bounds that tell it.
        if flow.state == flow_state::UNCONFIRMED && !s.packet.has(tcp_flags::RST) {
            return DropReason::AwaitingProof as u32;
        }
    }
    if let Err(reason) = flow::on_segment(flow, &s.packet, FROM, s.now_ns) {
        return reason as u32;
    }
    // The workload's own needs no look: it ends no flow but its own.
    if flow::is_ended_by(flow, &s.packet, FROM) {
        if FROM || checksum::is_right(skb, s) != 0 {
            flow::end(flow, s.now_ns);
        } else {
            counter::count(s, Event::ResetUnverified);
        }
    }
    if carries_proof {
        return proof::strip_duplicate(skb, s);
    }
    if FROM && flow.state == flow_state::UNCONFIRMED {
        // No segment of the server moves this bound before it confirms the flow.
        return proof::emit(skb, s, flow.remote_ack);
    }
    if !FROM && flow::is_finished_by(flow, &s.packet) {
        return finish(skb, s);
    }
    0
}

/// The server was seen to have accepted: the proof need not be sent again.
#[inline(always)]
fn confirm(s: &Scratch, flow: &mut FlowValue) {
    let (client_isn, server_isn) =
        (flow.remote_ack.wrapping_sub(1), flow.remote_next.wrapping_sub(1));
    if flow::confirms(&s.packet, client_isn, flow.local_next, server_isn) {
        flow.state = flow_state::ESTABLISHED;
        attempt::remove(s);
        counter::count(s, Event::Confirmed);
    }
}

/// Asks again for a flow of another epoch or whose verdict ran out.
#[inline(always)]
pub fn refresh(s: &mut Scratch, flow: &mut FlowValue) -> Result<(), DropReason> {
    s.peer = flow.peer;
    if flow.flags & flow_flags::ADOPTED != 0 || flow.state == flow_state::CUT {
        return Ok(());
    }
    if flow.epoch == s.epoch && flow.deadline_ns > s.now_ns {
        return Ok(());
    }
    let expired = flow.deadline_ns <= s.now_ns;
    let initiator = flow.flags & flow_flags::INITIATOR != 0;
    let asked = if initiator { direction::EGRESS } else { direction::INGRESS };
    let answer = if flow.flags & flow_flags::PLAIN != 0 {
        network::ask(s, asked, flow.port)
    } else {
        verdict::ask(s, flow.peer, flow.port, asked)
    };
    match answer {
        Verdict::Allow(deadline_ns) => {
            flow.deadline_ns = deadline_ns;
            flow.epoch = s.epoch;
            counter::count(s, Event::Rejudged);
            Ok(())
        }
        Verdict::Unknown if expired => Err(DropReason::Expired),
        // Opened while the policy changed: the daemon looks for such flows, and answers.
        Verdict::Unknown => Err(DropReason::Unjudged),
        Verdict::Deny => {
            flow.state = flow_state::CUT;
            // Resets of a cut flow must still pass for a moment, in which the daemon sweeps it. No longer: a
            // segment judged at the same time on another CPU may write another state over this one.
            flow.deadline_ns = s.now_ns + CUT_LASTS_NS;
            Err(DropReason::FlowCut)
        }
    }
}
