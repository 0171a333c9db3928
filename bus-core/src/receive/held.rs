//! Messages that outlive their subscriber's borrow, its thread, and itself.
//!
//! A held message, or the copy that it is, is given back at a desk that both sides share. While the subscriber lives, it fetches what was given back at its
//! next call; a sleep ends for it. When the subscriber is dropped first, it leaves its rings at the desk, and
//! whoever gives back releases there; the last one ends the membership.

use std::collections::HashMap;
use std::fmt::Write;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::Instant;

use super::copies::OwnCopy;
use super::receiver::Receiver;
use super::subscriber::release;
use crate::backend::doorbell::Doorbell;
use crate::backend::{Backend, Native};
use crate::fork::Birth;
use crate::memory::segment::Mapping;

/// Messages that are named where too many are held.
const NAMED: usize = 4;

/// Where held messages are given back.
pub(super) struct Desk {
    state: Mutex<State>,
    /// Moves when something was given back; in this process's own memory.
    bell: <Native as Backend>::Word32,
    /// The process whose desk it is.
    birth: Birth,
    /// Ends the membership when the desk closes.
    _membership: Arc<dyn Send + Sync>,
}

/// A message that is held: who holds it, as far as that is known, and since when.
struct Out {
    thread: Thread,
    since: Instant,
}

/// A message that was given back.
pub(super) struct Returned {
    pub(super) publisher: u64,
    pub(super) sequence: u64,
    /// What it was, if it was a copy: then nothing is to be released.
    pub(super) copy: Option<OwnCopy>,
}

#[derive(Default)]
struct State {
    /// What is held, by publisher and sequence.
    out: HashMap<(u64, u64), Out>,
    /// Given back and not yet fetched.
    returned: Vec<Returned>,
    /// The rings, once the subscriber is gone.
    left: Option<Receiver<Native>>,
    /// What to ring when something is given back, while the subscriber is parked there.
    parked: Option<Arc<Doorbell>>,
}

impl Desk {
    pub(super) fn new(membership: Arc<dyn Send + Sync>) -> Self {
        Self {
            state: Mutex::default(),
            bell: 0.into(),
            birth: Birth::here(),
            _membership: membership,
        }
    }

    /// None in a fork of the process whose desk it is: a thread that is not there may have the lock.
    fn state(&self) -> Option<MutexGuard<'_, State>> {
        // Nothing that runs under the lock can leave it half done.
        let lock = || self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.birth.is_here().then(lock)
    }

    /// Gives what was given back since the last call for an empty list, whose room it keeps.
    pub(super) fn fetch(&self, list: &mut Vec<Returned>) {
        if let Some(mut state) = self.state() {
            std::mem::swap(&mut state.returned, list);
        }
    }

    /// The bell and what it shows: read it before fetching, sleep on it after.
    pub(super) fn bell(&self) -> (&<Native as Backend>::Word32, u32) {
        // ORDERING: pairs with the move in `give_back`, which comes after what it stands for.
        (&self.bell, self.bell.load(SeqCst))
    }

    /// The subscriber is about to sleep there. Fetch after this, and sleep then.
    pub(super) fn park(&self, own: &Arc<Doorbell>) {
        if let Some(mut state) = self.state() {
            state.parked = Some(own.clone());
        }
    }

    /// The subscriber is awake.
    pub(super) fn unpark(&self) {
        if let Some(mut state) = self.state() {
            state.parked = None;
        }
    }

    /// The subscriber is gone and leaves its rings here.
    pub(super) fn leave(&self, receiver: Receiver<Native>) {
        let Some(mut state) = self.state() else {
            // A fork ends nothing of its parent's.
            return std::mem::forget(receiver);
        };
        for returned in std::mem::take(&mut state.returned) {
            release(&receiver, &returned);
        }
        state.left = Some(receiver);
    }

    fn take_out(&self, publisher: u64, sequence: u64) {
        let out = Out {
            thread: thread::current(),
            since: Instant::now(),
        };
        if let Some(mut state) = self.state() {
            state.out.insert((publisher, sequence), out);
        }
    }

    /// Who holds messages of this publisher, and since when; the oldest few.
    pub(super) fn holders(&self, publisher: u64) -> String {
        let Some(state) = self.state() else {
            return "this process is a fork of the subscriber's".into();
        };
        let of_it = state.out.iter().filter(|((from, _), _)| *from == publisher);
        let mut held: Vec<_> = of_it.map(|((_, sequence), out)| (sequence, out)).collect();
        if held.is_empty() {
            return "none was given to hold(), so the subscriber's own thread has them".into();
        }
        held.sort_by_key(|(_, out)| out.since);
        let mut who = String::new();
        for (sequence, out) in held.iter().take(NAMED) {
            let thread = out.thread.name().unwrap_or("without a name");
            let since = out.since.elapsed().as_secs_f64();
            // Writing to a string does not fail.
            let _ = write!(
                who,
                "message {sequence} since {since:.3} s by thread {thread}, "
            );
        }
        match held.len().checked_sub(NAMED) {
            Some(more) if more > 0 => who + &format!("and {more} more"),
            _ => who.trim_end_matches(", ").into(),
        }
    }

    fn give_back(&self, returned: Returned) {
        let Some(mut state) = self.state() else {
            return;
        };
        state.out.remove(&(returned.publisher, returned.sequence));
        if let Some(receiver) = &state.left {
            release(receiver, &returned);
            return;
        }
        state.returned.push(returned);
        // Once for each sleep.
        let parked = state.parked.take();
        drop(state);
        if let Some(own) = parked {
            own.ring();
        }
        // ORDERING: pairs with the load in `bell`.
        self.bell.fetch_add(1, SeqCst);
        Native::wake(&self.bell);
    }
}

