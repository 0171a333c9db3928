//! Timers: which is next, and the one clock of the kernel that ends a sleep for it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use super::Token;
use super::poller::Poller;
use crate::Result;

/// The timers of a selector.
#[derive(Default)]
pub(super) struct Timers {
    /// By time; also some that were removed, which are passed over.
    heap: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    /// Those that are there, and their periods.
    there: HashMap<Token, Option<Duration>>,
    /// What the kernel's clock is set to.
    set: Option<Instant>,
}

impl Timers {
    pub(super) fn add(&mut self, token: Token, first: Instant, period: Option<Duration>) {
        self.there.insert(token, period);
        self.push(token, first);
    }

    pub(super) fn remove(&mut self, token: Token) {
        self.there.remove(&token);
    }

    /// Whether it is to come again.
    pub(super) fn has(&self, token: Token) -> bool {
        self.there.contains_key(&token)
    }

    fn push(&mut self, token: Token, time: Instant) {
        self.heap
            .push(Reverse((time, token.index, token.generation)));
    }

    /// The next that is due; one with a period is set for its next time.
    pub(super) fn due(&mut self, now: Instant) -> Option<Token> {
        while let Some(&Reverse((time, index, generation))) = self.heap.peek() {
            if time > now {
                return None;
            }
            self.heap.pop();
            let token = Token { index, generation };
            match self.there.get(&token) {
                // It was removed.
                None => continue,
                Some(None) => {
                    self.there.remove(&token);
                }
                Some(Some(period)) => {
                    let next = time + *period;
                    // What was missed is not made up for.
                    let next = if next > now { next } else { now + *period };
                    self.push(token, next);
                }
            }
            return Some(token);
        }
        None
    }

    /// Sets the kernel's clock to the next timer, if that has changed.
    pub(super) fn set(&mut self, poller: &Poller, now: Instant) -> Result<()> {
        let next = self.heap.peek().map(|Reverse((time, ..))| *time);
        if next != self.set {
            if let Some(next) = next {
                poller.set_timer(next.saturating_duration_since(now))?;
            }
            self.set = next;
        }
        Ok(())
    }
}
