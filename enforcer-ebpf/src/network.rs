//! What has no identity: mesh networks, network rules, and protocols other than TCP.

use aya_ebpf::{bindings::__sk_buff, btf_maps::lpm_trie::Key};
use enforcer_common::{
    abi::{
        AttemptValue, DropReason, Event, FlowKey, FlowValue, NetworkKey, NetworkValue, direction,
        flow_flags, flow_state, mapped, network_flags, role, workload_flags,
    },
    datapath::network::allowing_rule,
    wire::frame::{ETHERNET_BYTES, protocol},
};

use crate::{
    address, attempt, clock, counter, flow, hold,
    maps::NETWORKS,
    quota::{self, Asker},
    reset,
    scratch::Scratch,
    skb::load,
    verdict::Verdict,
    workload,
};

/// Bits of a whole key: the rule set and a full address.
const WHOLE_KEY_BITS: u32 = 32 + 128;

/// Whether peers at the far side are expected to speak the protocol.
#[inline(always)]
pub fn is_mesh(s: &Scratch) -> bool {
    mesh_flags(s) & network_flags::MESH != 0
}

/// Whether the server's own address, which S2 tells, may stand behind the one that was dialled.
#[inline(always)]
pub fn may_answer(s: &Scratch) -> bool {
    let told =
        s.prefix.address == s.key.remote && u16::from_be_bytes(s.prefix.port) == s.key.remote_port;
    told || cfg!(feature = "mutate-address-binding") || mesh_flags(s) & network_flags::VIRTUAL != 0
}

#[inline(always)]
fn mesh_flags(s: &Scratch) -> u32 {
    find(s, s.epoch & 1).map_or(0, |value| value.flags)
}

#[inline(always)]
fn find(s: &Scratch, rule_set: u32) -> Option<&'static NetworkValue> {
    let data = NetworkKey { rule_set, address: s.key.remote };
    NETWORKS.get(&Key::new(WHOLE_KEY_BITS, data))
}

/// Asks the network rules of the workload for the packet's far side.
#[inline(always)]
pub fn ask(s: &Scratch, asked: u8, server_port: u16) -> Verdict {
    let Ok(workload) = workload::find(s) else { return Verdict::Deny };
    let rule_sets = &workload.value.rule_sets;
    let rule_set = if s.epoch & 1 == 0 { rule_sets[0] } else { rule_sets[1] };
    if let Some(value) = find(s, rule_set)
        && allowing_rule(value, asked, s.key.protocol, server_port).is_some()
    {
        return Verdict::Allow(u64::MAX);
    }
    if workload.flags & workload_flags::OBSERVE != 0 {
        counter::count(s, Event::WouldDeny);
        return Verdict::Allow(u64::MAX);
    }
    Verdict::Deny
}

/// A SYN without identity: a network rule allows it, or it goes no further.
#[inline(always)]
pub fn open_plain<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let (asked, port) = asked_of::<FROM>(s);
    if ask(s, asked, port) == Verdict::Deny {
        if FROM {
            return reset::refuse(skb, s, DropReason::NetworkDenied);
        }
        return DropReason::PeerWithoutIdentity as u32;
    }
    if let Some(a) = attempt::find(s) {
        if is_repeated::<FROM>(a, s) {
            return 0;
        }
        // The workload's own call is under way: what crosses it cannot be told from a spoofed SYN.
        if !FROM && a.flags & flow_flags::INITIATOR != 0 && s.now_ns < a.created_ns + CALL_LASTS_NS
        {
            return DropReason::AttemptConflict as u32;
        }
    }
    s.attempt = AttemptValue {
        created_ns: s.now_ns,
        local_isn: if FROM { s.packet.sequence } else { 0 },
        remote_isn: if FROM { 0 } else { s.packet.sequence },
        port,
        role: role::PLAIN,
        flags: if FROM { flow_flags::INITIATOR } else { 0 },
        ..AttemptValue::default()
    };
    let asker = if FROM { Asker::Workload } else { Asker::Stranger };
    quota::insert_attempt(s, asker)
}

/// The workload's own call is not replaced by a SYN of the far side before this.
const CALL_LASTS_NS: u64 = 3_000_000_000;

#[inline(always)]
fn is_repeated<const FROM: bool>(a: &AttemptValue, s: &Scratch) -> bool {
    let isn = if FROM { a.local_isn } else { a.remote_isn };
    let opened_alike = FROM == (a.flags & flow_flags::INITIATOR != 0);
    a.role == role::PLAIN && opened_alike && isn == s.packet.sequence
}

/// The SYN-ACK of a connection that a network rule allows.
#[inline(always)]
pub fn note_answer(s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    a.remote_isn = s.packet.sequence;
    a.answered = 1;
    // The far side has accepted a new connection, so an old one of the tuple is gone.
    flow::remove(s);
    0
}

