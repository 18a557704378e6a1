//! How much verifying the event loop does itself: so little that no stream of strangers, whatever they
//! send, keeps it from moving packets.

use crate::engine::SECOND_NS;

/// Jobs that may run one after the other: a workload that calls its first few peers.
const BURST: u64 = 16;
/// One more may run after so long, in nanoseconds. A job takes 0.1 to 0.3 ms: at most a twentieth of the
/// loop's time.
const REFILL_NS: u64 = SECOND_NS / 200;

/// A bucket of jobs, as the time up to which they are paid for.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// Boot time, nanoseconds; what lies ahead of now is what was used, `REFILL_NS` for each job.
    paid_ns: u64,
}

impl Allowance {
    /// Takes one job at a boot time in nanoseconds; `false` if there is none left.
    pub(super) fn take(&mut self, boot_ns: u64) -> bool {
        let paid_ns = self.paid_ns.max(boot_ns) + REFILL_NS;
        let granted = paid_ns - boot_ns <= BURST * REFILL_NS;
        if granted {
            self.paid_ns = paid_ns;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_granted_and_then_one_after_each_pause() {
        let mut allowance = Allowance::default();
        let start = 7 * SECOND_NS;
        let granted = (0..2 * BURST).filter(|_| allowance.take(start)).count() as u64;
        assert_eq!(granted, BURST);
        assert!(!allowance.take(start + REFILL_NS - 1));
        assert!(allowance.take(start + REFILL_NS));
        assert!(!allowance.take(start + REFILL_NS));
        let later = start + SECOND_NS;
        let granted = (0..2 * BURST).filter(|_| allowance.take(later)).count() as u64;
        assert_eq!(granted, BURST, "a pause saves no more than one burst");
    }

    #[test]
    fn of_a_second_of_asking_only_a_share_is_granted() {
        let mut allowance = Allowance::default();
        let asked = (0..10_000).map(|n| SECOND_NS + n * (SECOND_NS / 10_000));
        let granted = asked.filter(|at| allowance.take(*at)).count() as u64;
        assert!((200..=200 + BURST).contains(&granted), "{granted}");
    }
}
