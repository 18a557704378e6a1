//! What holds of a flow for every segment.

use proptest::prelude::*;

use super::{
    WINDOW, confirms, end, idle_limit_ns, is_ended_by, is_finished_by, is_garbage, on_segment,
    record,
};
use crate::abi::{FlowValue, flow_flags, flow_state};
use crate::datapath::sequence::{after, within};
use crate::wire::frame::{Packet, tcp_flags};

const NOW_NS: u64 = 1_000_000_000_000;
/// Room ahead of a bound within which a segment's data may lie.
const DATA_MAX: u32 = 1460;

prop_compose! {
    fn flow()(
        local in any::<u32>(),
        remote in any::<u32>(),
        sent in 0u32..1 << 20,
        heard in 0u32..1 << 20,
        state in flow_state::UNCONFIRMED..=flow_state::RESET,
    ) -> FlowValue {
        FlowValue {
            deadline_ns: u64::MAX,
            seen_ns: NOW_NS - 1,
            local_next: local.wrapping_add(sent),
            remote_ack: local,
            remote_next: remote.wrapping_add(heard),
            local_ack: remote,
            state,
            ..FlowValue::default()
        }
    }
}

prop_compose! {
    fn segment()(
        flags in any::<u8>(),
        sequence in any::<u32>(),
        acknowledgement in any::<u32>(),
        data in 0..DATA_MAX,
    ) -> Packet {
        Packet {
            flags,
            sequence,
            acknowledgement,
            transport: 34,
            tcp_header: 20,
            end: 54 + data,
            ..Packet::default()
        }
    }
}

/// One in sequence or near, so that not all are refused.
fn near(flow: &FlowValue, packet: Packet, offset: i32, from_workload: bool) -> Packet {
    let (next, ack) = if from_workload {
        (flow.local_next, flow.remote_next)
    } else {
        (flow.remote_next, flow.local_next)
    };
    Packet {
        sequence: next.wrapping_add_signed(offset),
        acknowledgement: ack.wrapping_add_signed(offset / 2),
        ..packet
    }
}

