//! Round trips of a run and their percentiles.
//!
//! A processor's counter may move in steps of 10 ns, which would hide a difference
//! of a tenth between two round trips. But the phase of a trip against the steps
//! varies, so how many trips fall on each of two neighbouring steps says where
//! between them the median lies: it is interpolated. Higher percentiles are
//! given as they were counted.

use crate::clock::Tick;
use anyhow::Result;
use hdrhistogram::Histogram;

/// Counted round trips, in picoseconds.
#[derive(Clone, Debug)]
pub struct Trips {
    histogram: Histogram<u64>,
    step: u64,
}

impl Trips {
    /// No trips yet, to be timed by `tick`.
    ///
    /// # Errors
    /// None in practice: the histogram's bounds are fixed.
    pub fn new(tick: Tick) -> Result<Self> {
        Ok(Self {
            histogram: Histogram::new(3)?,
            step: tick.step_picoseconds(),
        })
    }

    /// Adds `count` trips of `picoseconds` each.
    ///
    /// # Errors
    /// None in practice: the histogram grows.
    pub fn add(&mut self, picoseconds: u64, count: u64) -> Result<()> {
        Ok(self.histogram.record_n(picoseconds.max(1), count)?)
    }

    /// Adds all of `other`.
    ///
    /// # Errors
    /// None in practice: the histogram grows.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        Ok(self.histogram.add(&other.histogram)?)
    }

    /// The trip that `quantile` of all do not exceed, in nanoseconds.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// The median in nanoseconds, interpolated within the clock's step; 0 if there are none.
    #[must_use]
    pub fn p50_ns(&self) -> f64 {
        let half = self.histogram.len() as f64 / 2.0;
        let mut below = 0.0;
        let mut previous: Option<f64> = None;
        let mut counted = self
            .histogram
            .iter_recorded()
            .map(|at| {
                (
                    self.histogram.median_equivalent(at.value_iterated_to()) as f64,
                    at.count_since_last_iteration() as f64,
                )
            })
            .peekable();
        while let Some((value, count)) = counted.next() {
            if below + count >= half {
                let reach = |other: Option<f64>| {
                    let most = self.step as f64 / 2.0;
                    other.map_or(most, |other| ((other - value).abs() / 2.0).min(most))
                };
                let low = value - reach(previous);
                let high = value + reach(counted.peek().map(|next| next.0));
                return (low + (high - low) * (half - below) / count) / 1000.0;
            }
            below += count;
            previous = Some(value);
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_the_steps_of_a_coarse_clock() {
        let tick = Tick::of(1.0, 10_000);
        for true_ns in [200.0, 202.0, 205.0, 208.0, 210.0] {
            let mut trips = Trips::new(tick).expect("bounds");
            let upper = ((true_ns - 200.0) * 1000.0) as u64;
            trips.add(200_000, 10_000 - upper).expect("in range");
            trips.add(210_000, upper).expect("in range");
            trips.add(5_000_000, 10).expect("in range");
            let got = trips.p50_ns();
            assert!((got - true_ns).abs() < 1.2, "{got} for {true_ns}");
        }
    }

    #[test]
    fn a_fine_clock_gives_the_plain_median() {
        let mut trips = Trips::new(Tick::of(1.0, 1)).expect("bounds");
        for ns in 1..=101 {
            trips.add(ns * 1000, 1).expect("in range");
        }
        assert!((trips.p50_ns() - 51.0).abs() < 0.1, "{}", trips.p50_ns());
    }
}
