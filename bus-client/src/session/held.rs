//! What is behind the session's lock, and who is woken when it is unlocked.
//!
//! Promise: a thread is woken after the lock is free. One that is woken earlier finds the lock taken, and sleeps again.

use std::ops::{Deref, DerefMut};

use bus_core::fork::Unshared;
use bus_core::wake::{Guard, Lock, Poke};
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use super::state::State;

/// What wakes threads of this process.
pub(super) struct Pokes {
    /// Handles were told something, or the connection is another one: for those that wait for an answer.
    pub(super) moved: Poke,
    /// There is no broker, or one again: for those that wait for messages, room or peers.
    pub(super) news: Poke,
    /// Wakes the session's thread.
    pub(super) bell: Unshared<EventFd>,
}

/// Those that are to be woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) moved: bool,
    pub(super) news: bool,
    pub(super) thread: bool,
}

impl Due {
    /// All handles are to look around.
    pub(super) fn all_handles(&mut self) {
        (self.moved, self.news) = (true, true);
    }
}

impl Pokes {
    pub(super) fn new(bell: Unshared<EventFd>) -> Self {
        Self {
            moved: Poke::default(),
            news: Poke::default(),
            bell,
        }
    }

    pub(super) fn ring(&self) {
        // It can only fail if the count is at its limit, and then the thread is being told already.
        while self.bell.write(1) == Err(Errno::EINTR) {}
    }

    pub(super) fn drain(&self) {
        // Nothing there is no error.
        let _ = self.bell.read();
    }

    fn wake(&self, due: Due) {
        if due.news {
            self.news.poke();
        }
        if due.moved {
            self.moved.poke();
        }
        if due.thread {
            self.ring();
        }
    }
}

/// The state, locked.
pub(super) struct Held<'a> {
    /// None while it is dropped.
    guard: Option<Guard<'a, State>>,
    pokes: &'a Pokes,
}

impl<'a> Held<'a> {
    /// Waits for the lock.
    pub(super) fn new(lock: &'a Lock<State>, pokes: &'a Pokes) -> Self {
        let guard = Some(lock.lock());
        Self { guard, pokes }
    }
}

impl Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        match &self.guard {
            Some(guard) => guard,
            None => unreachable!("it is locked until it is dropped"),
        }
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        match &mut self.guard {
            Some(guard) => guard,
            None => unreachable!("it is locked until it is dropped"),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let due = std::mem::take(&mut self.due);
        drop(self.guard.take());
        self.pokes.wake(due);
    }
}
