//! The life of a flow: which segments pass, what they leave behind, and when it is garbage.

use super::sequence::{later, within};
use crate::abi::{DropReason, FlowValue, flow_flags, flow_state};
use crate::wire::frame::{Packet, tcp_flags};

/// A RST this far from the expected sequence number cannot be of the connection: larger than any
/// window (RFC 7323 2.3 limits it to 2^30).
const RESET_SLACK: u32 = WINDOW;

/// Larger than any window (RFC 7323 2.3).
const WINDOW: u32 = 1 << 30;

const SECOND_NS: u64 = 1_000_000_000;

/// Judges a segment of a flow and records it. `now_ns` is boot time.
///
/// A RST with the exact sequence number the receiver expects marks the flow as reset; any other
/// one is passed for the stack's challenge (RFC 5961 3.2) and changes nothing. Valid traffic
/// revives a flow that was marked, so a RST that the stack refused kills nothing.
#[inline(always)]
pub fn on_segment(
    flow: &mut FlowValue,
    packet: &Packet,
    from_workload: bool,
    now_ns: u64,
) -> Result<(), DropReason> {
    if flow.deadline_ns <= now_ns {
        return Err(DropReason::Expired);
    }
    if packet.has(tcp_flags::RST) {
        return on_reset(flow, packet, from_workload, now_ns);
    }
    if flow.state == flow_state::CUT {
        return Err(DropReason::FlowCut);
    }
    if packet.has(tcp_flags::FIN) {
        flow.flags |= if from_workload { flow_flags::FIN_OUT } else { flow_flags::FIN_IN };
    }
    if flow.state != flow_state::UNCONFIRMED {
        let closing = flow.flags & (flow_flags::FIN_OUT | flow_flags::FIN_IN) != 0;
        flow.state = if closing { flow_state::CLOSING } else { flow_state::ESTABLISHED };
    }
    record(flow, packet, from_workload, now_ns);
    Ok(())
}

/// Counts a packet and keeps the sequence bounds.
#[inline(always)]
pub fn record(flow: &mut FlowValue, packet: &Packet, from_workload: bool, now_ns: u64) {
    let sized = u64::from(packet.end).saturating_sub(14);
    let next = packet
        .sequence
        .wrapping_add(packet.payload())
        .wrapping_add(u32::from(packet.flags & tcp_flags::FIN != 0));
    flow.seen_ns = now_ns;
    if from_workload {
        flow.packets_out = flow.packets_out.wrapping_add(1);
        flow.bytes_out = flow.bytes_out.wrapping_add(sized);
        flow.local_next = later(next, flow.local_next);
        flow.local_ack = later(packet.acknowledgement, flow.local_ack);
    } else {
        flow.packets_in = flow.packets_in.wrapping_add(1);
        flow.bytes_in = flow.bytes_in.wrapping_add(sized);
        // Whoever knows the tuple could move these with one spoofed segment; they move only to
        // what the workload has sent, and not far ahead of what it has taken.
        if within(next, flow.local_ack, WINDOW) {
            flow.remote_next = later(next, flow.remote_next);
        }
        let sent = flow.local_next.wrapping_sub(flow.remote_ack);
        if packet.acknowledgement.wrapping_sub(flow.remote_ack) <= sent {
            flow.remote_ack = packet.acknowledgement;
        }
    }
}

#[inline(always)]
fn on_reset(
    flow: &mut FlowValue,
    packet: &Packet,
    from_workload: bool,
    now_ns: u64,
) -> Result<(), DropReason> {
    let expected = if from_workload { flow.remote_ack } else { flow.local_ack };
    let start = expected.wrapping_sub(RESET_SLACK);
    if !from_workload && !within(packet.sequence, start, 2 * RESET_SLACK) {
        return Err(DropReason::SpoofedReset);
    }
    let ours = if from_workload { flow.local_next } else { flow.remote_next };
    if packet.sequence == expected || packet.sequence == ours {
        if flow.state != flow_state::CUT {
            flow.state = flow_state::RESET;
        }
        flow.seen_ns = now_ns;
    }
    Ok(())
}

/// Whether a segment towards the client shows that its server accepted the proof: it acknowledges
/// the SYN at least, nothing that was not sent (`client_next` is one past that), and stands in the window behind the SYN-ACK. Anything less would let a spoofed
/// packet silence the proof.
#[must_use]
#[inline(always)]
pub fn confirms(packet: &Packet, client_isn: u32, client_next: u32, server_isn: u32) -> bool {
    let sent = client_next.wrapping_sub(client_isn);
    packet.has(tcp_flags::ACK)
        && packet.flags & (tcp_flags::SYN | tcp_flags::RST) == 0
        && within(packet.acknowledgement, client_isn.wrapping_add(1), sent)
        && within(packet.sequence, server_isn.wrapping_add(1), WINDOW)
}

/// Whether nothing can come of the flow any more. `now_ns` is boot time.
#[must_use]
pub fn is_garbage(flow: &FlowValue, now_ns: u64) -> bool {
    now_ns >= flow.deadline_ns || now_ns.saturating_sub(flow.seen_ns) >= idle_limit_ns(flow)
}

