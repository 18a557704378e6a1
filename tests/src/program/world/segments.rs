//! The segments of the connection, as the stacks send them and as they must leave, and the steps of its handshake.

use enforcer_common::abi::{Address, Mac};

use super::{
    DATA, KEY_AS_INITIATOR, KEY_AS_RESPONDER, LOCAL_ISN, PEER_NONCE, REMOTE_ISN, Side, World,
};
use crate::program::kernel::{Action, Hook, Seen};
use crate::program::mac::Covered;
use crate::program::segment::{ACK, LATER_OPTIONS, PSH, RST, SYN, SYN_OPTIONS, Segment};

impl World {
    /// Runs a program.
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Seen {
        self.kernel.run(hook, frame)
    }

    /// Runs a program on a frame that must pass.
    pub fn pass(&mut self, hook: Hook, frame: &[u8]) -> Vec<u8> {
        let seen = self.run(hook, frame);
        assert_eq!(seen.action, Action::Pass, "{hook:?} of a step before: {:?}", seen.counters);
        seen.frame
    }

    /// The SYN of the workload's stack.
    #[must_use]
    pub fn syn_out(&self) -> Segment {
        Segment::new(self.local, self.remote, SYN, LOCAL_ISN, 0).options(&SYN_OPTIONS)
    }

    /// A SYN of the workload's stack to outside the mesh networks.
    #[must_use]
    pub fn syn_to_outside(&self) -> Segment {
        Segment { to: self.outside, ..self.syn_out() }
    }

    /// The SYN of the peer's stack.
    #[must_use]
    pub fn syn_in(&self) -> Segment {
        Segment::new(self.remote, self.local, SYN, REMOTE_ISN, 0).options(&SYN_OPTIONS)
    }

    /// The SYN-ACK of the workload's stack.
    #[must_use]
    pub fn syn_ack_out(&self) -> Segment {
        let (sequence, acknowledgement) = (LOCAL_ISN, REMOTE_ISN + 1);
        Segment::new(self.local, self.remote, SYN | ACK, sequence, acknowledgement)
            .options(&SYN_OPTIONS)
    }

    /// The SYN-ACK of the peer's stack.
    #[must_use]
    pub fn syn_ack_in(&self) -> Segment {
        let (sequence, acknowledgement) = (REMOTE_ISN, LOCAL_ISN.wrapping_add(1));
        Segment::new(self.remote, self.local, SYN | ACK, sequence, acknowledgement)
            .options(&SYN_OPTIONS)
    }

    /// A pure ACK of the workload behind the SYNs.
    #[must_use]
    pub fn ack_out(&self) -> Segment {
        let (sequence, acknowledgement) = (LOCAL_ISN.wrapping_add(1), REMOTE_ISN + 1);
        Segment::new(self.local, self.remote, ACK, sequence, acknowledgement)
            .options(&LATER_OPTIONS)
    }

    /// A pure ACK of the peer behind the SYNs.
    #[must_use]
    pub fn ack_in(&self) -> Segment {
        let (sequence, acknowledgement) = (REMOTE_ISN + 1, LOCAL_ISN.wrapping_add(1));
        Segment::new(self.remote, self.local, ACK, sequence, acknowledgement)
            .options(&LATER_OPTIONS)
    }

    /// The workload's first data.
    #[must_use]
    pub fn data_out(&self) -> Segment {
        self.ack_out().flags(ACK | PSH).payload(DATA)
    }

    /// The peer's first data.
    #[must_use]
    pub fn data_in(&self) -> Segment {
        self.ack_in().flags(ACK | PSH).payload(DATA)
    }

    /// What the client's stack gets instead of a SYN-ACK that it must not have.
    #[must_use]
    pub fn reset_of_syn_ack(&self) -> Vec<u8> {
        let (sequence, acknowledgement) = (REMOTE_ISN, LOCAL_ISN.wrapping_add(1));
        Segment::new(self.remote, self.local, RST | ACK, sequence, acknowledgement).frame()
    }

