//! Who takes part: hosts, ends, identities, and the keys that pairs of them share.

use enforcer_common::abi::{Handle, mapped};
use enforcer_model::{End, Weakening};

/// The caller, the callee.
pub const HOSTS: [usize; 2] = [CALLER, CALLEE];
pub const CALLER: usize = 0;
pub const CALLEE: usize = 1;

/// The attacker's identity, besides those of the hosts, which are their number + 1.
pub const MALLORY: u64 = 3;

pub const CALLER_END: End = end(1, 40001);
pub const SERVICE: End = end(2, 8080);
/// Another service of the same workload.
pub const OTHER_SERVICE: End = end(2, 9090);
pub const MALLORYS: End = end(3, 8080);

const fn end(last: u8, port: u16) -> End {
    End { address: mapped([192, 0, 2, last]), port }
}

pub const fn handle(identity: u64) -> Handle {
    [0xc0 | identity as u8, 0, 0, 0, 0, 0, 0, identity as u8]
}

/// The host whose identity a handle names, if it is not the attacker's.
pub fn owner(handle_of: Handle) -> Option<usize> {
    HOSTS.into_iter().find(|host| handle(identity(*host)) == handle_of)
}

pub fn identity(host: usize) -> u64 {
    host as u64 + 1
}

/// The pair key: a term that only the two know, one for each direction.
pub fn pair_key(weakening: Weakening, initiator: u64, responder: u64) -> [u32; 8] {
    if weakening == Weakening::OneKey {
        return [9; 8];
    }
    [initiator as u32, responder as u32, 1, 1, 1, 1, 1, 1]
}
