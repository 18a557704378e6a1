//! The handshake between two enforcers, explored exhaustively with an attacker as the network
//! (docs/PROTOCOL.md, "Properties"). One test an arrangement; `weak` shows that each defence is needed.

// Identities and hosts are small numbers.
#![allow(clippy::cast_possible_truncation)]

mod attacker;
mod cast;
mod fair;
mod history;
mod scenario;
mod stack;
mod system;
mod weak;
mod witness;

use enforcer_model::Weakening;
use stateright::{Checker, Model};

use crate::system::System;

/// Explores an arrangement to its end; every property must hold.
fn explore(name: &str, make: fn(Weakening) -> System) {
    let checker = make(Weakening::None).checker().threads(2);
    let checker = match depth(name) {
        Some(depth) if !scenario::is_wide() => checker.target_max_depth(depth).spawn_bfs().join(),
        _ => checker.spawn_bfs().join(),
    };
    println!(
        "{name}: {} segments and events, {} states, depth {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
}

/// Where the ordinary run stops, if not at the end: all orders of so many events.
fn depth(name: &str) -> Option<usize> {
    match name {
        "crossing" => Some(10),
        "cold" => Some(8),
        _ => None,
    }
}

macro_rules! arrangements {
    ($($name:ident)+) => {$(
        #[test]
        fn $name() {
            explore(stringify!($name), scenario::$name);
        }
    )+};
}

arrangements! { stranger replay relay ports crossing change cold eviction restart plain }
