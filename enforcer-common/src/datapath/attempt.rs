//! How long a half-open connection lives.

use crate::abi::{AttemptValue, role};

/// Nothing comes of a call behind this: Linux gives up on an unanswered SYN after about two minutes
/// (`tcp_syn_retries` = 6).
pub const CALL_LASTS_NS: u64 = 130_000_000_000;

/// A reset on its way meets its hook long before this.
const REFUSAL_LASTS_NS: u64 = 10_000_000_000;

/// Whether nothing can come of the attempt any more, whose tuple has an unconfirmed flow or not. `now_ns` is
/// boot time.
///
/// A caller's proof is sent until the callee was seen to have it, which may be much later.
#[must_use]
pub fn is_over(attempt: &AttemptValue, has_unconfirmed_flow: bool, now_ns: u64) -> bool {
    let lasts_ns = if attempt.role == role::REFUSED { REFUSAL_LASTS_NS } else { CALL_LASTS_NS };
    let is_proof = attempt.role == role::CLIENT && attempt.answered != 0;
    now_ns.saturating_sub(attempt.created_ns) >= lasts_ns && !(is_proof && has_unconfirmed_flow)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN_NS: u64 = 5;

    fn attempt(role: u8, answered: u8) -> AttemptValue {
        AttemptValue { created_ns: BEGUN_NS, role, answered, ..AttemptValue::default() }
    }

    #[test]
    fn every_attempt_ends_at_its_time() {
        for role in [role::CLIENT, role::SERVER, role::PLAIN, role::BOTH, 99] {
            for answered in [0, 1] {
                let one = attempt(role, answered);
                assert!(!is_over(&one, false, BEGUN_NS + CALL_LASTS_NS - 1));
                assert!(is_over(&one, false, BEGUN_NS + CALL_LASTS_NS));
                assert!(!is_over(&one, false, 0), "clocks of two processors differ");
            }
        }
        let refused = attempt(role::REFUSED, 0);
        assert!(!is_over(&refused, false, BEGUN_NS + REFUSAL_LASTS_NS - 1));
        assert!(is_over(&refused, false, BEGUN_NS + REFUSAL_LASTS_NS));
    }

    #[test]
    fn a_proof_lives_as_long_as_its_flow_is_not_confirmed() {
        assert!(!is_over(&attempt(role::CLIENT, 1), true, u64::MAX));
        assert!(is_over(&attempt(role::CLIENT, 0), true, u64::MAX), "of the call before it");
        assert!(is_over(&attempt(role::SERVER, 1), true, u64::MAX));
    }
}
