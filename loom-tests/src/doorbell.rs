//! The modelled doorbell: a count that its owner sleeps on, and the broker's list of them.
//!
//! Promises: whoever sleeps goes on when the count is not zero, and takes it off. There are no time-outs and no spurious wake-ups, as
//! for the futex.

use std::rc::Rc;

use loom::sync::{Mutex, MutexGuard};
use loom::thread::{self, Thread};

/// A doorbell.
pub struct Doorbell(Mutex<State>);

#[derive(Default)]
struct State {
    count: u64,
    sleeper: Option<Thread>,
}

impl Doorbell {
    /// One that nobody has rung.
    pub fn new() -> Rc<Self> {
        Rc::new(Self(Mutex::default()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no model goes on after a panic")
    }

    /// Rings it.
    pub fn ring(&self) {
        let mut state = self.state();
        state.count += 1;
        if let Some(sleeper) = state.sleeper.take() {
            sleeper.unpark();
        }
    }

    /// Sleeps until it has been rung.
    pub fn sleep(&self) {
        let mut state = self.state();
        if state.count == 0 {
            state.sleeper = Some(thread::current());
            drop(state);
            // Nobody runs between the unlock and the park, and only `ring` ends a park.
            thread::park();
            state = self.state();
        }
        state.count = 0;
    }
}

/// The doorbells of one side of a topic, as the broker knows them.
#[derive(Clone)]
pub struct Known(Rc<Mutex<Vec<Rc<Doorbell>>>>);

impl Known {
    /// None yet.
    pub fn new() -> Self {
        Self(Rc::new(Mutex::new(Vec::new())))
    }

    fn list(&self) -> MutexGuard<'_, Vec<Rc<Doorbell>>> {
        self.0.lock().expect("no model goes on after a panic")
    }

    /// The broker hears of one.
    pub fn add(&self, doorbell: Rc<Doorbell>) {
        self.list().push(doorbell);
    }

    /// Rings all of them.
    pub fn ring(&self) {
        self.list().iter().for_each(|doorbell| doorbell.ring());
    }
}

impl Default for Known {
    fn default() -> Self {
        Self::new()
    }
}
