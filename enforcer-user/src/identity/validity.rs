//! When a credential or certificate counts, in unix seconds.

use std::fmt;

use super::cbor::EncodingError::{self, Malformed};
use super::payload::Payload;

/// How far a peer's clock may run ahead, in seconds. It is allowed on the start only: nothing outlives its end.
pub const CLOCK_SKEW_SECONDS: u64 = 30;

/// From `not_before` on, up to but without `not_after` (RFC 8392 3.1.4 and 3.1.5), both unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Validity {
    /// First second at which it counts.
    pub not_before: u64,
    /// First second at which it no longer counts.
    pub not_after: u64,
}

/// Which end of a validity `now` lies beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untimely {
    /// `now` is at or after the end.
    Expired,
    /// `now` is before the start, by more than [`CLOCK_SKEW_SECONDS`].
    NotYet,
}

impl Validity {
    /// Length in seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.not_after.saturating_sub(self.not_before)
    }

    /// Whether this lies inside `outer` at both ends.
    #[must_use]
    pub fn within(&self, outer: &Self) -> bool {
        outer.not_before <= self.not_before && self.not_after <= outer.not_after
    }

    /// Judges `now` with the allowance for clocks that run ahead.
    pub fn check(&self, now: u64) -> Result<(), Untimely> {
        if now >= self.not_after {
            Err(Untimely::Expired)
        } else if now.saturating_add(CLOCK_SKEW_SECONDS) < self.not_before {
            Err(Untimely::NotYet)
        } else {
            Ok(())
        }
    }

    pub(super) fn from_payload(payload: &Payload) -> Result<Self, EncodingError> {
        match (payload.not_before, payload.expires) {
            (Some(not_before), Some(not_after)) if not_before < not_after => {
                Ok(Self { not_before, not_after })
            }
            (Some(_), Some(_)) => Err(Malformed("exp does not come after nbf")),
            _ => Err(Malformed("nbf or exp is missing")),
        }
    }

    pub(super) fn fill(self, payload: Payload) -> Payload {
        Payload { not_before: Some(self.not_before), expires: Some(self.not_after), ..payload }
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} (unix seconds)", self.not_before, self.not_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALIDITY: Validity = Validity { not_before: 1000, not_after: 2000 };

    #[test]
    fn the_end_is_sharp_and_the_start_allows_for_clock_skew() {
        assert_eq!(VALIDITY.check(969), Err(Untimely::NotYet));
        assert_eq!(VALIDITY.check(970), Ok(()));
        assert_eq!(VALIDITY.check(1999), Ok(()));
        assert_eq!(VALIDITY.check(2000), Err(Untimely::Expired));
        assert_eq!(VALIDITY.check(u64::MAX), Err(Untimely::Expired));
    }

    #[test]
    fn within_means_at_both_ends() {
        let inner = |not_before, not_after| Validity { not_before, not_after }.within(&VALIDITY);
        assert!(inner(1000, 2000) && inner(1001, 1999));
        assert!(!inner(999, 2000) && !inner(1000, 2001));
    }
}
