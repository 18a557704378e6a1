//! What the wire does to segments at the moment, and whether the caller's link is up.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::{Fate, Rule, Wire};

/// How late a late segment is.
const LATE: Duration = Duration::from_millis(25);
/// Behind the end of an outage, calls may still fail for it: neighbours are asked for anew.
const AFTERMATH_MS: u64 = 2000;
/// Stands for an outage that has not ended.
const NOW: u64 = u64::MAX;

/// Shared with the wire's threads and the traffic's.
#[derive(Debug)]
pub struct Weather {
    begin: Instant,
    /// Of a thousand segments.
    lost: AtomicU32,
    repeated: AtomicU32,
    late: AtomicU32,
    /// Milliseconds since `begin` at which the link was last down; 0 if it never was.
    last_down: AtomicU64,
}

/// What may happen to segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// They are lost.
    Lost,
    /// They arrive twice.
    Repeated,
    /// They arrive late, behind others.
    Late,
}

impl Weather {
    /// Fair, on a wire whose dice begin at `seed`.
    pub fn over(wire: &Wire, seed: u64) -> Arc<Self> {
        let weather = Arc::new(Self {
            begin: Instant::now(),
            lost: AtomicU32::new(0),
            repeated: AtomicU32::new(0),
            late: AtomicU32::new(0),
            last_down: AtomicU64::new(0),
        });
        let troubles = [
            (Trouble::Lost, Fate::Lose),
            (Trouble::Repeated, Fate::Repeat),
            (Trouble::Late, Fate::Late(LATE)),
        ];
        for (number, (trouble, fate)) in (0..).zip(troubles) {
            let weather = Arc::clone(&weather);
            let dice = Mutex::new(fastrand::Rng::with_seed(seed.wrapping_add(number)));
            wire.rule(Rule::every(fate, move |_| {
                let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
                dice.u32(..1000) < weather.of(trouble).load(Ordering::Relaxed)
            }));
        }
        weather
    }

    /// Sets how many segments of a thousand have this trouble.
    pub fn set(&self, trouble: Trouble, permille: u32) {
        self.of(trouble).store(permille, Ordering::Relaxed);
    }

    /// Notes that the link goes down.
    pub fn link_down(&self) {
        self.last_down.store(NOW, Ordering::Release);
    }

    /// Notes that the link is up again.
    pub fn link_up(&self) {
        self.last_down.store(self.now(), Ordering::Release);
    }

    /// Milliseconds on this weather's clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(NOW - 1)
    }

    /// Whether what began then may have failed because the link was down.
    pub fn excuses(&self, begun: u64) -> bool {
        match self.last_down.load(Ordering::Acquire) {
            0 => false,
            NOW => true,
            down => down.saturating_add(AFTERMATH_MS) >= begun,
        }
    }

    fn of(&self, trouble: Trouble) -> &AtomicU32 {
        match trouble {
            Trouble::Lost => &self.lost,
            Trouble::Repeated => &self.repeated,
            Trouble::Late => &self.late,
        }
    }
}
