//! Counters: why packets were dropped, and what else happened. Numbers are never reused.

use super::pod;

/// Key of the counter map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CounterKey {
    /// Workload id; 0 where none is known.
    pub workload: u16,
    /// Number of a [`DropReason`] or an [`Event`].
    pub counter: u16,
}

/// Blocks of counters on each CPU, a power of two: a workload's is that of the low bits of its id.
pub const COUNTER_BLOCKS: u32 = 256;

/// Numbers of a [`CounterBlock`].
pub const BLOCK_COUNTS: usize = 96;

/// What programs count on one CPU for one workload, which is found without a hash. Workloads that share a block
/// are told apart by its owner, who counted first on this CPU and has it for good; the others are counted in the
/// counter map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterBlock {
    /// Workload id. 0 is nobody, but in the first block, which is for packets of no known workload.
    pub owner: u32,
    /// Zero.
    pub zero: u32,
    /// The numbers, each in its [`CounterBlock::place`].
    pub counts: [u64; BLOCK_COUNTS],
}

impl CounterBlock {
    /// Places of drop reasons; those of events are behind them.
    const REASONS: usize = 64;
    /// The first number of an event.
    const FIRST_EVENT: usize = 256;

    /// Where the number of a [`DropReason`] or an [`Event`] is counted; beyond the block if it has no place.
    #[must_use]
    #[inline(always)]
    pub const fn place(counter: u16) -> usize {
        let counter = counter as usize;
        if counter < Self::REASONS {
            counter
        } else if counter >= Self::FIRST_EVENT {
            counter - Self::FIRST_EVENT + Self::REASONS
        } else {
            BLOCK_COUNTS
        }
    }

    /// The number that is counted in a place.
    #[must_use]
    pub const fn number(place: u16) -> u16 {
        const { assert!(Self::REASONS == 64 && Self::FIRST_EVENT == 256) };
        if place < 64 { place } else { place - 64 + 256 }
    }

    /// Whether block `number` is anybody's.
    #[must_use]
    pub const fn is_owned(&self, number: u32) -> bool {
        self.owner != 0 || number == 0
    }
}

pod!(CounterKey = 4, CounterBlock = 8 + 8 * BLOCK_COUNTS);

