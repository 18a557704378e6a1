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
/// A RST in the window passes, for the stack's challenge (RFC 5961 3.2), and changes nothing here:
/// whether it ends the flow is asked of [`is_ended_by`], and of its checksum.
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
        return judge_reset(flow, packet, from_workload);
    }
    if flow.state == flow_state::CUT {
        return Err(DropReason::FlowCut);
    }
    pass(flow, packet, from_workload, now_ns);
    Ok(())
}

/// Records a segment that may pass, other than a RST: what it opens or closes, and as [`record`].
#[inline(always)]
pub fn pass(flow: &mut FlowValue, packet: &Packet, from_workload: bool, now_ns: u64) {
    if packet.has(tcp_flags::FIN) {
        if from_workload {
            let ends = flow_flags::FIN_OUT | flow_flags::FIN_IN;
            if flow.flags & ends == flow_flags::FIN_IN && packet.acknowledgement == flow.remote_end
            {
                flow.flags |= flow_flags::CLOSED_SECOND;
            }
            flow.flags |= flow_flags::FIN_OUT;
        } else if within(next_after(packet), flow.local_ack.wrapping_add(1), WINDOW - 1)
            && !is_end_acknowledged(flow)
        {
            // One at or behind what the workload has acknowledged is old, or was never sent. A spoofed
            // one is displaced by the true one, which nothing displaces once the workload's stack has
            // taken it.
            flow.flags |= flow_flags::FIN_IN;
            flow.remote_end = next_after(packet);
        }
    }
    if flow.state != flow_state::UNCONFIRMED {
        let closing = flow.flags & (flow_flags::FIN_OUT | flow_flags::FIN_IN) != 0;
        flow.state = if closing { flow_state::CLOSING } else { flow_state::ESTABLISHED };
    }
    record(flow, packet, from_workload, now_ns);
}

