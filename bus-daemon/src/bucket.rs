//! What may be done so often a second: a bucket that fills with time.

use std::cell::Cell;
use std::time::Duration;

/// How often something may still be done. As often as in a second, it may be done at once.
///
/// What is done may cost more than is left, so that nothing costs too much for ever: then the next waits longer.
#[derive(Debug)]
pub(crate) struct Bucket(Cell<Left>);

/// So much was left then.
#[derive(Clone, Copy, Debug)]
struct Left {
    amount: f64,
    since: Duration,
}

impl Bucket {
    pub(crate) fn full(rate: u64, now: Duration) -> Self {
        let amount = rate as f64;
        let since = now;
        Self(Cell::new(Left { amount, since }))
    }

    fn amount(&self, rate: u64, now: Duration) -> f64 {
        let Left { amount, since } = self.0.get();
        let passed = now.saturating_sub(since).as_secs_f64();
        (amount + passed * rate as f64).min(rate as f64)
    }

    pub(crate) fn is_full(&self, rate: u64, now: Duration) -> bool {
        self.amount(rate, now) >= rate as f64
    }

    /// How long until something is left.
    pub(crate) fn wait(&self, rate: u64, now: Duration) -> Duration {
        let lacks = (1.0 - self.amount(rate, now)).max(0.0);
        Duration::from_secs_f64(lacks / rate.max(1) as f64)
    }

    /// Takes so much out, if anything is left; else how long until there is.
    pub(crate) fn take(&self, rate: u64, now: Duration, cost: usize) -> Result<(), Duration> {
        let wait = self.wait(rate, now);
        if wait > Duration::ZERO {
            return Err(wait);
        }
        self.spend(rate, now, cost);
        Ok(())
    }

    /// Takes so much out, whatever is left.
    pub(crate) fn spend(&self, rate: u64, now: Duration, cost: usize) {
        let amount = self.amount(rate, now) - cost as f64;
        self.0.set(Left { amount, since: now });
    }
}