/// A SYN-ACK without identity answers our S1: only an explicit network rule lets it be.
#[inline(always)]
pub fn answered_plain(skb: *mut __sk_buff, s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    if ask(s, direction::EGRESS, s.key.remote_port) == Verdict::Deny {
        return reset::both_answered(skb, s, a);
    }
    a.role = role::PLAIN;
    note_answer(s, a)
}

#[inline(always)]
fn asked_of<const FROM: bool>(s: &Scratch) -> (u8, u16) {
    if FROM {
        (direction::EGRESS, s.key.remote_port)
    } else {
        (direction::INGRESS, s.key.local_port)
    }
}

/// A packet of another protocol than TCP.
#[inline(never)]
pub fn datagram<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    match try_datagram::<FROM>(skb, s) {
        Ok(number) => number,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_datagram<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> Result<u32, DropReason> {
    if is_neighbour_discovery(s) {
        neighbour_discovery::<FROM>(skb, s)?;
        return Ok(0);
    }
    clock::read(s);
    let address_set = if FROM { address::found_in(s, &s.key.local)? } else { 0 };
    if is_icmp_error(s) {
        icmp_error::<FROM>(skb, s)?;
        return Ok(0);
    }
    let now_ns = s.now_ns;
    if let Some(flow) = flow::find(&s.key, s.packet.family) {
        flow::refresh(s, flow)?;
        if flow.state == flow_state::CUT {
            return Err(DropReason::FlowCut);
        }
        // Anew each time: a policy change may have begun or ceased to name hosts.
        let state = state(s, flow.flags & flow_flags::INITIATOR != 0);
        if flow.state != state {
            flow.state = state;
        }
        if state == flow_state::NAME_SERVER {
            let held = names::<FROM>(skb, s);
            if held != 0 {
                return Ok(held);
            }
        }
        if FROM && flow.address_set() != address_set {
            note_found(s, address_set);
        }
        enforcer_common::datapath::flow::count(flow, &s.packet, FROM, now_ns);
        return Ok(0);
    }
    let (asked, port) = asked_of::<FROM>(s);
    if ask(s, asked, port) == Verdict::Deny {
        return Err(DropReason::NetworkDenied);
    }
    s.flow = FlowValue {
        deadline_ns: u64::MAX,
        seen_ns: now_ns,
        epoch: s.epoch,
        port,
        state: state(s, FROM),
        flags: flow_flags::PLAIN | if FROM { flow_flags::INITIATOR } else { 0 },
        ..FlowValue::default()
    };
    s.flow.note_address_set(address_set);
    let refused = flow::insert::<FROM>(skb, s);
    if refused == 0 {
        counter::plain_opened(s);
        if s.flow.state == flow_state::NAME_SERVER {
            return Ok(names::<FROM>(skb, s));
        }
    }
    Ok(refused)
}

/// Notes in the packet's flow in which set its source was found: what the next ones pass by, so the entry is looked
/// up again before, as it may be another tuple's by now.
#[inline(always)]
fn note_found(s: &Scratch, address_set: u32) {
    if let Some(flow) = flow::find(&s.key, s.packet.family) {
        flow.note_address_set(address_set);
    }
}

/// A datagram to or from a name server; not zero if it is held.
#[inline(always)]
fn names<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    if FROM {
        hold::question(skb, s);
        return 0;
    }
    hold::answer(skb, s)
}

/// Port of name servers (RFC 1035 4.2.1).
pub const NAME_SERVER_PORT: u16 = 53;

/// The state of a flow without connections; `called` says that the workload opened it.
#[inline(always)]
fn state(s: &Scratch, called: bool) -> u8 {
    let asks = called
        && s.key.protocol == protocol::UDP
        && s.key.remote_port == NAME_SERVER_PORT
        && workload::find(s).is_ok_and(|one| one.flags & workload_flags::ASKS_NAMES != 0);
    if asks { flow_state::NAME_SERVER } else { flow_state::DATAGRAM }
}

/// Router and neighbour solicitation and advertisement, redirect (RFC 4861 4).
#[inline(always)]
pub fn is_neighbour_discovery(s: &Scratch) -> bool {
    s.packet.protocol == protocol::ICMPV6
        && s.packet.family == 6
        && s.packet.icmp_type >= 133
        && s.packet.icmp_type <= 137
}

