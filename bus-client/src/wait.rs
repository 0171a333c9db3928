//! A wait: spin, then sleep, until something is there or the time is over.
//!
//! A sleep is bounded by [`PATROL`]: that wakes nobody who has a message, it is when a waiting handle looks
//! whether the broker still lives, and asks the kernel for its peers if not.

use std::time::{Duration, Instant};

use bus_core::backend::Native;
use bus_core::wake::{Spin, SpinBudget};

/// Longest sleep without looking whether the broker lives.
pub(crate) const PATROL: Duration = Duration::from_millis(100);

/// When a time that is allowed is over; never, for one that no clock reaches.
pub(crate) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// One wait in progress.
pub(crate) struct Wait {
    spin: Spin,
    deadline: Option<Instant>,
}

/// What to do next.
pub(crate) enum Step {
    /// Look again.
    Again,
    /// Sleep, until then at the latest; then look again.
    Sleep(Instant),
    /// The time is over.
    Over,
}

impl Wait {
    pub(crate) fn new(budget: &SpinBudget, deadline: Option<Instant>) -> Self {
        Self {
            spin: budget.start(),
            deadline,
        }
    }

    #[inline(always)]
    pub(crate) fn step(&mut self) -> Step {
        if self.spin.turn::<Native>() {
            return Step::Again;
        }
        self.sleep()
    }

    #[cold]
    fn sleep(&self) -> Step {
        let now = Instant::now();
        let patrol = now + PATROL;
        match self.deadline {
            Some(deadline) if now >= deadline => Step::Over,
            Some(deadline) => Step::Sleep(deadline.min(patrol)),
            None => Step::Sleep(patrol),
        }
    }

    pub(crate) fn spin(&self) -> &Spin {
        &self.spin
    }
}
