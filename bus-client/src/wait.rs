//! A wait: spin, then sleep, until something is there or the time is over.
//!
//! A sleep is bounded by [`PATROL`]: that wakes nobody who has a message, it is when a waiting handle looks
//! whether the broker still lives, and asks the kernel for its peers if not. Who polls patrols as often, by [`Attempts`].

use std::cell::Cell;
use std::time::{Duration, Instant};

use bus_core::backend::Native;
use bus_core::wake::{Spin, SpinBudget};

/// Longest sleep without looking whether the broker lives.
pub(crate) const PATROL: Duration = Duration::from_millis(100);

/// When a time that is allowed is over; never, for one that no clock reaches.
pub(crate) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// Attempts that failed at once, for who polls and never sleeps: says now and then that it is time to patrol.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failed: Cell<u32>,
    patrolled: Cell<Option<Instant>>,
}

impl Attempts {
    /// Failures between two looks at the clock.
    const LOOK: u32 = 64;

    /// Counts one that failed; whether it is time to patrol.
    #[inline]
    pub(crate) fn failed(&self) -> bool {
        self.failed.set(self.failed.get().wrapping_add(1));
        self.failed.get().is_multiple_of(Self::LOOK) && self.due()
    }

    /// Whether it is time to patrol, by the clock.
    #[cold]
    pub(crate) fn due(&self) -> bool {
        let now = Instant::now();
        let due = self.patrolled.get().is_none_or(|at| now - at >= PATROL);
        if due {
            self.patrolled.set(Some(now));
        }
        due
    }
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
