//! Twins: a claim about enforcement is shown twice, with it and without, and the results must be opposite.

/// Whether a scenario runs with enforcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// Enforcers run and enforce.
    Enforced,
    /// Enforcers run in observe mode: everything passes and is reported.
    Observed,
    /// No enforcer runs.
    Absent,
}

/// Makes a module with two tests of one scenario, a function from [`Enforcement`] to a comparable result:
/// `enforced` must give the first value and `twin`, with the enforcement named after it, the second; the two
/// values must differ.
///
/// ```ignore
/// twin!(a_stranger_hears_nothing, dial_as_stranger, enforced: Got::Silence, Absent: Got::Connection);
/// ```
#[macro_export]
macro_rules! twin {
    ($name:ident, $scenario:path, enforced: $on:expr, $without:ident: $off:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[test]
            fn enforced() {
                assert_eq!($scenario($crate::twin::Enforcement::Enforced), $on);
            }

            #[test]
            fn twin() {
                assert_ne!($on, $off, "twins must give opposite results");
                assert_eq!($scenario($crate::twin::Enforcement::$without), $off);
            }
        }
    };
}