/// Counts a segment and keeps the sequence bounds.
#[inline(always)]
pub fn record(flow: &mut FlowValue, packet: &Packet, from_workload: bool, now_ns: u64) {
    count(flow, packet, from_workload, now_ns);
    let next = next_after(packet);
    if from_workload {
        flow.local_next = later(next, flow.local_next);
        flow.local_ack = later(packet.acknowledgement, flow.local_ack);
    } else {
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

/// Counts a packet of any protocol.
#[inline(always)]
pub fn count(flow: &mut FlowValue, packet: &Packet, from_workload: bool, now_ns: u64) {
    let sized = u64::from(packet.end).saturating_sub(14);
    // The clocks of two processors differ by a tick.
    flow.seen_ns = flow.seen_ns.max(now_ns);
    if from_workload {
        flow.packets_out = flow.packets_out.wrapping_add(1);
        flow.bytes_out = flow.bytes_out.wrapping_add(sized);
    } else {
        flow.packets_in = flow.packets_in.wrapping_add(1);
        flow.bytes_in = flow.bytes_in.wrapping_add(sized);
    }
}

/// One past the last sequence number that the segment takes.
#[inline(always)]
fn next_after(packet: &Packet) -> u32 {
    packet
        .sequence
        .wrapping_add(packet.payload())
        .wrapping_add(u32::from(packet.flags & tcp_flags::FIN != 0))
}

#[inline(always)]
fn judge_reset(flow: &FlowValue, packet: &Packet, from_workload: bool) -> Result<(), DropReason> {
    let start = flow.local_ack.wrapping_sub(RESET_SLACK);
    if !from_workload && !within(packet.sequence, start, 2 * RESET_SLACK) {
        return Err(DropReason::SpoofedReset);
    }
    Ok(())
}

/// Whether a RST that [`on_segment`] let pass stands where its receiver takes it for the end of the
/// connection: at the highest acknowledgement of the receiver, or one past the highest sequence
/// number of its own sender. It does so only with a right checksum.
#[must_use]
#[inline(always)]
pub fn is_ended_by(flow: &FlowValue, packet: &Packet, from_workload: bool) -> bool {
    let (expected, sent) = if from_workload {
        (flow.remote_ack, flow.local_next)
    } else {
        (flow.local_ack, flow.remote_next)
    };
    packet.has(tcp_flags::RST) && (packet.sequence == expected || packet.sequence == sent)
}

/// Marks a flow as reset. Valid traffic revives it, so a RST that the stack refused all the same
/// kills nothing that is in use.
#[inline(always)]
pub fn end(flow: &mut FlowValue, now_ns: u64) {
    if flow.state != flow_state::CUT {
        flow.state = flow_state::RESET;
    }
    flow.seen_ns = now_ns;
}

/// Whether a SYN-ACK is the one of this flow once more: of its server, without data, with the very
/// numbers, while the server has neither sent nor acknowledged anything behind it. A server's stack
/// that had no room for the connection yet, or waits for data, dropped the client's ACK.
#[must_use]
#[inline(always)]
pub fn is_answered_again(flow: &FlowValue, packet: &Packet, from_workload: bool) -> bool {
    let by_workload = flow.flags & flow_flags::INITIATOR == 0;
    let (next, acknowledged) = if from_workload {
        (flow.local_next, flow.local_ack)
    } else {
        (flow.remote_next, flow.remote_ack)
    };
    by_workload == from_workload
        && packet.payload() == 0
        && packet.sequence.wrapping_add(1) == next
        && packet.acknowledgement == acknowledged
}

/// Whether S2, of this peer, has the numbers of the one that opened this flow, which nothing has confirmed yet. The flow's
/// bounds stay: the workload may have sent data meanwhile, and the server's next segment may acknowledge it.
#[must_use]
#[inline(always)]
pub fn is_opened_again(flow: &FlowValue, peer: u64, packet: &Packet) -> bool {
    flow.state == flow_state::UNCONFIRMED
        && flow.peer == peer
        && flow.remote_next == packet.sequence.wrapping_add(1)
        && flow.remote_ack == packet.acknowledgement
}

/// Whether a SYN-ACK is of a call whose workload has acknowledged another one, which nothing has confirmed yet. The
/// workload's stack keeps to the first, and so must the bounds: mac_B does not cover sequence numbers.
#[must_use]
#[inline(always)]
pub fn contradicts(flow: &FlowValue, packet: &Packet) -> bool {
    flow.state == flow_state::UNCONFIRMED
        && flow.packets_out > 0
        && flow.remote_ack == packet.acknowledgement
        && flow.remote_next != packet.sequence.wrapping_add(1)
}

/// Whether a segment towards the client shows that its server accepted the proof: it acknowledges
/// the SYN at least, nothing that was not sent (`client_next` is one past that), and stands in the
/// window that begins with the SYN-ACK's own number, where a keepalive ahead of all data stands
/// (RFC 9293 3.8.4). Anything less would let a spoofed packet silence the proof.
#[must_use]
#[inline(always)]
pub fn confirms(packet: &Packet, client_isn: u32, client_next: u32, server_isn: u32) -> bool {
    let sent = client_next.wrapping_sub(client_isn);
    packet.has(tcp_flags::ACK)
        && packet.flags & (tcp_flags::SYN | tcp_flags::RST) == 0
        && within(packet.acknowledgement, client_isn.wrapping_add(1), sent)
        && within(packet.sequence, server_isn, WINDOW + 1)
}

/// Whether nothing can come of the flow any more. `now_ns` is boot time.
#[must_use]
pub fn is_garbage(flow: &FlowValue, now_ns: u64) -> bool {
    now_ns >= flow.deadline_ns || now_ns.saturating_sub(flow.seen_ns) >= idle_limit_ns(flow)
}

/// How long a flow may be silent, in nanoseconds.
#[must_use]
pub fn idle_limit_ns(flow: &FlowValue) -> u64 {
    let seconds = match flow.state {
        // As conntrack's default for established connections: five days.
        flow_state::ESTABLISHED => 5 * 86_400,
        // Once both sides have closed only a lost last ACK matters: its FIN comes again several
        // times in this span. At ten thousand connections a second a longer one fills the table.
        flow_state::CLOSING if is_closed(flow) => 5,
        // A half-closed connection may wait long; so may one that was opened ahead of its use,
        // whose server has had nothing to say yet.
        flow_state::CLOSING | flow_state::UNCONFIRMED => 86_400,
        flow_state::DATAGRAM | flow_state::NAME_SERVER => 60,
        _ => 2,
    };
    seconds * SECOND_NS
}

/// Whether a segment that was let pass towards the workload is the last of the connection: the workload
/// closed second, and this is the bare acknowledgement of its FIN, with the very numbers. The far side has
/// then read the acknowledgement of its own FIN, which came with that one, and has no reason to send again;
/// the workload's stack is done with the connection (RFC 9293 3.10.7.4, LAST-ACK).
///
/// Not so where the workload closed first, or both at once: the far side may ask again for what
/// acknowledged its FIN. Nor of a flow that an upgrade has copied: the table before still has it, and it
/// would be copied again.
#[must_use]
#[inline(always)]
pub fn is_finished_by(flow: &FlowValue, packet: &Packet) -> bool {
    flow.flags & (flow_flags::CLOSED_SECOND | flow_flags::CARRIED) == flow_flags::CLOSED_SECOND
        && is_end_acknowledged(flow)
        && packet.has(tcp_flags::ACK)
        && packet.flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) == 0
        && packet.payload() == 0
        && packet.sequence == flow.remote_end
        && packet.acknowledgement == flow.local_next
}

/// Whether both ends have closed, and the workload's stack has acknowledged the far side's FIN: one that
/// the stack refuses, for its number or its checksum, closes nothing.
fn is_closed(flow: &FlowValue) -> bool {
    flow.flags & flow_flags::FIN_OUT != 0 && is_end_acknowledged(flow)
}

/// Whether the workload has acknowledged the far side's FIN.
#[inline(always)]
fn is_end_acknowledged(flow: &FlowValue) -> bool {
    flow.flags & flow_flags::FIN_IN != 0 && flow.local_ack == flow.remote_end
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
        let reset = segment(tcp_flags::RST, 500, 0);
        on_segment(&mut f, &reset, false, 1).unwrap();
        assert!(is_ended_by(&f, &reset, false));
        end(&mut f, 1);
        assert_eq!((f.state, f.seen_ns), (flow_state::RESET, 1));
        on_segment(&mut f, &segment(tcp_flags::ACK, 500, 100), false, 2).unwrap();
        assert_eq!(f.state, flow_state::ESTABLISHED);
    }

    #[test]
    fn a_reset_elsewhere_changes_nothing() {
        let mut f = flow();
        let reset = segment(tcp_flags::RST, 501, 0);
        on_segment(&mut f, &reset, false, 1).unwrap();
        assert!(!is_ended_by(&f, &reset, false));
        assert!(!is_ended_by(&f, &segment(tcp_flags::ACK, 500, 0), false));
        assert_eq!(f, flow());
        let far = segment(tcp_flags::RST, 500u32.wrapping_add(3 << 29), 0);
        assert_eq!(on_segment(&mut f, &far, false, 1), Err(DropReason::SpoofedReset));
    }

    #[test]
    fn a_cut_flow_passes_only_resets() {
        let mut f = FlowValue { state: flow_state::CUT, ..flow() };
        let data = segment(tcp_flags::ACK, 100, 500);
        assert_eq!(on_segment(&mut f, &data, true, 1), Err(DropReason::FlowCut));
        assert_eq!(on_segment(&mut f, &segment(tcp_flags::RST, 500, 0), false, 1), Ok(()));
        end(&mut f, 1);
        assert_eq!(f.state, flow_state::CUT);
    }

    #[test]
    fn a_half_close_lives_long_and_a_full_one_shortly() {
        let mut f = flow();
        on_segment(&mut f, &segment(tcp_flags::FIN | tcp_flags::ACK, 100, 500), true, 0).unwrap();
        assert_eq!(idle_limit_ns(&f), 86_400 * SECOND_NS);
        on_segment(&mut f, &segment(tcp_flags::FIN | tcp_flags::ACK, 500, 101), false, 0).unwrap();
        on_segment(&mut f, &segment(tcp_flags::ACK, 101, 501), true, 0).unwrap();
        assert_eq!(idle_limit_ns(&f), 5 * SECOND_NS);
    }

    #[test]
    fn a_fin_that_the_workload_does_not_acknowledge_closes_nothing() {
        let fin = tcp_flags::FIN | tcp_flags::ACK;
        // In sequence but refused by the stack; ahead; behind; far off.
        for sequence in [500, 600, 499, 300, 500 + (1 << 30)] {
            let mut f = flow();
            on_segment(&mut f, &segment(fin, 100, 500), true, 0).unwrap();
            on_segment(&mut f, &segment(fin, sequence, 101), false, 0).unwrap();
            assert_eq!(idle_limit_ns(&f), 86_400 * SECOND_NS, "{sequence}");
            on_segment(&mut f, &segment(tcp_flags::ACK, 101, 500), true, 0).unwrap();
            assert_eq!(idle_limit_ns(&f), 86_400 * SECOND_NS, "{sequence}");
        }
    }

    #[test]
    fn only_the_second_to_close_is_done_with_the_last_acknowledgement() {
        let fin = tcp_flags::FIN | tcp_flags::ACK;
        let (theirs, own) = (segment(fin, 500, 100), segment(fin, 100, 501));
        let last = segment(tcp_flags::ACK, 501, 101);
        let mut f = flow();
        on_segment(&mut f, &theirs, false, 0).unwrap();
        on_segment(&mut f, &own, true, 0).unwrap();
        on_segment(&mut f, &last, false, 0).unwrap();
        assert!(is_finished_by(&f, &last));
        let carried = FlowValue { flags: f.flags | flow_flags::CARRIED, ..f };
        assert!(!is_finished_by(&carried, &last));
        assert!(!is_finished_by(&f, &segment(tcp_flags::ACK, 500, 101)));
        assert!(!is_finished_by(&f, &segment(tcp_flags::ACK, 501, 100)));
        assert!(!is_finished_by(&f, &Packet { end: 55, ..last }));
        // First, and both at once: a FIN that goes out again says nothing of what the first one said.
        let early = segment(fin, 100, 500);
        let mut f = flow();
        for (packet, from_workload) in [(early, true), (theirs, false), (own, true)] {
            on_segment(&mut f, &packet, from_workload, 0).unwrap();
        }
        assert!(!is_finished_by(&f, &last));
    }

    #[test]
    fn what_is_spoofed_ahead_keeps_no_closed_flow() {
        let fin = tcp_flags::FIN | tcp_flags::ACK;
        let (ahead, data) = (segment(fin, 5000, 101), segment(tcp_flags::ACK, 5000, 101));
        let data = Packet { end: data.end + 14, ..data };
        let end = segment(fin, 500, 101);
        let acknowledged = segment(tcp_flags::ACK, 101, 501);
        // Ahead of the true FIN, between it and its acknowledgement (data alone), and behind both.
        let orders: [&[(Packet, bool)]; 5] = [
            &[(ahead, false), (end, false), (acknowledged, true)],
            &[(data, false), (end, false), (acknowledged, true)],
            &[(end, false), (data, false), (acknowledged, true)],
            &[(end, false), (acknowledged, true), (ahead, false)],
            &[(end, false), (acknowledged, true), (data, false)],
        ];
        for order in orders {
            let mut f = flow();
            on_segment(&mut f, &segment(fin, 100, 500), true, 0).unwrap();
            for (packet, from_workload) in order {
                on_segment(&mut f, packet, *from_workload, 0).unwrap();
            }
            assert_eq!(idle_limit_ns(&f), 5 * SECOND_NS, "{order:?}");
        }
    }

    #[test]
    fn only_the_very_s2_finds_its_flow_open() {
        let open = FlowValue { state: flow_state::UNCONFIRMED, peer: 7, ..flow() };
        let s2 = Packet { end: 400, ..segment(tcp_flags::SYN | tcp_flags::ACK, 499, 100) };
        assert!(is_opened_again(&open, 7, &s2));
        assert!(is_opened_again(&FlowValue { local_next: 300, ..open }, 7, &s2));
        assert!(!is_opened_again(&open, 8, &s2));
        assert!(!is_opened_again(&open, 7, &Packet { sequence: 500, ..s2 }));
        assert!(!is_opened_again(&open, 7, &Packet { acknowledgement: 101, ..s2 }));
        assert!(!is_opened_again(&FlowValue { state: flow_state::ESTABLISHED, ..open }, 7, &s2));
    }

    #[test]
    fn a_syn_ack_contradicts_the_one_that_was_acknowledged() {
        let state = flow_state::UNCONFIRMED;
        let open = FlowValue { state, packets_out: 1, ..flow() };
        let other = segment(tcp_flags::SYN | tcp_flags::ACK, 700, 100);
        assert!(contradicts(&open, &other));
        assert!(!contradicts(&open, &Packet { sequence: 499, ..other }));
        assert!(!contradicts(&open, &Packet { acknowledgement: 101, ..other }));
        assert!(!contradicts(&FlowValue { packets_out: 0, ..open }, &other));
        let state = flow_state::ESTABLISHED;
        assert!(!contradicts(&FlowValue { state, ..open }, &other));
    }

    #[test]
    fn only_the_very_syn_ack_is_one_that_comes_again() {
        let flags = tcp_flags::SYN | tcp_flags::ACK;
        let client = FlowValue { flags: flow_flags::INITIATOR, ..flow() };
        let towards = segment(flags, 499, 100);
        assert!(is_answered_again(&client, &towards, false));
        assert!(!is_answered_again(&client, &Packet { sequence: 500, ..towards }, false));
        assert!(!is_answered_again(&client, &Packet { acknowledgement: 101, ..towards }, false));
        assert!(!is_answered_again(&client, &Packet { end: 55, ..towards }, false));
        let server = flow();
        let from = segment(flags, 99, 500);
        assert!(is_answered_again(&server, &from, true));
        assert!(!is_answered_again(&FlowValue { local_next: 101, ..server }, &from, true));
        assert!(!is_answered_again(&FlowValue { local_ack: 501, ..server }, &from, true));
        // Who opened the connection sends none.
        assert!(!is_answered_again(&server, &towards, false));
        assert!(!is_answered_again(&client, &from, true));
    }

    #[test]
    fn only_a_segment_in_the_window_confirms() {
        let (a, b) = (1000, 9000);
        assert!(confirms(&segment(tcp_flags::ACK, 9001, 1001), a, a + 1, b));
        assert!(confirms(&segment(tcp_flags::ACK, 9000, 1001), a, a + 1, b), "a keepalive");
        assert!(!confirms(&segment(tcp_flags::ACK, 8999, 1001), a, a + 1, b));
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
