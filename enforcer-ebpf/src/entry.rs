//! The way of a packet through the program.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use aya_log_ebpf::debug;
use enforcer_common::{
    abi::DropReason,
    wire::frame::{self, ETHERNET_BYTES, IPV4_OPTIONS_MAX, protocol, tcp_flags},
};

use crate::{
    address, clock, counter, flow, handshake, maps::SCRATCH, network, outcome::Outcome,
    scratch::Scratch, skb::load_slice,
};

/// Not a verdict: the slow path decides.
pub const SLOW: u32 = 1 << 17;

/// Judges a packet; `FROM` says that the workload sends it.
#[inline(always)]
pub fn run<const FROM: bool>(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return Outcome::action(DropReason::Internal as u32);
    };
    // SAFETY: per-CPU memory; only a synchronous clone of this very program re-enters on this CPU,
    // and what is read after one is read anew.
    let s = unsafe { &mut *scratch };
    let mut number = flow::established::<FROM>(skb, s);
    if number == SLOW {
        number = slow::<FROM>(skb, s);
    } else if !FROM && number == flow::FINISHED {
        number = flow::finish(skb, s);
    }
    // Through memory, so that the verifier walks what follows once and not once for each outcome.
    s.outcome.set(number);
    let number = s.outcome.value();
    if let Some(reason) = Outcome::reason(number)
        && counter::drop_counted(s, reason, u32::from(FROM)) != 0
    {
        log_sampled(skb, s, u32::from(reason));
    }
    Outcome::action(number)
}

/// Everything but plain packets of established flows.
#[inline(always)]
fn slow<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    if s.packet.family == 0 {
        return if FROM { address::arp(skb, s) } else { 0 };
    }
    if s.packet.ipv4_options() > 0 {
        let failed = check_ipv4_options(skb, s);
        if failed != 0 {
            return failed;
        }
    }
    if s.packet.protocol != protocol::TCP {
        return network::datagram::<FROM>(skb, s);
    }
    clock::read(s);
    let flags = s.packet.flags;
    if flags & tcp_flags::SYN == 0 {
        return flow::segment::<FROM>(skb, s);
    }
    if flags & (tcp_flags::FIN | tcp_flags::RST) != 0 {
        return DropReason::MalformedHeader as u32;
    }
    match (flags & tcp_flags::ACK != 0, FROM) {
        (false, true) => handshake::open(skb, s),
        (false, false) => handshake::accept(skb, s),
        (true, true) => handshake::answer(skb, s),
        (true, false) => handshake::answered(skb, s),
    }
}

#[inline(never)]
fn check_ipv4_options(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let length = s.packet.ipv4_options();
    let at = (ETHERNET_BYTES + 20) as u32;
    let checked = load_slice::<IPV4_OPTIONS_MAX>(skb, at, &mut s.options, length as u32)
        .and_then(|()| frame::check_ipv4_options(&s.options, length, &mut s.position));
    match checked {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// The datapath's own line on a sampled drop. The daemon's line from the event ring names peer and
/// rule; this one shows what the program saw, also of frames that were not parsed.
#[inline(never)]
fn log_sampled(skb: *mut __sk_buff, s: &Scratch, reason: u32) -> u32 {
    debug!(
        TcContext::new(skb),
        "interface {}: dropped for reason {}: protocol {}, flags {}, sequence {}",
        s.ifindex,
        reason,
        s.packet.protocol,
        s.packet.flags,
        s.packet.sequence
    );
    0
}
