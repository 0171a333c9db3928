//! A word of one process that ends sleeps of its own threads.
//!
//! ```text
//!  sleeper                                poker
//!  seen = poke.seen()                     change what the sleeper looks at
//!  look: nothing                          poke.poke()
//!  sleep until poked since `seen`
//! ```
//!
//! Promises: a poke after [`Poke::seen`] ends the sleep, also where it comes before the sleep has begun. The
//! word lies in memory of this process alone, so no other process can wake or rob its sleepers.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::backend::{Backend, Native};

type Word = <Native as Backend>::Word32;

/// The word.
#[derive(Debug, Default)]
pub struct Poke(Word);

/// The word, and what a sleeper saw there before its last look.
#[derive(Clone, Copy, Debug)]
pub struct Poked<'a> {
    poke: &'a Poke,
    seen: u32,
}

impl Poke {
    /// What is there now: to be taken before the look that precedes a sleep.
    pub fn seen(&self) -> Poked<'_> {
        // ORDERING: acquire pairs with the release of `poke`: what was changed before that poke is seen.
        let seen = self.0.load(Ordering::Acquire);
        Poked { poke: self, seen }
    }

    /// Ends every sleep that began with an older look.
    pub fn poke(&self) {
        // ORDERING: release pairs with the acquire in `seen`. Pokers of several threads do not lose a count.
        self.0.fetch_add(1, Ordering::Release);
        Native::wake(&self.0);
    }
}

impl<'a> Poked<'a> {
    /// The word and its value, as a sleep takes them.
    pub(crate) fn word(self) -> (&'a Word, u32) {
        (&self.poke.0, self.seen)
    }

    /// Whether the word was poked since.
    pub fn is_over(self) -> bool {
        self.poke.seen().seen != self.seen
    }

    /// Sleeps until a poke or the deadline, or for ever without one. May return early.
    pub fn sleep(self, deadline: Option<Instant>) {
        Native::sleep(&[self.word()], deadline);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_poke_between_the_look_and_the_sleep_is_not_lost() {
        let poke = Poke::default();
        let seen = poke.seen();
        assert!(!seen.is_over());
        poke.poke();
        assert!(seen.is_over());
        let began = Instant::now();
        seen.sleep(Some(began + LONG));
        assert!(began.elapsed() < LONG / 2);
    }

    #[test]
    fn a_poke_ends_a_sleep_of_another_thread() {
        let poke = Poke::default();
        let began = Instant::now();
        thread::scope(|scope| {
            let seen = poke.seen();
            let sleeper = scope.spawn(move || {
                while !seen.is_over() && began.elapsed() < LONG {
                    seen.sleep(Some(began + LONG));
                }
            });
            poke.poke();
            sleeper.join().unwrap();
        });
        assert!(began.elapsed() < LONG / 2);
    }
}
