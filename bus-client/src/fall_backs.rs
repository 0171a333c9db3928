//! What a handle asked of its memory and did not get, said to the log: once for each wish, however many segments it concerns.

use std::cell::Cell;

use crate::PlacementReport;

/// The wishes of a handle that were warned of.
#[derive(Debug, Default)]
pub(crate) struct FallBacks(Cell<u8>);

impl FallBacks {
    /// Warns of what fell back since the last call.
    pub(crate) fn warn(&self, topic: &str, report: &PlacementReport) {
        for (bit, (wish, outcome)) in report.outcomes().into_iter().enumerate() {
            let seen = self.0.get();
            if let Some(why) = outcome.fell_back()
                && seen & 1 << bit == 0
            {
                self.0.set(seen | 1 << bit);
                tracing::warn!(topic, wish, why, "memory is not placed as asked");
            }
        }
    }
}
