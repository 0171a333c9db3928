//! How long a subscriber has held its publisher up.
//!
//! Promises: only time counts in which the publisher looked and the subscriber could have moved. A publisher that was itself stopped, or a machine
//! that was, counts as one short gap between two looks and not as a subscriber's fault. It does not decide anything.

use std::time::{Duration, Instant};

/// A subscriber's stall, as one publisher sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stall {
    /// Its cursor and the time, at the last look in vain.
    looked: Option<(u64, Instant)>,
    /// Time without progress up to then.
    now: Duration,
}

impl Stall {
    /// The publisher is held up by the subscriber whose cursor is this; how long it has not moved on, where a gap between two
    /// looks counts for `gap` at most. Moving back is no progress.
    pub(super) fn look(&mut self, cursor: u64, gap: Duration) -> Duration {
        let time = Instant::now();
        let (best, at) = self.looked.unwrap_or((cursor, time));
        let on = (cursor.wrapping_sub(best) as i64) > 0;
        self.now = match on {
            true => Duration::ZERO,
            false => self.now + time.duration_since(at).min(gap),
        };
        self.looked = Some((if on { cursor } else { best }, time));
        self.now
    }

    /// The publisher is not held up by it any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