/// Where a held message lies, and where it is given back.
pub(super) enum Home {
    /// In its ring, which it keeps mapped.
    Ring {
        desk: Arc<Desk>,
        _mapping: Arc<Mapping>,
    },
    /// In a copy of its own. The subscriber has use for that while it lives.
    Copy(Weak<Desk>),
}

/// A message that is independent of its subscriber's life and thread. Dropping it gives the slot back, or the memory of its copy.
pub struct Held {
    home: Home,
    publisher: u64,
    sequence: u64,
    lost: u64,
    payload: NonNull<[u8]>,
}

// SAFETY: the payload is read-only here, and the mapping that it lies in is kept, or it is its own; the desk is locked.
unsafe impl Send for Held {}
// SAFETY: as for `Send`; sharing gives out shared bytes only.
unsafe impl Sync for Held {}

impl Held {
    pub(super) fn new(
        desk: &Desk,
        home: Home,
        publisher: u64,
        sequence: u64,
        lost: u64,
        payload: NonNull<[u8]>,
    ) -> Self {
        desk.take_out(publisher, sequence);
        Self {
            lost,
            home,
            publisher,
            sequence,
            payload,
        }
    }

    /// The payload.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the span is within the mapping that is kept here, and the publisher does not write there until
        // this is given back; or it is a copy of its own.
        unsafe { self.payload.as_ref() }
    }

    /// Its sequence number in its publisher's ring.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its publisher, as the broker numbers them.
    pub fn publisher(&self) -> u64 {
        self.publisher
    }

    /// How many messages of its publisher were lost right before it; 0 but on a lossy topic.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut returned = Returned {
            publisher: self.publisher,
            sequence: self.sequence,
            copy: None,
        };
        match &self.home {
            Home::Ring { desk, .. } => desk.give_back(returned),
            Home::Copy(desk) => {
                // SAFETY: the payload is that of a copy that was left to this message.
                returned.copy = Some(unsafe { OwnCopy::from_payload(self.payload.cast()) });
                if let Some(desk) = desk.upgrade() {
                    desk.give_back(returned);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds after which a child that waits for a lock is killed.
    const WATCHDOG: u32 = 20;

    /// Forks while a thread, this one, has the desk's lock: in the child, nobody ever unlocks it.
    #[test]
    fn a_fork_of_a_subscriber_never_waits_for_a_thread_that_it_does_not_have() {
        let desk = Desk::new(Arc::new(()));
        let lock = desk.state();
        // SAFETY: the child touches the desk and what that allocates, and then leaves.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: the call takes an integer only.
                unsafe { libc::alarm(WATCHDOG) };
                desk.take_out(1, 2);
                desk.fetch(&mut Vec::new());
                let holders = desk.holders(1);
                desk.unpark();
                // SAFETY: as above; nothing of the parent is dropped here.
                unsafe { libc::_exit(i32::from(holders.is_empty())) };
            }
            child => {
                let mut status = 0;
                // SAFETY: the status is this thread's own.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert_eq!(status, 0, "the child ended by itself, and in time");
            }
        }
        drop(lock);
        desk.take_out(1, 2);
        assert!(desk.holders(1).contains("message 2"));
    }
}
