//! The arrangements that are explored, each to the end.

use enforcer_tests::model::{Tuple, Weakening};

use crate::system::{
    CALLEE, CALLER, CALLER_END, HOSTS, MALLORY, MALLORYS, OTHER_SERVICE, SERVICE, System, identity,
};

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
        connects: true,
    }
}

/// The client calls twice, the attacker has the first call's segments.
pub fn replay(weakening: Weakening) -> System {
    System { calls_max: [2, 0], ticks: 1, ..stranger(weakening) }
}

/// The attacker may speak and be called, from an address of its own, and passes on what others say; the server has
/// another port.
pub fn relay(weakening: Weakening) -> System {
    let elsewhere = Tuple { local: CALLER_END, remote: MALLORYS };
    let other = Tuple { local: OTHER_SERVICE, remote: CALLER_END };
    System {
        allowed: vec![identity(CALLER), identity(CALLEE), MALLORY],
        calls: [vec![OUT, elsewhere], vec![]],
        tuples: [vec![OUT, elsewhere], vec![IN, other]],
        ..stranger(weakening)
    }
}

/// Both call each other, on the same ports.
pub fn crossing(weakening: Weakening) -> System {
    System { calls: [vec![OUT], vec![IN]], calls_max: [1, 1], ..stranger(weakening) }
}

/// The policy of one host changes to a denial, at any moment.
pub fn change(weakening: Weakening) -> System {
    System { flips: 1, ..stranger(weakening) }
}

/// Nobody knows anybody; daemons restart, attempts are evicted.
pub fn cold(weakening: Weakening) -> System {
    System { warm: false, restarts: 1, evictions: 1, ..stranger(weakening) }
}

/// The daemon restarts between two calls.
pub fn restart(weakening: Weakening) -> System {
    System { restarts: 1, ..replay(weakening) }
}

/// Network rules allow both without identity.
pub fn plain(weakening: Weakening) -> System {
    System { plain: true, ..stranger(weakening) }
}
