//! A wait: spin, then sleep, until something is there or the time is over.
//!
//! A sleep has no limit but the caller's: the session ends it when the broker goes, and every [`PATROL`] while there is none, so that
//! the handle asks the kernel for its peers. Who polls patrols as often, by [`Attempts`].

use std::cell::Cell;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bus_core::backend::Native;
use bus_core::backend::doorbell::Doorbell;
use bus_core::wake::{Spin, SpinBudget};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Between two looks for peers that are gone, while there is no broker that would tell of them.
const PATROL: Duration = Duration::from_millis(100);

/// When a time that is allowed is over; never, for one that no clock reaches.
pub(crate) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// How long a sleep lasts at most that not everything ends which it is for.
const UNWATCHED: Duration = Duration::from_millis(10);

/// When such a sleep is over that has this deadline.
pub(crate) fn soon(deadline: Option<Instant>) -> Instant {
    let soon = Instant::now() + UNWATCHED;
    deadline.map_or(soon, |deadline| deadline.min(soon))
}

/// Waits until the doorbell was rung, the deadline, or a signal.
pub(crate) fn wait_readable(own: &Doorbell, deadline: Option<Instant>) {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let mut inside = [PollFd::new(own.as_fd(), PollFlags::POLLIN)];
    // A signal, or an error of the kernel, means the same: look again.
    let _ = ppoll(&mut inside, left.map(TimeSpec::from_duration), None);
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
    /// Sleep, until then at the latest if there is a limit; then look again.
    Sleep(Option<Instant>),
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
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Step::Over,
            deadline => Step::Sleep(deadline),
        }
    }

    pub(crate) fn spin(&self) -> &Spin {
        &self.spin
    }
}
