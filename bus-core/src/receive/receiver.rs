//! Many rings, read fairly, slept on at once; over any backend.
//!
//! Promises: a ring with messages is read after at most [`TURN`] messages of each other one; a sleep ends when any publisher
//! publishes or closes, or when the set of publishers moves. It asks its owner to look at
//! [`stale`](Receiver::stale) before it polls, and to attach and end rings until that version is reached.

use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::time::Instant;

use super::ring::{Found, RingReader};
use crate::backend::{Backend, ReaderMemory, site};
use crate::memory::layout::MAX_PUBLISHERS;
use crate::wake::Sleeper;

/// Messages in a row from one ring while others may have some.
const TURN: u32 = 32;

/// A subscriber's rings.
pub struct Receiver<B: Backend> {
    reader: B::Reader,
    registry: B::Registry,
    version: Cell<u32>,
    /// Changed by [`attach`](Self::attach) and [`retire`](Self::retire) only; a ring of which a message
    /// is outstanding stays.
    rings: UnsafeCell<Vec<Arc<RingReader<B>>>>,
    /// Whose turn it is, and how many messages are left of it.
    turn: Cell<usize>,
    left: Cell<u32>,
    sleeper: Sleeper,
}

// SAFETY: a receiver owns its rings: no `Arc` of them leaves it, so whole it may move to another thread.
unsafe impl<B: Backend> Send for Receiver<B>
where
    B::Ring: Send,
    B::Reader: Send,
    B::Registry: Send,
{
}

impl<B: Backend> Receiver<B> {
    /// No rings yet, at version 0 of the set of publishers.
    pub fn new(reader: B::Reader, registry: B::Registry) -> Self {
        Self {
            reader,
            registry,
            version: Cell::new(0),
            rings: UnsafeCell::default(),
            turn: Cell::new(0),
            left: Cell::new(TURN),
            sleeper: Sleeper::default(),
        }
    }

    /// The subscriber's own segment.
    pub fn reader(&self) -> &B::Reader {
        &self.reader
    }

    /// Whether the set of publishers moved: then its version.
    #[inline(always)]
    pub fn stale(&self) -> Option<u32> {
        // ORDERING: the events that lead to it came through a socket.
        let seen = B::load32(&self.registry.publishers.0, site::RELAXED);
        (seen != self.version.get()).then_some(seen)
    }

    /// The owner has attached and ended rings up to this version.
    pub fn set_version(&self, version: u32) {
        self.version.set(version);
    }

    /// The rings read now.
    #[inline(always)]
    pub fn rings(&self) -> &[Arc<RingReader<B>>] {
        // SAFETY: one thread uses a receiver, and nobody keeps this slice across `attach` or `retire`: both
        // run no code of others, and what `select` hands out is behind an `Arc` that stays while it is in use.
        unsafe { &*self.rings.get() }
    }

    /// From now on reads this ring as well.
    pub fn attach(&self, ring: RingReader<B>) {
        // SAFETY: as for `rings`.
        unsafe { &mut *self.rings.get() }.push(Arc::new(ring));
    }

    /// Lets go of the rings that `gone` picks, which have ended and of which nothing is outstanding.
    ///
    /// `gone` must not call back into this receiver.
    pub fn retire(&self, gone: impl Fn(&RingReader<B>) -> bool) {
        // SAFETY: as for `rings`. A ring that anybody still reads has something outstanding and stays.
        let rings = unsafe { &mut *self.rings.get() };
        rings.retain(|ring| {
            let go = ring.drained() && ring.outstanding() == 0 && gone(ring);
            if go {
                ring.give_back();
            }
            !go
        });
        self.turn.set(0);
    }

    /// The ring whose next message is the next to receive, if any has one.
    #[inline(always)]
    pub fn select(&self) -> Option<&RingReader<B>> {
        let left = self.left.get();
        if left > 0
            && let Some(ring) = self.rings().get(self.turn.get())
            && ring.ready()
        {
            self.left.set(left - 1);
            return Some(ring);
        }
        self.select_next()
    }

    /// Gives the turn to the next ring that has a message.
    #[inline(never)]
    fn select_next(&self) -> Option<&RingReader<B>> {
        let rings = self.rings();
        let mut turn = self.turn.get();
        for _ in rings {
            turn = if turn + 1 >= rings.len() { 0 } else { turn + 1 };
            if rings[turn].ready() {
                self.turn.set(turn);
                self.left.set(TURN - 1);
                return Some(&rings[turn]);
            }
        }
        None
    }

    /// The next message of any ring. It is outstanding until it is released at its ring.
    pub fn poll(&self) -> Option<(&RingReader<B>, Found)> {
        let ring = self.select()?;
        Some((ring, ring.take()))
    }

    /// A ring with messages, other than the last where there is one, for reading many at once.
    pub fn select_other(&self) -> Option<&RingReader<B>> {
        self.left.set(0);
        self.select_next()
    }

    /// Whether a poll, or a look at the ends, would find something.
    pub fn ready(&self) -> bool {
        self.stale().is_some()
            || (self.rings().iter()).any(|ring| ring.ready() || ring.end_unseen())
    }

    /// Sleeps until [`ready`](Self::ready), until `extra` no longer holds its value, or until the deadline.
    ///
    /// May return early.
    #[cold]
    pub fn sleep(&self, extra: Option<(&B::Word32, u32)>, deadline: Option<Instant>) {
        let publishers = (&self.registry.publishers.0, self.version.get());
        let mut words = [publishers; MAX_PUBLISHERS + 2];
        let bells = self.rings().iter().map(|ring| ring.bell());
        let mut count = 1;
        for (word, bell) in words[1..].iter_mut().zip(extra.into_iter().chain(bells)) {
            *word = bell;
            count += 1;
        }
        let waiting = &self.reader.header().waiting.0;
        self.sleeper
            .announce::<B>(waiting, site::SLEEP_READER_FENCE);
        if !self.ready() {
            B::sleep(&words[..count], deadline);
        }
        self.sleeper.retract::<B>(waiting);
    }
}
