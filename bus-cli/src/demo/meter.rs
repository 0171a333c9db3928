//! Latency and rate, as the sink sees them.

use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Nanoseconds between two figures of the live line.
const INTERVAL: u64 = 500_000_000;
/// Longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// The monotonic clock, which all processes share, in nanoseconds.
#[inline]
pub fn now_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// What was measured over some time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub messages: u64,
    pub msgs_per_s: f64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
}

/// What the sink tells, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// Since it last told something.
    SoFar(Measured),
    /// From the end of the warm-up to the last message.
    All(Measured),
}

/// Counts messages and their latencies.
pub struct Meter {
    warm_up: u64,
    /// When counting begins: known with the first message.
    from: Option<u64>,
    told: u64,
    recent: Histogram<u64>,
    all: Histogram<u64>,
}

impl Meter {
    /// Counts what comes later than `warm_up` nanoseconds after the first message.
    pub fn new(warm_up: u64) -> anyhow::Result<Self> {
        let recent = Histogram::new_with_bounds(1, LONGEST, 3)?;
        Ok(Self {
            warm_up,
            from: None,
            told: 0,
            all: recent.clone(),
            recent,
        })
    }

    /// A message came that was due at `due`. Returns figures for the live line when it is time.
    #[inline]
    pub fn message(&mut self, due: u64, now: u64) -> anyhow::Result<Option<Told>> {
        let from = *self.from.get_or_insert_with(|| {
            self.told = now + self.warm_up;
            self.told
        });
        if now < from {
            return Ok(None);
        }
        self.recent
            .saturating_record(now.saturating_sub(due).max(1));
        if now - self.told < INTERVAL {
            return Ok(None);
        }
        let told = measured(&self.recent, now - self.told);
        self.all.add(&self.recent)?;
        self.recent.reset();
        self.told = now;
        Ok(Some(Told::SoFar(told)))
    }

    /// The figures of all messages, of which the last came at `last`.
    pub fn end(mut self, last: u64) -> anyhow::Result<Told> {
        self.all.add(&self.recent)?;
        let time = last.saturating_sub(self.from.unwrap_or(last));
        Ok(Told::All(measured(&self.all, time)))
    }
}

fn measured(histogram: &Histogram<u64>, time: u64) -> Measured {
    Measured {
        messages: histogram.len(),
        msgs_per_s: histogram.len() as f64 * 1e9 / time.max(1) as f64,
        p50_ns: histogram.value_at_quantile(0.5),
        p99_ns: histogram.value_at_quantile(0.99),
        p999_ns: histogram.value_at_quantile(0.999),
        max_ns: histogram.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_counts_for_nothing_and_all_of_the_rest_counts() {
        let mut meter = Meter::new(1000).unwrap();
        assert!(meter.message(0, 500).unwrap().is_none());
        for now in [1500, 2500, 3500] {
            assert!(meter.message(now - 100, now).unwrap().is_none());
        }
        let Told::All(all) = meter.end(3500).unwrap() else {
            panic!("not the end");
        };
        assert_eq!((all.messages, all.p50_ns, all.max_ns), (3, 100, 100));
        assert_eq!(all.msgs_per_s, 1.5e6);
    }

    #[test]
    fn an_interval_is_told_and_still_counts_in_the_end() {
        let mut meter = Meter::new(0).unwrap();
        assert!(meter.message(0, 1).unwrap().is_none());
        let now = INTERVAL + 1;
        assert!(matches!(
            meter.message(now - 7, now).unwrap(),
            Some(Told::SoFar(Measured { messages: 2, .. }))
        ));
        let Told::All(all) = meter.end(now).unwrap() else {
            panic!("not the end");
        };
        assert_eq!(all.messages, 2);
    }
}
