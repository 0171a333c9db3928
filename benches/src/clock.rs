//! Time: a cheap tick counter for single round trips, and the system's clocks for
//! everything that two processes compare.
//!
//! On x86-64 a tick is one of the time-stamp counter, read once all earlier
//! loads are done; its length is measured against the monotonic clock. Elsewhere
//! a tick is a nanosecond of that clock. Ticks of one process are compared
//! only with each other.
#![allow(unsafe_code)]

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// How long the tick is measured: 20 ms bound the error to a few millionths.
const CALIBRATION_NS: u64 = 20_000_000;

/// Reads taken to learn what one read costs.
const COST_READS: u32 = 100_000;

/// The length of a tick, and the smallest step in which the counter moves.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tick {
    picoseconds: f64,
    step: u64,
}

impl Tick {
    /// Measures the tick against the monotonic clock. Takes 20 ms.
    ///
    /// # Errors
    /// The system has no monotonic clock.
    pub fn measure() -> Result<Self> {
        let (from_ns, from) = (monotonic_ns()?, now());
        let (to_ns, to) = loop {
            let pair = (monotonic_ns()?, now());
            if pair.0 - from_ns >= CALIBRATION_NS {
                break pair;
            }
        };
        let ticks = to.wrapping_sub(from).max(1);
        let picoseconds = (to_ns - from_ns) as f64 * 1000.0 / ticks as f64;
        Ok(Self::of(picoseconds, smallest_step()))
    }

    /// A tick of `picoseconds`, of a counter that moves by `step` ticks.
    #[must_use]
    pub fn of(picoseconds: f64, step: u64) -> Self {
        Self { picoseconds, step }
    }

    /// The smallest step that two looks at the counter were apart, in picoseconds. At
    /// least one tick, at most the time that a look takes.
    #[must_use]
    pub fn step_picoseconds(self) -> u64 {
        self.picoseconds(self.step)
    }

    /// `ticks` in picoseconds.
    #[must_use]
    pub fn picoseconds(self, ticks: u64) -> u64 {
        (ticks as f64 * self.picoseconds) as u64
    }

    /// `ns` nanoseconds in ticks.
    #[must_use]
    pub fn ticks(self, ns: u64) -> u64 {
        (ns as f64 * 1000.0 / self.picoseconds) as u64
    }

    /// What one call of [`now`] costs, in nanoseconds.
    #[must_use]
    pub fn cost_ns(self) -> f64 {
        let from = now();
        for _ in 0..COST_READS {
            std::hint::black_box(now());
        }
        let ticks = now().wrapping_sub(from);
        self.picoseconds(ticks) as f64 / 1000.0 / f64::from(COST_READS)
    }
}

fn smallest_step() -> u64 {
    let mut last = now();
    let mut smallest = u64::MAX;
    for _ in 0..COST_READS {
        let next = now();
        let step = next.wrapping_sub(last);
        if step > 0 {
            smallest = smallest.min(step);
        }
        last = next;
    }
    smallest
}

/// The tick counter.
#[cfg(target_arch = "x86_64")]
#[inline]
#[must_use]
pub fn now() -> u64 {
    let mut processor = 0;
    // SAFETY: the instruction only reads the counter and writes the processor's
    // number to the local above. Every x86-64 processor in use has it.
    unsafe { core::arch::x86_64::__rdtscp(&raw mut processor) }
}

/// The tick counter.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
#[must_use]
pub fn now() -> u64 {
    monotonic_ns().unwrap_or(0)
}

/// The monotonic clock, the same in all processes.
///
/// # Errors
/// The system has no such clock.
pub fn monotonic_ns() -> Result<u64> {
    read(ClockId::CLOCK_MONOTONIC)
}

/// The processor time that this process has used, all threads.
///
/// # Errors
/// The system has no such clock.
pub fn cpu_ns() -> Result<u64> {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: ClockId) -> Result<u64> {
    let time = clock_gettime(clock).with_context(|| format!("reading clock {clock} failed"))?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_follow_the_monotonic_clock() {
        let tick = Tick::measure().expect("a clock");
        let (from_ns, from) = (monotonic_ns().expect("a clock"), now());
        while monotonic_ns().expect("a clock") - from_ns < 5_000_000 {}
        let ps = tick.picoseconds(now() - from);
        assert!(
            (4_900_000_000..100_000_000_000).contains(&ps),
            "{ps} ps for 5 ms"
        );
        assert!(tick.cost_ns() > 0.0);
    }
}