/// How long a flow may be silent, in nanoseconds.
#[must_use]
pub fn idle_limit_ns(flow: &FlowValue) -> u64 {
    let both = flow_flags::FIN_OUT | flow_flags::FIN_IN;
    let seconds = match flow.state {
        // As conntrack's default for established connections: five days.
        flow_state::ESTABLISHED => 5 * 86_400,
        // Once both sides have closed only a lost last ACK matters: its FIN comes again several
        // times in this span. At ten thousand connections a second a longer one fills the table.
        flow_state::CLOSING if flow.flags & both == both => 5,
        // A half-closed connection may wait long; so may one that was opened ahead of its use,
        // whose server has had nothing to say yet.
        flow_state::CLOSING | flow_state::UNCONFIRMED => 86_400,
        flow_state::DATAGRAM => 60,
        _ => 2,
    };
    seconds * SECOND_NS
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flow() -> FlowValue {
        FlowValue {
            deadline_ns: 1000,
            state: flow_state::ESTABLISHED,
            local_next: 100,
            local_ack: 500,
            remote_next: 500,
            remote_ack: 100,
            ..FlowValue::default()
        }
    }

    fn segment(flags: u8, sequence: u32, acknowledgement: u32) -> Packet {
        Packet {
            flags,
            sequence,
            acknowledgement,
            transport: 34,
            tcp_header: 20,
            end: 54,
            ..Packet::default()
        }
    }

    #[test]
    fn an_expired_flow_passes_nothing() {
        let p = segment(tcp_flags::ACK, 100, 500);
        assert_eq!(on_segment(&mut flow(), &p, true, 1000), Err(DropReason::Expired));
        assert_eq!(on_segment(&mut flow(), &p, true, 999), Ok(()));
    }

    #[test]
    fn an_exact_reset_marks_and_valid_traffic_revives() {
        let mut f = flow();
        on_segment(&mut f, &segment(tcp_flags::RST, 500, 0), false, 1).unwrap();
        assert_eq!(f.state, flow_state::RESET);
        on_segment(&mut f, &segment(tcp_flags::ACK, 500, 100), false, 2).unwrap();
        assert_eq!(f.state, flow_state::ESTABLISHED);
    }

    #[test]
    fn a_reset_elsewhere_changes_nothing() {
        let mut f = flow();
        on_segment(&mut f, &segment(tcp_flags::RST, 501, 0), false, 1).unwrap();
        assert_eq!(f.state, flow_state::ESTABLISHED);
        let far = segment(tcp_flags::RST, 500u32.wrapping_add(3 << 29), 0);
        assert_eq!(on_segment(&mut f, &far, false, 1), Err(DropReason::SpoofedReset));
    }

    #[test]
    fn a_cut_flow_passes_only_resets() {
        let mut f = FlowValue { state: flow_state::CUT, ..flow() };
        let data = segment(tcp_flags::ACK, 100, 500);
        assert_eq!(on_segment(&mut f, &data, true, 1), Err(DropReason::FlowCut));
        assert_eq!(on_segment(&mut f, &segment(tcp_flags::RST, 500, 0), false, 1), Ok(()));
        assert_eq!(f.state, flow_state::CUT);
    }

    #[test]
    fn a_half_close_lives_long_and_a_full_one_shortly() {
        let mut f = flow();
        on_segment(&mut f, &segment(tcp_flags::FIN | tcp_flags::ACK, 100, 500), true, 0).unwrap();
        assert_eq!(idle_limit_ns(&f), 86_400 * SECOND_NS);
        on_segment(&mut f, &segment(tcp_flags::FIN | tcp_flags::ACK, 500, 101), false, 0).unwrap();
        assert_eq!(idle_limit_ns(&f), 5 * SECOND_NS);
    }

    #[test]
    fn only_a_segment_in_the_window_confirms() {
        let (a, b) = (1000, 9000);
        assert!(confirms(&segment(tcp_flags::ACK, 9001, 1001), a, a + 1, b));
        assert!(!confirms(&segment(tcp_flags::ACK, 9000, 1001), a, a + 1, b));
        assert!(!confirms(&segment(tcp_flags::ACK, 9001, 1000), a, a + 1, b));
        assert!(!confirms(&segment(tcp_flags::ACK | tcp_flags::SYN, 9001, 1001), a, a + 1, b));
        assert!(!confirms(&segment(tcp_flags::ACK | tcp_flags::RST, 9001, 1001), a, a + 1, b));
    }

    proptest! {
        #[test]
        fn a_cut_or_expired_flow_never_passes_data(flags in any::<u8>(), s: u32, a: u32, from: bool, now in 0u64..2000) {
            let mut f = FlowValue { state: flow_state::CUT, ..flow() };
            let p = segment(flags & !tcp_flags::RST, s, a);
            prop_assert!(on_segment(&mut f, &p, from, now).is_err());
            prop_assert_eq!(f.state, flow_state::CUT);
        }
    }
}
