//! The handshake between two enforcers, explored exhaustively with an attacker as the network
//! (docs/PROTOCOL.md, "Properties"). One test an arrangement; `weak` shows that each defence is needed.

// Identities and hosts are small numbers.
#![allow(clippy::cast_possible_truncation)]

mod attacker;
mod history;
mod scenario;
mod stack;
mod system;

use enforcer_tests::model::Weakening;
use stateright::{Checker, Model};

use crate::system::System;

fn explore(name: &str, system: System) {
    let checker = system.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, {} distinct, depth {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
}

#[test]
fn stranger() {
    explore("stranger", scenario::stranger(Weakening::None));
}