/// Bit of [`CounterKey::counter`]: what programs of an earlier layout had counted. Only the daemon writes
/// it, since it could not add to what programs write without losing counts.
pub const COUNTED_BEFORE: u16 = 0x8000;

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal, $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum $name { $($(#[$doc])* $variant = $number,)+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name that commands and metrics print.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The one with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

numbered! {
    /// Why a packet was dropped.
    DropReason {
        /// The frame ends inside a header.
        Truncated = 1, "truncated";
        /// Neither IPv4, IPv6 nor ARP.
        NotIp = 2, "not_ip";
        /// A header field contradicts another.
        MalformedHeader = 3, "malformed_header";
        /// TCP options that do not parse, or ours twice.
        MalformedOption = 4, "malformed_option";
        /// An IP fragment.
        Fragment = 5, "fragment";
        /// An IPv6 extension header that is not handled.
        ExtensionHeader = 6, "extension_header";
        /// IPv4 source routing.
        SourceRoute = 7, "source_route";
        /// Source link or network address is not the workload's.
        SpoofedSource = 8, "spoofed_source";
        /// A segment that leaves a workload carries our option already.
        ForgedOption = 9, "forged_option";
        /// The interface has no workload.
        NoWorkload = 10, "no_workload";
        /// The workload has no credential, or it expired.
        NoCredential = 11, "no_credential";
        /// The SYN leaves no room for the option.
        NoOptionRoom = 12, "no_option_room";
        /// A SYN or SYN-ACK with data that cannot be cut.
        DataInHandshake = 13, "data_in_handshake";
        /// No identity, and no network rule allows the peer.
        PeerWithoutIdentity = 14, "peer_without_identity";
        /// No network rule allows it.
        NetworkDenied = 15, "network_denied";
        /// The policy denies the peer.
        PolicyDenied = 16, "policy_denied";
        /// A MAC does not verify.
        BadMac = 17, "bad_mac";
        /// The peer's own address is not the one that was dialled.
        Relayed = 18, "relayed";
        /// S1 or S2 without its whole credential.
        CredentialLength = 19, "credential_length";
        /// A SYN-ACK that answers no SYN.
        NoAttempt = 20, "no_attempt";
        /// Another attempt of the same tuple is under way.
        AttemptConflict = 21, "attempt_conflict";
        /// A segment before the proof.
        AwaitingProof = 22, "awaiting_proof";
        /// A segment of a connection that is not known.
        NoFlow = 23, "no_flow";
        /// The flow table is full.
        FlowTableFull = 24, "flow_table_full";
        /// The attempt table refused an entry.
        AttemptTableFull = 25, "attempt_table_full";
        /// Handed to the daemon, which re-injects it.
        Held = 26, "held";
        /// Too many segments of unknown peers.
        ColdRateLimited = 27, "cold_rate_limited";
        /// The event ring is full: the daemon is away or overwhelmed.
        RingFull = 28, "ring_full";
        /// SYN-ACKs beyond seven retransmissions.
        SynAckLimit = 29, "syn_ack_limit";
        /// S2 would be more than twice as long as its S1.
        Amplification = 30, "amplification";
        /// A credential of the flow expired.
        Expired = 31, "expired";
        /// A policy change cut the flow.
        FlowCut = 32, "flow_cut";
        /// A RST outside the window.
        SpoofedReset = 33, "spoofed_reset";
        /// A multipath join without a proven flow.
        MultipathJoin = 34, "multipath_join";
        /// The kernel refused to resize or write the packet.
        Rewrite = 35, "rewrite_failed";
        /// A map that must exist has no value.
        Internal = 36, "internal";
        /// An ICMP error that quotes no live flow.
        IcmpUnrelated = 37, "icmp_unrelated";
        /// A proof that carries data, or stands on something else than a pure ACK.
        ProofWithData = 38, "proof_with_data";
        /// The connection is older than the attachment and is not adopted.
        NotAdopted = 39, "not_adopted";
        /// Replaced by a reset to the workload.
        Refused = 40, "refused";
        /// The option has a version or length that is not spoken here.
        WrongVersion = 41, "wrong_version";
        /// The frame is longer than a handshake segment can be.
        Oversized = 42, "oversized";
        /// The policy changed, and nobody has judged the flow under the new one yet.
        Unjudged = 43, "unjudged";
        /// Too many half-open connections of the source, or refusals of the workload's own calls.
        AttemptRateLimited = 44, "attempt_rate_limited";
        /// The workload has its share of the flow table for flows without connections.
        DatagramShare = 45, "datagram_share_full";
        /// The workload has its share of the flow table for connections of this kind.
        FlowShare = 46, "flow_share_full";
    }
}

numbered! {
    /// What happened, other than a drop.
    Event {
        /// S1 stamped.
        S1Sent = 256, "s1_sent";
        /// S1 of a known peer accepted in the kernel.
        S1Accepted = 257, "s1_accepted";
        /// S2 stamped.
        S2Sent = 258, "s2_sent";
        /// S2 of a known peer accepted in the kernel.
        S2Accepted = 259, "s2_accepted";
        /// Proof stamped on an ACK of the workload's stack.
        ProofSent = 260, "proof_sent";
        /// Proof emitted on its own, ahead of data.
        ProofCloned = 261, "proof_cloned";
        /// Proof verified, flow opened.
        ProofAccepted = 262, "proof_accepted";
        /// The server was seen to have accepted.
        Confirmed = 263, "confirmed";
        /// Flow opened by a network rule.
        PlainOpened = 264, "plain_opened";
        /// Segment handed to the daemon.
        ColdSegments = 265, "cold_segments";
        /// Denied by policy, passed in observe mode.
        WouldDeny = 266, "would_deny";
        /// Connection adopted that was open before.
        Adopted = 267, "adopted";
        /// Reset sent to the workload.
        ResetLocal = 268, "reset_local";
        /// Reset sent to the far side.
        ResetRemote = 269, "reset_remote";
        /// Flow asked again under a new epoch.
        Rejudged = 270, "rejudged";
        /// Denied segment reported for the log.
        Sampled = 271, "sampled";
        /// A RST passed that would have ended its flow, had its checksum been found right: it was wrong, or the
        /// segment too long to look.
        ResetUnverified = 272, "reset_unverified";
        /// Connection reported: its rule wants it logged (`@log`), or it has no identity and its workload is only
        /// observed.
        Reported = 273, "reported";
        /// Connection that should have been, and was not: the ring is full, or too many were.
        Unreported = 274, "unreported";
        /// Answer of a name server handed to the daemon, which re-injects it.
        AnswerHeld = 275, "answer_held";
        /// Answer of a name server that passed unread, and so opened nothing: the daemon is away or overwhelmed, or the
        /// answer too long.
        AnswerUnread = 276, "answer_unread";
        /// Short S2 stamped, without prefix and credential: the proof is still awaited behind three whole ones.
        S2Short = 277, "s2_short";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own_in_a_block() {
        let reasons = DropReason::ALL.iter().map(|reason| *reason as u16);
        let events = Event::ALL.iter().map(|event| *event as u16);
        for counter in reasons.chain(events) {
            let place = CounterBlock::place(counter);
            assert!(place < BLOCK_COUNTS, "{counter}: {place}");
            assert_eq!(CounterBlock::number(u16::try_from(place).unwrap()), counter);
        }
        for counter in [64, 255, 288, u16::MAX] {
            assert!(CounterBlock::place(counter) >= BLOCK_COUNTS, "{counter}");
        }
    }

    #[test]
    fn numbers_read_back_and_names_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_number(*reason as u16), Some(*reason));
            assert!(names.insert(reason.name()));
        }
        for event in Event::ALL {
            assert_eq!(Event::from_number(*event as u16), Some(*event));
            assert!(names.insert(event.name()));
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
