//! A frame, and what the maps hold when it comes.

use enforcer_common::abi::{FlowKey, FlowValue, direction, flow_flags, flow_state};

use crate::fuzz::feed::Feed;
use crate::program::kernel::Hook;
use crate::program::packet::{UDP, ip, udp};
use crate::program::segment::{Segment, TCP};
use crate::program::world::{ADDRESS_SET, EPOCH, Family, PEER_NONCE, Side, World};

/// The largest window (RFC 7323 2.3): what lies this far off is of no connection.
const WINDOW: i32 = 1 << 30;

/// A network rule for the peer's address.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// From the workload's side.
    pub direction: u8,
    /// IP protocol; 255 is any.
    pub protocol: u8,
    /// Server ports, inclusive.
    pub ports: (u16, u16),
}

/// What is run.
#[derive(Debug, Clone)]
pub struct Case {
    /// The program.
    pub hook: Hook,
    /// The flow of the world's connection, or of datagrams between its ends, if there is one.
    pub flow: Option<(FlowKey, FlowValue)>,
    /// The network rule, if there is one.
    pub rule: Option<Rule>,
    /// The frame.
    pub frame: Vec<u8>,
}

impl Case {
    /// Makes a case, and the world that it is in.
    pub fn new(mut feed: Feed<'_>) -> (Self, World) {
        let family = feed.choose(&Family::BOTH);
        let side = feed.choose(&[Side::Client, Side::Server]);
        let hook = feed.choose(&[Hook::From, Hook::To]);
        let mut world = World::new(family, side);
        let flow = feed.flag().then(|| flow(&mut feed, &world));
        if let Some((key, flow)) = flow {
            world.put_flow(key, flow);
        }
        let rule = feed.flag().then(|| rule(&mut feed));
        if let Some(Rule { direction, protocol, ports }) = rule {
            let remote = world.remote;
            world.allow_network(&remote, direction, protocol, ports);
        }
        let frame = frame(feed, &world, hook, flow.unwrap_or_default().1);
        (Self { hook, flow, rule, frame }, world)
    }
}

/// A flow as the maps may hold it, odd states included. One whose verdict must be asked for again is
/// adopted, since that is asked of nobody.
fn flow(feed: &mut Feed<'_>, world: &World) -> (FlowKey, FlowValue) {
    let flags = feed.byte();
    let (now, old) = ((EPOCH, world.later()), (EPOCH - 1, world.past()));
    let adopted = flags & flow_flags::ADOPTED != 0;
    let epoch = if adopted { feed.choose(&[now.0, old.0]) } else { now.0 };
    let deadline_ns = if adopted { feed.choose(&[now.1, now.1, old.1]) } else { now.1 };
    let flow = FlowValue {
        deadline_ns,
        epoch,
        flags,
        state: feed.choose(&[
            flow_state::ESTABLISHED,
            flow_state::UNCONFIRMED,
            flow_state::CLOSING,
            flow_state::RESET,
            flow_state::CUT,
            flow_state::DATAGRAM,
            0,
            255,
        ]),
        local_next: feed.u32(),
        local_ack: feed.u32(),
        remote_next: feed.u32(),
        remote_ack: feed.u32(),
        ..FlowValue::default()
    };
    let protocol = feed.choose(&[TCP, TCP, UDP]);
    let remote_end = match protocol {
        UDP => feed.choose(&[ADDRESS_SET, ADDRESS_SET, ADDRESS_SET ^ 1, 0]),
        _ => flow.remote_next,
    };
    (FlowKey { protocol, ..world.key() }, FlowValue { remote_end, ..flow })
}

fn rule(feed: &mut Feed<'_>) -> Rule {
    Rule {
        direction: feed.choose(&[direction::EGRESS, direction::INGRESS]),
        protocol: feed.choose(&[255, 6, 17, 1, 58, 47]),
        ports: (feed.u16(), feed.u16()),
    }
}

/// A frame of the connection, or of another protocol between its ends, or of nothing; then changed in
/// a few bytes, and cut or padded.
fn frame(mut feed: Feed<'_>, world: &World, hook: Hook, flow: FlowValue) -> Vec<u8> {
    let kind = feed.byte() % 8;
    let patches = feed.byte() % 4;
    let patches: Vec<(u8, u8)> = (0..patches).map(|_| (feed.byte(), feed.byte())).collect();
    let cut_or_padding = if feed.flag() { feed.byte() } else { 0 };
    let (from, to) = match hook {
        Hook::From => (world.local, world.remote),
        Hook::To | Hook::Guard => (world.remote, world.local),
    };
    let mut frame = match kind {
        0 => feed.rest().to_vec(),
        1 => {
            let protocol = feed.choose(&[17, 1, 58, 132, 47, 6]);
            ip(&from, &to, protocol, feed.bytes(512))
        }
        2 => udp(&from, &to, feed.bytes(512)),
        _ => segment(feed, world, hook, flow).frame(),
    };
    if kind == 0 && frame.len() >= 12 && hook == Hook::From {
        frame[6..12].copy_from_slice(&world.local.mac);
    }
    for (at, change) in patches {
        if let Some(byte) = frame.get_mut(usize::from(at)) {
            *byte ^= change;
        }
    }
    if cut_or_padding & 1 == 1 {
        frame.truncate(frame.len().saturating_sub(usize::from(cut_or_padding / 2)));
    } else {
        frame.resize(frame.len() + usize::from(cut_or_padding / 2), 0);
    }
    frame
}

fn segment(mut feed: Feed<'_>, world: &World, hook: Hook, flow: FlowValue) -> Segment {
    let (from, to) = match hook {
        Hook::From => (world.local, world.remote),
        Hook::To | Hook::Guard => (world.remote, world.local),
    };
    let bounds = [flow.local_next, flow.local_ack, flow.remote_next, flow.remote_ack];
    let number = |feed: &mut Feed<'_>| {
        let offset = feed.choose(&[0, 0, 1, -1, 100, WINDOW, -WINDOW, 1 - WINDOW]);
        let base = if feed.flag() { feed.choose(&bounds) } else { feed.u32() };
        base.wrapping_add_signed(offset)
    };
    let (sequence, acknowledgement) = (number(&mut feed), number(&mut feed));
    // Rare flags take their chance in a patch; these are what stacks send.
    let flags = feed.choose(&[16, 16, 24, 2, 2, 18, 17, 4, 20, 6, 3, 0]);
    let mut segment = Segment::new(from, to, flags, sequence, acknowledgement);
    let ip_options = if world.local.address.is_ipv4() { feed.byte() & 3 } else { 0 };
    segment.ip_options = words(&mut feed, usize::from(ip_options));
    let ours = feed.byte();
    let room = if ours & 1 == 1 { 5 } else { 10 };
    let options = usize::from(feed.byte()) % (room + 1);
    segment.options = words(&mut feed, options);
    if ours & 1 == 1 {
        let handle = if ours & 2 == 2 { world.theirs.handle } else { feed.array() };
        segment = segment.hello(handle, PEER_NONCE);
    }
    match ours & 0b1100 {
        0b1100 => segment.payload(&world.theirs.bytes),
        0b0100 => segment.payload(feed.bytes(1024)),
        _ => segment,
    }
}

/// As many words of four bytes; what is missing is no-operation.
fn words(feed: &mut Feed<'_>, words: usize) -> Vec<u8> {
    let mut bytes = feed.bytes(words * 4).to_vec();
    bytes.resize(words * 4, 1);
    bytes
}
