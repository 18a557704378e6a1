//! The arrangements that are explored, each to the end.

use enforcer_model::{Tuple, Weakening};

use crate::cast::{
    CALLEE, CALLER, CALLER_END, HOSTS, MALLORY, MALLORYS, OTHER_SERVICE, SERVICE, identity,
};
use crate::system::System;

const OUT: Tuple = Tuple { local: CALLER_END, remote: SERVICE };
const IN: Tuple = Tuple { local: SERVICE, remote: CALLER_END };

fn hosts() -> Vec<u64> {
    HOSTS.map(identity).to_vec()
}

/// One host calls the other; the attacker's identity is genuine, and not allowed.
pub fn stranger(weakening: Weakening) -> System {
    System {
        weakening,
        allowed: hosts(),
        calls: [vec![OUT], vec![]],
        tuples: [vec![OUT], vec![IN]],
        calls_max: [1, 0],
        draws_max: 2,
        flips: 0,
        restarts: 0,
        evictions: 0,
        ticks: 0,
        warm: true,
        plain: false,
        renumbers: false,
        reverses: false,
        connects: true,
    }
}

/// The client calls twice, and the attacker has the first call's segments. Wide: also under other sequence numbers, and
/// after the attempt may be replaced.
pub fn replay(weakening: Weakening) -> System {
    let ticks = u8::from(is_wide());
    System { calls_max: [2, 0], ticks, renumbers: is_wide(), ..stranger(weakening) }
}

/// The attacker may speak and be called, from an address of its own, and passes on what others say.
pub fn relay(weakening: Weakening) -> System {
    let elsewhere = Tuple { local: CALLER_END, remote: MALLORYS };
    System {
        allowed: vec![identity(CALLER), identity(CALLEE), MALLORY],
        calls: [vec![elsewhere], vec![]],
        tuples: [vec![elsewhere], vec![IN]],
        draws_max: if is_wide() { 2 } else { 1 },
        connects: false,
        ..stranger(weakening)
    }
}

/// The server has another port, to which the attacker turns what is meant for the first.
pub fn ports(weakening: Weakening) -> System {
    let other = Tuple { local: OTHER_SERVICE, remote: CALLER_END };
    System {
        tuples: [vec![OUT], vec![IN, other]],
        draws_max: if is_wide() { 3 } else { 1 },
        ..stranger(weakening)
    }
}

/// Both call each other, on the same ports.
pub fn crossing(weakening: Weakening) -> System {
    System {
        calls: [vec![OUT], vec![IN]],
        calls_max: [1, 1],
        reverses: true,
        ..stranger(weakening)
    }
}

/// The policy of one host changes to a denial, at any moment. Wide: of both.
pub fn change(weakening: Weakening) -> System {
    let (flips, draws_max) = if is_wide() { (2, 2) } else { (1, 1) };
    System { draws_max, flips, ..stranger(weakening) }
}

/// Nobody knows anybody. Wide: and a daemon restarts, and an attempt is evicted.
pub fn cold(weakening: Weakening) -> System {
    let wide = u8::from(is_wide());
    System {
        warm: false,
        restarts: wide,
        evictions: wide,
        draws_max: 1 + wide,
        // Takes more events than the ordinary run has.
        connects: is_wide(),
        ..stranger(weakening)
    }
}

/// An attempt is evicted.
pub fn eviction(weakening: Weakening) -> System {
    System { evictions: 1, draws_max: if is_wide() { 3 } else { 1 }, ..stranger(weakening) }
}

/// A daemon restarts; the tables stay. Wide: the client calls twice.
pub fn restart(weakening: Weakening) -> System {
    let calls_max = [if is_wide() { 2 } else { 1 }, 0];
    System { restarts: 1, calls_max, ..stranger(weakening) }
}

/// Network rules allow both without identity.
pub fn plain(weakening: Weakening) -> System {
    System { plain: true, draws_max: if is_wide() { 2 } else { 1 }, ..stranger(weakening) }
}

/// Whether the long run was asked for.
pub fn is_wide() -> bool {
    std::env::var_os("ENFORCER_MODEL_WIDE").is_some()
}