proptest! {
    /// A segment from outside never makes the far side acknowledge what the workload has not sent, nor send behind
    /// the window.
    #[test]
    fn outside_segments_move_bounds_within_the_window(
        before in flow(), any in segment(), offset in -5000i32..5000, is_near: bool,
    ) {
        let packet = if is_near { near(&before, any, offset, false) } else { any };
        let mut flow = before;
        record(&mut flow, &packet, false, NOW_NS);
        prop_assert!(!after(flow.remote_ack, flow.local_next));
        prop_assert!(!after(before.remote_ack, flow.remote_ack), "an acknowledgement never goes back");
        prop_assert!(!after(before.remote_next, flow.remote_next));
        let moved = flow.remote_next != before.remote_next;
        prop_assert!(!moved || within(flow.remote_next, before.local_ack, WINDOW));
        prop_assert_eq!((flow.local_next, flow.local_ack), (before.local_next, before.local_ack));
    }

    /// The workload's own segments move its own numbers, and forwards.
    #[test]
    fn the_workloads_segments_move_its_own_bounds(before in flow(), packet in segment()) {
        let mut flow = before;
        record(&mut flow, &packet, true, NOW_NS);
        prop_assert_eq!((flow.remote_next, flow.remote_ack), (before.remote_next, before.remote_ack));
        prop_assert!(!after(before.local_next, flow.local_next));
        prop_assert!(!after(before.local_ack, flow.local_ack));
    }

    /// A reset passes or not by its place alone, and marks only at the two exact numbers.
    #[test]
    fn a_reset_marks_only_where_it_is_expected(
        before in flow(), any in segment(), offset in -3i32..3, place in 0u8..3,
    ) {
        let start = [before.local_ack, before.remote_next, any.sequence][usize::from(place)];
        let sequence = start.wrapping_add_signed(offset);
        let packet = Packet { flags: any.flags | tcp_flags::RST, sequence, ..any };
        let mut flow = before;
        let passed = on_segment(&mut flow, &packet, false, NOW_NS).is_ok();
        let distance = sequence.wrapping_sub(before.local_ack).cast_signed();
        let low = i64::from(distance) >= -i64::from(WINDOW);
        prop_assert_eq!(passed, low && i64::from(distance) < i64::from(WINDOW));
        prop_assert_eq!(flow, before);
        let exact = sequence == before.local_ack || sequence == before.remote_next;
        prop_assert_eq!(is_ended_by(&flow, &packet, false), exact);
        end(&mut flow, NOW_NS);
        prop_assert_eq!(flow, FlowValue { state: flow_state::RESET, seen_ns: NOW_NS, ..before });
    }

    /// What confirms acknowledges something that was sent, at least the SYN, and lies in the window, which begins with
    /// the SYN-ACK's own number.
    #[test]
    fn only_acknowledgement_of_what_was_sent_confirms(
        client: u32, sent in 1u32..1 << 20, server: u32, any in segment(),
        ack in -4i64..(1 << 20) + 4, sequence in -4i64..(1 << 30) + 4,
    ) {
        let at = |isn: u32, offset: i64| isn.wrapping_add_signed(i32::try_from(offset).unwrap());
        let packet =
            Packet { acknowledgement: at(client, ack), sequence: at(server, sequence), ..any };
        let next = client.wrapping_add(sent);
        let flags_right =
            any.has(tcp_flags::ACK) && any.flags & (tcp_flags::SYN | tcp_flags::RST) == 0;
        let numbers_right = (1..=i64::from(sent)).contains(&ack)
            && (0..=i64::from(WINDOW)).contains(&sequence);
        prop_assert_eq!(confirms(&packet, client, next, server), flags_right && numbers_right);
    }

    /// Nothing but a confirmation takes a flow out of its unconfirmed state, and nothing opens one that was closing.
    #[test]
    fn a_segment_does_not_confirm_by_itself(before in flow(), any in segment(), from: bool) {
        let packet = Packet { flags: any.flags & !tcp_flags::RST, ..any };
        let unconfirmed = FlowValue { state: flow_state::UNCONFIRMED, ..before };
        let mut flow = unconfirmed;
        on_segment(&mut flow, &packet, from, NOW_NS).unwrap();
        prop_assert_eq!(flow.state, flow_state::UNCONFIRMED);
        let closing = flow_flags::FIN_IN;
        let mut flow = FlowValue { flags: closing, state: flow_state::CLOSING, ..before };
        on_segment(&mut flow, &packet, from, NOW_NS).unwrap();
        prop_assert_eq!(flow.state, flow_state::CLOSING);
    }

    /// Nothing finishes a flow but the acknowledgement of all that the workload has sent, at the end of all that the
    /// far side has, when both have closed: whatever came before.
    #[test]
    fn a_flow_is_finished_only_when_all_is_sent_and_acknowledged(
        before in flow(),
        segments in proptest::collection::vec((segment(), -3i32..3, any::<bool>(), any::<bool>()), 1..12),
    ) {
        let mut flow = FlowValue { state: flow_state::ESTABLISHED, ..before };
        for (packet, offset, from, closes) in segments {
            let closing = tcp_flags::ACK | if closes { tcp_flags::FIN } else { 0 };
            let packet = Packet { flags: closing, ..near(&flow, packet, offset, from) };
            let packet = if offset < 1 { Packet { end: 54, ..packet } } else { packet };
            on_segment(&mut flow, &packet, from, NOW_NS).unwrap();
            if !from && is_finished_by(&flow, &packet) {
                prop_assert_eq!(idle_limit_ns(&flow), 5_000_000_000, "both have closed");
                prop_assert_eq!(flow.remote_ack, flow.local_next, "nothing of the workload's is on its way");
                prop_assert_eq!(packet.sequence, flow.local_ack, "nothing of the far side's is");
            }
        }
    }

    /// A flow is garbage exactly from its limit or deadline on, and any segment that passes renews it.
    #[test]
    fn silence_ends_a_flow_at_its_limit(
        before in flow(), state in 0u8..8, fins in 0u8..4, silent in 0u64..6 * 86_400, lives: bool,
    ) {
        let deadline_ns = if lives { u64::MAX } else { NOW_NS };
        let flow = FlowValue { state, flags: fins << 4, seen_ns: NOW_NS, deadline_ns, ..before };
        let limit = idle_limit_ns(&flow);
        prop_assert!((2_000_000_000..=5 * 86_400_000_000_000).contains(&limit));
        let silent = silent * 1_000_000_000;
        prop_assert_eq!(is_garbage(&flow, NOW_NS + silent), !lives || silent >= limit);
        prop_assert_eq!(is_garbage(&flow, NOW_NS + limit - 1), !lives);
    }
}
