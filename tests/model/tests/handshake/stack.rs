//! A host's TCP stack and application, as far as a handshake goes.

use enforcer_common::wire::frame::tcp_flags::{ACK, RST, SYN};
use enforcer_model::{Segment, Tuple};

const PSH: u8 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    SynSent,
    SynReceived,
    Established,
}

/// A connection of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tcp {
    pub stage: Stage,
    pub local_isn: u32,
    pub remote_isn: u32,
}

impl Tcp {
    pub fn calling(local_isn: u32) -> Self {
        Self { stage: Stage::SynSent, local_isn, remote_isn: 0 }
    }

    pub fn called(local_isn: u32, remote_isn: u32) -> Self {
        Self { stage: Stage::SynReceived, local_isn, remote_isn }
    }

    /// What the stack sends, and sends again while it gets no answer.
    pub fn segment(&self, tuple: Tuple) -> Segment {
        let ends = [tuple.local, tuple.remote];
        let ack = self.remote_isn.wrapping_add(1);
        match self.stage {
            Stage::SynSent => Segment::new(ends, SYN, self.local_isn, 0),
            Stage::SynReceived => Segment::new(ends, SYN | ACK, self.local_isn, ack),
            Stage::Established => Segment::new(ends, ACK, self.local_isn.wrapping_add(1), ack),
        }
    }

    /// The application's first octet.
    pub fn data(&self, tuple: Tuple) -> Segment {
        let segment = self.segment(tuple);
        Segment { flags: ACK | PSH, data: 1, ..segment }
    }

    /// Takes a segment of this connection; `false`: the connection is gone.
    pub fn receive(&mut self, segment: &Segment) -> bool {
        let acknowledges = segment.acknowledgement == self.local_isn.wrapping_add(1);
        let synchronises = segment.has(SYN);
        if segment.has(RST) {
            return !(acknowledges || segment.sequence == self.remote_isn.wrapping_add(1));
        }
        match self.stage {
            Stage::SynSent if synchronises && segment.has(ACK) && acknowledges => {
                self.remote_isn = segment.sequence;
                self.stage = Stage::Established;
            }
            // Simultaneous open (RFC 9293 3.5); or a caller that starts anew.
            Stage::SynSent | Stage::SynReceived if synchronises && !segment.has(ACK) => {
                self.remote_isn = segment.sequence;
                self.stage = Stage::SynReceived;
            }
            Stage::SynReceived if acknowledges => {
                // Of a SYN-ACK that crossed ours, too.
                let next = segment.sequence.wrapping_add(u32::from(synchronises));
                if next == self.remote_isn.wrapping_add(1) {
                    self.stage = Stage::Established;
                }
            }
            _ => {}
        }
        true
    }
}
