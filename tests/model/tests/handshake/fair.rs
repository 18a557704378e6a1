//! A network that loses what it likes of the first segments, and then carries: an allowed connection is established by
//! the stacks' own retransmissions, whatever was lost.

use enforcer_model::{Outcome, Segment, Weakening};
use stateright::Model;

use crate::cast::{CALLEE, CALLER};
use crate::scenario::{cold, stranger};
use crate::stack::Stage;
use crate::system::{Action, State, System};

/// Transmissions that may be lost: every choice among them is tried.
const FATES: u32 = 10;
/// Rounds of retransmission: a loss costs one, and the handshake takes three.
const ROUNDS: u32 = FATES + 3;

#[test]
fn whatever_is_lost_at_first_the_connection_is_established() {
    for make in [stranger, cold] {
        let system = make(Weakening::None);
        for lost in 0..1u32 << FATES {
            let state = system.init_states().remove(0);
            let mut run = Run { system: &system, state, lost, sent: 0 };
            run.step(Action::Call(CALLER, system.calls[CALLER][0]));
            for _ in 0..ROUNDS {
                run.round();
            }
            assert!(run.state.is_established(), "lost: {lost:#012b}: {:?}", run.state);
        }
    }
}

struct Run<'a> {
    system: &'a System,
    state: State,
    /// A bit for each of the first transmissions.
    lost: u32,
    sent: u32,
}

impl Run<'_> {
    fn step(&mut self, action: Action) {
        self.state =
            self.system.next_state(&self.state, action).expect("a step that does something");
    }

    /// Each stack sends, once, what its connection is at; an established client has data, too.
    fn round(&mut self) {
        for host in [CALLER, CALLEE] {
            for (tuple, tcp) in self.state.stacks[host].clone() {
                self.send(host, tcp.segment(tuple));
                if tcp.stage == Stage::Established {
                    self.send(host, tcp.data(tuple));
                }
            }
        }
    }

    fn send(&mut self, host: usize, segment: Segment) {
        System::prepare(&mut self.state, host);
        let outcome = self.state.nodes[host].from_workload(segment);
        self.carry(1 - host, &outcome);
    }

    fn carry(&mut self, to: usize, outcome: &Outcome) {
        let segments = match outcome {
            Outcome::Passes(segment) => vec![*segment],
            Outcome::Led(proof, segment) => vec![*proof, *segment],
            Outcome::Dropped(_) | Outcome::Refused(_) | Outcome::BothReset(_) => vec![],
        };
        for segment in segments {
            self.sent += 1;
            if self.sent > FATES || self.lost & 1 << (self.sent - 1) == 0 {
                self.system.deliver(&mut self.state, to, segment);
                if self.state.held[to].is_some() {
                    self.step(Action::Release(to));
                }
            }
        }
    }
}
