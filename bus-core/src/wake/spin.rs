//! How long to look again before sleeping: bounded, and adapted to what waiting here has been like.
//!
//! A wait that ends within the budget is cheaper spun than slept. One that outlasts it was spun in vain. So the budget
//! halves with each wait that outlasted the full budget, down to a sixteenth, and is full again after one that
//! would have fitted.

use std::time::{Duration, Instant};

use crate::backend::Backend;

/// Turns between two looks at the clock.
const TURNS: u32 = 32;

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

    /// Begins a wait.
    pub fn start(&self) -> Spin {
        Spin {
            began: None,
            turns: 0,
            budget: self.now,
        }
    }

    /// Learns from a wait that is over.
    pub fn learn(&mut self, spin: &Spin) {
        let Some(began) = spin.began else {
            return;
        };
        self.now = if began.elapsed() <= self.full {
            self.full
        } else {
            (self.now / 2).max(self.full / 16)
        };
    }
}

/// One wait in progress.
#[derive(Debug)]
pub struct Spin {
    began: Option<Instant>,
    turns: u32,
    budget: Duration,
}

impl Spin {
    /// Spins one turn; false when the budget is used up.
    #[inline]
    pub fn turn<B: Backend>(&mut self) -> bool {
        self.turns = self.turns.wrapping_add(1);
        if self.turns % TURNS == 1 {
            let now = Instant::now();
            let began = *self.began.get_or_insert(now);
            if now.duration_since(began) >= self.budget {
                return false;
            }
        }
        B::spin();
        true
    }
}