/// Neighbour discovery keeps the link alive and needs no rule, but a workload speaks only for its
/// own addresses, and neither advertises itself as a router nor redirects.
#[inline(always)]
fn neighbour_discovery<const FROM: bool>(
    skb: *mut __sk_buff,
    s: &Scratch,
) -> Result<(), DropReason> {
    // RFC 4861 6.1 and 7.1: a hop limit of 255 shows that no router forwarded it.
    let mut hop_limit = [0u8; 1];
    load(skb, ETHERNET_BYTES as u32 + 7, &mut hop_limit)?;
    if hop_limit[0] != 255 {
        return Err(DropReason::MalformedHeader);
    }
    if !FROM {
        return Ok(());
    }
    // Room for one target and one option: no carrier of data.
    if s.packet.end > u32::from(s.packet.transport) + NEIGHBOUR_BYTES_MAX {
        return Err(DropReason::Oversized);
    }
    let spoofed = Err(DropReason::SpoofedSource);
    let source = enforcer_common::abi::address(s.packet.source);
    if source != [0; 16] {
        own_on_link(skb, s, &source)?;
    }
    match s.packet.icmp_type {
        133 | 135 => Ok(()),
        136 => {
            let mut target = [0u8; 16];
            load(skb, u32::from(s.packet.transport) + 8, &mut target)?;
            own_on_link(skb, s, &target)
        }
        _ => spoofed,
    }
}

/// Most bytes of a workload's neighbour discovery message: header, target, two options.
const NEIGHBOUR_BYTES_MAX: u32 = 40;

/// Whether an address is the workload's: a listed one, or the link-local one that its link address
/// makes (RFC 4291 appendix A).
#[inline(always)]
fn own_on_link(skb: *mut __sk_buff, s: &Scratch, a: &[u8; 16]) -> Result<(), DropReason> {
    let mut mac = [0u8; 6];
    load(skb, 6, &mut mac)?;
    let made = is_link_local(a)
        && [a[8] ^ 2, a[9], a[10]] == [mac[0], mac[1], mac[2]]
        && [a[11], a[12]] == [0xff, 0xfe]
        && [a[13], a[14], a[15]] == [mac[3], mac[4], mac[5]];
    if made { Ok(()) } else { address::check(s, a) }
}

#[inline(always)]
fn is_link_local(a: &[u8; 16]) -> bool {
    a[0] == 0xfe && a[1] & 0xc0 == 0x80
}

/// Destination unreachable, time exceeded, parameter problem, packet too big (RFC 792, RFC 4443).
#[inline(always)]
pub fn is_icmp_error(s: &Scratch) -> bool {
    let kind = s.packet.icmp_type;
    match s.packet.protocol {
        protocol::ICMP => kind == 3 || kind == 11 || kind == 12,
        protocol::ICMPV6 => (1..=4).contains(&kind),
        _ => false,
    }
}

/// An ICMP error must quote a live flow or attempt of the workload.
#[inline(always)]
fn icmp_error<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    let key = quoted_tuple::<FROM>(skb, s)?;
    let same_end = if FROM { s.key.remote == key.remote } else { s.key.local == key.local };
    if !same_end {
        return Err(DropReason::IcmpUnrelated);
    }
    if let Some(flow) = flow::find(&key, s.packet.family) {
        let live = flow.state != flow_state::CUT;
        return if live { Ok(()) } else { Err(DropReason::IcmpUnrelated) };
    }
    s.key = key;
    if attempt::find(s).is_some() { Ok(()) } else { Err(DropReason::IcmpUnrelated) }
}

/// The tuple of the packet that an ICMP error quotes: one that the workload sent, or, in an error
/// that the workload sends, one that it received.
#[inline(always)]
fn quoted_tuple<const FROM: bool>(skb: *mut __sk_buff, s: &Scratch) -> Result<FlowKey, DropReason> {
    let inner = u32::from(s.packet.transport) + 8;
    let (source, destination, protocol, ports_at) = if s.packet.family == 4 {
        let mut header = [0u8; 20];
        load(skb, inner, &mut header)?;
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = header;
        let size = u32::from(header[0] & 15) * 4;
        (mapped([s0, s1, s2, s3]), mapped([d0, d1, d2, d3]), header[9], inner + size)
    } else {
        let mut head = [0u8; 8];
        let mut addresses = [[0u8; 16]; 2];
        load(skb, inner, &mut head)?;
        load(skb, inner + 8, &mut addresses)?;
        (addresses[0], addresses[1], head[6], inner + 40)
    };
    let mut ports = [[0u8; 2]; 2];
    if protocol == protocol::TCP || protocol == protocol::UDP {
        load(skb, ports_at, &mut ports)?;
    }
    let [source_port, destination_port] =
        [u16::from_be_bytes(ports[0]), u16::from_be_bytes(ports[1])];
    let (local, remote, local_port, remote_port) = if FROM {
        (destination, source, destination_port, source_port)
    } else {
        (source, destination, source_port, destination_port)
    };
    let workload = s.interface.workload;
    Ok(FlowKey { workload, protocol, zero: 0, local_port, remote_port, local, remote })
}