    /// S1 of the peer.
    #[must_use]
    pub fn s1_in(&self) -> Segment {
        self.syn_in().hello(self.theirs.handle, PEER_NONCE).payload(&self.theirs.bytes)
    }

    /// What the MACs of the connection cover, with the workload's nonce as the attempt holds it.
    #[must_use]
    pub fn covered(&self) -> Covered {
        let local_nonce = self.attempt().expect("an attempt").local_nonce;
        let (own, theirs) = (self.own.handle, self.theirs.handle);
        let (handles, nonces, end) = match self.side {
            Side::Client => ([own, theirs], [local_nonce, PEER_NONCE], self.remote),
            Side::Server => ([theirs, own], [PEER_NONCE, local_nonce], self.local),
        };
        Covered { handles, nonces, address: end.mapped(), port: end.port }
    }

    /// `mac_A` of the connection.
    #[must_use]
    pub fn proof(&self) -> Mac {
        match self.side {
            Side::Client => self.covered().proof(&KEY_AS_INITIATOR),
            Side::Server => self.covered().proof(&KEY_AS_RESPONDER),
        }
    }

    /// The payload of an S2 of the peer that tells this address and port, with the MAC over them.
    #[must_use]
    pub fn answer_payload(&self, address: Address, port: u16) -> Vec<u8> {
        let mac = Covered { address, port, ..self.covered() }.answer(&KEY_AS_INITIATOR);
        [&mac[..], &address, &port.to_be_bytes(), &self.theirs.bytes].concat()
    }

    /// S2 of the peer; S1 must have left.
    #[must_use]
    pub fn s2_in(&self) -> Segment {
        let payload = self.answer_payload(self.remote.mapped(), self.remote.port);
        self.syn_ack_in().hello(self.theirs.handle, PEER_NONCE).payload(&payload)
    }

    /// S1 of the workload as it must leave, with the nonce of the attempt.
    #[must_use]
    pub fn s1_out(&self) -> Segment {
        let nonce = self.attempt().expect("an attempt").local_nonce;
        self.syn_out().hello(self.own.handle, nonce).payload(&self.own.bytes)
    }

    /// S2 of the workload as it must leave, with the nonce of the attempt.
    #[must_use]
    pub fn s2_out(&self) -> Segment {
        let (address, port) = (self.local.mapped(), self.local.port);
        let mac = self.covered().answer(&KEY_AS_RESPONDER);
        let nonce = self.attempt().expect("an attempt").local_nonce;
        let payload = [&mac[..], &address, &port.to_be_bytes(), &self.own.bytes].concat();
        self.syn_ack_out().hello(self.own.handle, nonce).payload(&payload)
    }

    /// S3 of the peer; S2 must have left.
    #[must_use]
    pub fn s3_in(&self) -> Segment {
        self.ack_in().proof(self.proof())
    }

    /// Client: S1 has left.
    pub fn after_s1_out(&mut self) {
        let frame = self.syn_out().frame();
        self.pass(Hook::From, &frame);
    }

    /// Client: S2 was accepted; the flow is not confirmed.
    pub fn after_s2_in(&mut self) {
        self.after_s1_out();
        let frame = self.s2_in().frame();
        self.pass(Hook::To, &frame);
    }

    /// Server: S1 was accepted.
    pub fn after_s1_in(&mut self) {
        let frame = self.s1_in().frame();
        self.pass(Hook::To, &frame);
    }

    /// Server: S2 has left.
    pub fn after_s2_out(&mut self) {
        self.after_s1_in();
        let frame = self.syn_ack_out().frame();
        self.pass(Hook::From, &frame);
    }

    /// The handshake is over and both directions pass, whatever the workload is.
    pub fn established(&mut self) {
        match self.side {
            Side::Server => {
                self.after_s2_out();
                let frame = self.s3_in().frame();
                self.pass(Hook::To, &frame);
            }
            Side::Client => {
                self.after_s2_in();
                let (proof, answer) = (self.ack_out().frame(), self.ack_in().frame());
                self.pass(Hook::From, &proof);
                self.pass(Hook::To, &answer);
            }
        }
    }
}
