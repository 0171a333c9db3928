//! Sleeping and waking: one protocol, used in both directions.
//!
//! ```text
//!  sleeper                                waker
//!  read every waker's bell                change what the sleeper waits for
//!  waiting: asleep, a new value           light fence
//!  heavy fence                            waiting asleep, and not the value woken last?
//!  look again; something? -> awake           bell += 1; wake who sleeps on it
//!  sleep while the bells are as read      waiting parked, and not the value woken last?
//!  waiting: awake                            ring the sleeper's doorbell
//! ```
//! One who parks does the same, but sleeps on its own doorbell instead of the bells: where and how is its owner's choice.
//!
//! ```text
//!  waiting   63                     2 1 0
//!           +------------------------+---+
//!           | number of the sleep    |how|   00 awake   01 asleep on futexes   11 parked on its doorbell
//!           +------------------------+---+
//! ```
//!
//! Promises: no wake-up is lost, and each sleep costs each waker at most one system call. A sleeper
//! that died asleep keeps its value: it costs one call, not one for every message. A doorbell is rung only while its
//! owner is parked.

/// Words that one sleep can watch.
pub const MAX_WORDS: usize = 128;

mod lock;
mod poke;
mod spin;

pub use lock::{Guard, Lock};
pub use poke::{Poke, Poked};
pub use spin::{Spin, SpinBudget};

use std::cell::Cell;

use crate::backend::{Backend, Native, Site, site};

/// The bits that say how.
const HOW: u64 = 0b11;
const ASLEEP: u64 = 0b01;
const PARKED: u64 = 0b11;
/// One sleep later. The number never comes round: a waker takes a number that it has seen for a sleep that
/// it has ended. Nobody sleeps on this word, so it need not be as short as a futex.
const NEXT: u64 = HOW + 1;

/// Asks the broker to ring the doorbells of the parked ones on the other side of the topic. For a waker that has not heard of one yet.
pub trait Relay: Send + Sync {
    /// Asks; does not wait, and does not say whether anybody heard.
    fn relay(&self);
}

/// The sleeper's own count of its sleeps, and how it sleeps.
#[derive(Debug, Default)]
pub struct Sleeper {
    state: Cell<u64>,
}

impl Sleeper {
    /// Says that this side is about to sleep on bells. After it, look again; then sleep or [`retract`](Self::retract).
    pub fn announce<B: Backend>(&self, waiting: &B::Word64, fence: Site) {
        self.begin::<B>(waiting, ASLEEP);
        B::heavy_fence(fence);
    }

    /// Says that this side is about to sleep on its doorbell. After it a heavy fence, which several may share; then look again; then
    /// sleep or [`retract`](Self::retract).
    pub fn park<B: Backend>(&self, waiting: &B::Word64) {
        self.begin::<B>(waiting, PARKED);
    }

    /// Says that this side is awake.
    pub fn retract<B: Backend>(&self, waiting: &B::Word64) {
        self.store::<B>(waiting, self.state.get() & !HOW);
    }

    fn begin<B: Backend>(&self, waiting: &B::Word64, how: u64) {
        let sleep = (self.state.get() & !HOW).wrapping_add(NEXT);
        self.store::<B>(waiting, sleep | how);
    }

    fn store<B: Backend>(&self, waiting: &B::Word64, state: u64) {
        self.state.set(state);
        // ORDERING: the heavy fence orders what needs an order; awake needs none.
        B::store64(waiting, state, site::RELAXED);
    }
}

/// How a sleeper is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// By the bell of this side.
    Bell,
    /// By its own doorbell.
    Notify,
}

/// A waker's memory of one sleeper: which of its sleeps was ended last.
#[derive(Debug, Default)]
pub struct Alarm {
    woken: Cell<u64>,
}

impl Alarm {
    /// Whether the sleeper needs waking, after a fence.
    #[inline(always)]
    pub fn due<B: Backend>(&self, waiting: &B::Word64) -> bool {
        // ORDERING: after the light fence, which pairs with the heavy one of the sleeper.
        let seen = B::load64(waiting, site::RELAXED);
        seen & 1 != 0 && seen != self.woken.get()
    }

    /// How the sleeper is to be woken, if it is [`due`](Self::due). Says so once for each sleep.
    #[cold]
    pub fn take<B: Backend>(&self, waiting: &B::Word64) -> Option<Call> {
        // ORDERING: as in `due`. What came since is another sleep, whose second look is yet to come, or the same.
        let seen = B::load64(waiting, site::RELAXED);
        let how = match seen & HOW {
            ASLEEP => Call::Bell,
            PARKED => Call::Notify,
            _ => return None,
        };
        (self.woken.replace(seen) != seen).then_some(how)
    }
}

/// Rings a bell of this side: wakes everyone asleep on it.
#[cold]
pub fn ring<B: Backend>(bell: &B::Word32) {
    if B::makes(site::BELL_MOVES) {
        // ORDERING: this side alone writes its bell. A sleeper that has not reached the kernel finds it moved.
        let value = B::load32(bell, site::RELAXED);
        B::store32(bell, value.wrapping_add(1), site::RELAXED);
    }
    if B::makes(site::BELL_WAKES) {
        B::wake(bell);
    }
}

/// The one fence of any number of subscribers of this process that have just [parked](Sleeper::park). Each of them looks again after it.
pub fn fence_parked() {
    Native::heavy_fence(site::SLEEP_READER_FENCE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_ended_that_comes_any_number_of_sleeps_after_the_one_ended_last() {
        let (sleeper, alarm) = (Sleeper::default(), Alarm::default());
        let waiting = 0.into();
        for sleeps in [1_u64, 1 << 30, 1 << 32, 1 << 61] {
            sleeper.park::<Native>(&waiting);
            assert!(alarm.due::<Native>(&waiting));
            assert_eq!(alarm.take::<Native>(&waiting), Some(Call::Notify));
            assert!(!alarm.due::<Native>(&waiting), "it was ended");
            sleeper.retract::<Native>(&waiting);
            // Others end all the sleeps between but the last one.
            let passed = sleeper.state.get().wrapping_add((sleeps - 1) * NEXT);
            sleeper.state.set(passed);
        }
    }
}
