//! How long to look again before sleeping: bounded, and adapted to what waiting here has been like.
//!
//! A wait that ends within the budget is cheaper spun than slept. One that outlasts it was spun in vain. So the budget
//! halves with each wait that outlasted the full budget, down to a sixteenth, and is full again after one that
//! would have fitted. A wait that is over at once never asks for the time.

use std::time::{Duration, Instant};

use crate::backend::Backend;

/// Turns between two looks at the clock.
const TURNS: u32 = 64;

/// A spin budget that learns.
#[derive(Clone, Debug)]
pub struct SpinBudget {
    full: Duration,
    now: Duration,
}

impl SpinBudget {
    /// Spins for `full` at most before a sleep; zero sleeps at once.
    pub fn new(full: Duration) -> Self {
        Self { full, now: full }
    }

    /// How long it spins at most.
    pub fn full(&self) -> Duration {
        self.full
    }

    /// Begins a wait.
    #[inline]
    pub fn start(&self) -> Spin {
        Spin {
            began: None,
            turns: 0,
            budget: self.now,
            outlasted: false,
        }
    }

    /// Learns from a wait that is over.
    #[inline]
    pub fn learn(&mut self, spin: &Spin) {
        if spin.outlasted {
            self.learn_from_sleep(spin);
        } else {
            self.now = self.full;
        }
    }

    #[cold]
    fn learn_from_sleep(&mut self, spin: &Spin) {
        let fitted = spin.began.is_some_and(|b| b.elapsed() <= self.full);
        self.now = if fitted {
            self.full
        } else {
            (self.now / 2).max(self.full / 16)
        };
    }
}

/// One wait in progress.
#[derive(Debug)]
pub struct Spin {
    /// When its first turns were over.
    began: Option<Instant>,
    turns: u32,
    budget: Duration,
    /// The budget was used up before the wait was over.
    outlasted: bool,
}

impl Spin {
    /// When it began, as far as that was asked for: not in the first turns.
    pub fn began(&self) -> Option<Instant> {
        self.began
    }

    /// Spins one turn; false when the budget is used up.
    #[inline(always)]
    pub fn turn<B: Backend>(&mut self) -> bool {
        self.turns = self.turns.wrapping_add(1);
        if (self.turns.is_multiple_of(TURNS) || self.budget.is_zero()) && self.over() {
            return false;
        }
        B::spin();
        true
    }

    #[cold]
    fn over(&mut self) -> bool {
        let now = Instant::now();
        let began = *self.began.get_or_insert(now);
        self.outlasted = self.budget.is_zero() || now.duration_since(began) >= self.budget;
        self.outlasted
    }
}
