//! How much may be tried, and what chance decides.

use std::time::{Duration, Instant};

/// The bounds of a run.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    start: Instant,
    time: Option<Duration>,
    seed: u64,
}

impl Budget {
    /// A run that begins now: as long as `time`, or until everything is tried; without a seed, one by chance.
    #[must_use]
    pub fn new(time: Option<Duration>, seed: Option<u64>) -> Self {
        Self {
            start: Instant::now(),
            time,
            // Short enough to be typed again.
            seed: seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
        }
    }

    /// What decides all choices.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A source of choices for the part of the run that has this number: the same for the same seed, whatever other parts do.
    #[must_use]
    pub fn random(&self, part: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Since the run began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// How long it may take in all; none for as long as it needs.
    #[must_use]
    pub fn time(&self) -> Option<Duration> {
        self.time
    }

    /// Whether the time is over.
    #[must_use]
    pub fn over(&self) -> bool {
        self.time.is_some_and(|time| self.elapsed() >= time)
    }

    /// A part of the budget that begins now, for one of several things that share the time: `share` of what is left.
    #[must_use]
    pub fn part(&self, share: f64) -> Self {
        let left = self.time.map(|time| time.saturating_sub(self.elapsed()));
        Self {
            start: Instant::now(),
            time: left.map(|left| left.mul_f64(share.clamp(0.0, 1.0))),
            seed: self.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let choices = |seed, part| Budget::new(None, Some(seed)).random(part).u64(..);
        assert_eq!(choices(7, 1), choices(7, 1));
        assert_ne!(choices(7, 1), choices(7, 2));
        assert_ne!(choices(7, 1), choices(8, 1));
    }

    #[test]
    fn a_part_ends_with_the_whole() {
        let whole = Budget::new(Some(Duration::ZERO), None);
        assert!(whole.over() && whole.part(0.5).over());
        assert!(!Budget::new(None, None).part(0.5).over());
    }
}
