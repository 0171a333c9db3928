//! The clock that all processes share.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine started. It stands still in nobody's sleep but the machine's, and never goes back.
#[must_use]
pub fn now() -> u64 {
    // The kernel refuses it on no machine that runs this; a clock that stands still accuses nobody.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
    })
}
