//! Sleeping and waking: one protocol, used in both directions.
//!
//! ```text
//!  sleeper                                waker
//!  read every waker's bell                change what the sleeper waits for
//!  waiting += 1  (odd)                    light fence
//!  heavy fence                            waiting odd, and not the value woken last?
//!  look again; something? -> awake           bell += 1; wake who sleeps on it
//!  sleep while the bells are as read
//!  waiting += 1  (even)
//! ```
//!
//! Promises: no wake-up is lost, and each sleep costs each waker at most one system call. A sleeper
//! that died asleep keeps its odd value: it costs one call, not one for every message.

/// Words that one sleep can watch.
pub const MAX_WORDS: usize = 128;

mod spin;

pub use spin::{Spin, SpinBudget};

use std::cell::Cell;

use crate::backend::{Backend, Site, site};

/// The sleeper's own count: odd while it sleeps.
#[derive(Debug, Default)]
pub struct Sleeper {
    count: Cell<u32>,
}

impl Sleeper {
    /// Says that this side is about to sleep. After it, look again; then sleep or [`retract`](Self::retract).
    pub fn announce<B: Backend>(&self, waiting: &B::Word32, fence: Site) {
        self.step::<B>(waiting);
        B::heavy_fence(fence);
    }

    /// Says that this side is awake.
    pub fn retract<B: Backend>(&self, waiting: &B::Word32) {
        self.step::<B>(waiting);
    }

    fn step<B: Backend>(&self, waiting: &B::Word32) {
        self.count.set(self.count.get().wrapping_add(1));
        // ORDERING: the fence in `announce` orders what needs an order; awake needs none.
        B::store32(waiting, self.count.get(), site::RELAXED);
    }
}

/// A waker's memory of one sleeper: which of its sleeps was ended last.
#[derive(Debug, Default)]
pub struct Alarm {
    woken: Cell<u32>,
}

impl Alarm {
    /// Whether the sleeper needs waking, after a fence. Says so once for each sleep.
    #[inline(always)]
    pub fn due<B: Backend>(&self, waiting: &B::Word32) -> bool {
        // ORDERING: after the light fence, which pairs with the heavy one of the sleeper.
        let seen = B::load32(waiting, site::RELAXED);
        if seen & 1 == 0 || seen == self.woken.get() {
            return false;
        }
        self.woken.set(seen);
        true
    }
}

/// Rings a bell of this side: wakes everyone asleep on it.
#[cold]
pub fn ring<B: Backend>(bell: &B::Word32) {
    // ORDERING: this side alone writes its bell. A sleeper that has not reached the kernel finds it moved.
    let value = B::load32(bell, site::RELAXED);
    B::store32(bell, value.wrapping_add(1), site::RELAXED);
    B::wake(bell);
}
