//! The modelled `futex_waitv` and `FUTEX_WAKE`.
//!
//! Promises: a sleeper is queued only if every word still has its value, compared under the kernel's lock; it stays asleep
//! until one of its own words is woken. There are no time-outs and no spurious wake-ups: a wake-up that is lost is a
//! deadlock, which loom reports.
//!
//! The words are read as the kernel reads them: under the lock that a waker takes as well, with no more order than that.

use std::ptr;

use bus_core::backend::{Backend, site};
use loom::sync::{Mutex, MutexGuard};
use loom::thread::{self, Thread};

use crate::Loom;

type Word = <Loom as Backend>::Word32;

/// Who sleeps on which words.
pub struct Futex {
    queue: Mutex<Vec<Sleeper>>,
}

struct Sleeper {
    thread: Thread,
    words: Vec<*const Word>,
}

impl Futex {
    /// Nobody sleeps.
    pub fn new() -> Self {
        Self {
            queue: Mutex::new(Vec::new()),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Vec<Sleeper>> {
        self.queue.lock().expect("no model goes on after a panic")
    }

    /// Sleeps until one of the words is woken; not at all where one differs from its value.
    pub fn sleep(&self, words: &[(&Word, u32)]) {
        let mut queue = self.queue();
        // ORDERING: the lock's. A store that is missed here is followed by a wake-up that finds this sleeper queued.
        let same = |(word, value): &(&Word, u32)| Loom::load32(word, site::RELAXED) == *value;
        if !words.iter().all(same) {
            return;
        }
        queue.push(Sleeper {
            thread: thread::current(),
            words: words.iter().map(|(word, _)| ptr::from_ref(*word)).collect(),
        });
        drop(queue);
        // Nobody runs between the unlock and the park, and only `wake` ends a park.
        thread::park();
    }

    /// Moves everyone asleep on the word to one that nobody wakes, as another user does who maps
    /// it.
    pub fn steal(&self, word: &Word) {
        for sleeper in self.queue().iter_mut() {
            sleeper.words.retain(|slept| !ptr::eq(*slept, word));
        }
    }

    /// Wakes everyone asleep on the word.
    pub fn wake(&self, word: &Word) {
        self.queue().retain(|sleeper| {
            let woken = sleeper.words.iter().any(|slept| ptr::eq(*slept, word));
            if woken {
                sleeper.thread.unpark();
            }
            !woken
        });
    }
}

impl Default for Futex {
    fn default() -> Self {
        Self::new()
    }
}
