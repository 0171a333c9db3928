//! Figures of one thing with and without something, taken in turn: without, with, without, with, ..., without.
//!
//! The machine changes from one minute to the next. So each figure with it is compared only with the mean of the two
//! without it around it, and a round in which these two differ too much counts only if all do.

use crate::brackets::STEADY;
use crate::report::median;

/// The figures of all rounds. There is one more without than with.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    /// Without it, before and after each round.
    pub without: Vec<f64>,
    /// With it.
    pub with: Vec<f64>,
}

impl Turns {
    /// The middle of the figures with it.
    #[must_use]
    pub fn with(&self) -> f64 {
        median(&self.with)
    }

    /// The middle of the figures without it.
    #[must_use]
    pub fn without(&self) -> f64 {
        median(&self.without)
    }

    /// With against without, of each round that counts.
    ///
    /// ```
    /// let turns = bus_bench::turns::Turns {
    ///     without: vec![10.0, 10.0, 30.0],
    ///     with: vec![15.0, 15.0],
    /// };
    /// assert_eq!(turns.ratios(), [1.5]);
    /// ```
    #[must_use]
    pub fn ratios(&self) -> Vec<f64> {
        let any_steady = self.steady().any(|steady| steady);
        self.with
            .iter()
            .zip(self.without.windows(2))
            .zip(self.steady())
            .filter(|(_, steady)| *steady || !any_steady)
            .map(|((with, around), _)| with * 2.0 / (around[0] + around[1]))
            .collect()
    }

    /// For each round: did what is without it stay the same around it?
    pub fn steady(&self) -> impl Iterator<Item = bool> {
        self.without
            .windows(2)
            .map(|around| around[0].max(around[1]) <= around[0].min(around[1]) * STEADY)
    }
}
