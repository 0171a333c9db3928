//! How a publisher waits: for room, asleep on a futex or parked on its doorbell, and for subscribers.
//!
//! Promises: a sleep ends when what it waits for has happened, also where that was between the look before it and the sleep. It does not say
//! whether there is room: claim again.

use std::time::{Duration, Instant};

use super::floor::Floor;
use super::follower::Follower;
use super::ring::RingPublisher;
use crate::backend::{Backend, ReaderMemory, RingMemory, site};
use crate::wake::MAX_WORDS;

/// How long a sleep lasts at most that cannot watch the bells of all subscribers.
const UNWATCHED: Duration = Duration::from_millis(10);

/// The deadline of a sleep that watches `first` other words, and then as many of `bells` bells as one sleep can. Where
/// it cannot watch all of them it ends soon, so that its owner looks at the rest.
pub(super) fn within_words(
    first: usize,
    bells: usize,
    deadline: Option<Instant>,
) -> Option<Instant> {
    if first + bells <= MAX_WORDS {
        return deadline;
    }
    let soon = Instant::now() + UNWATCHED;
    Some(deadline.map_or(soon, |deadline| deadline.min(soon)))
}

impl<B: Backend> RingPublisher<B> {
    /// Sleeps until the slowest subscriber moves or leaves, the set of subscribers moves, `extra` no longer holds
    /// its value, or the deadline.
    ///
    /// Returns at once when that has happened since the claim failed. May return early; claim again.
    #[cold]
    pub fn sleep(&mut self, extra: Option<(&B::Word32, u32)>, deadline: Option<Instant>) {
        if self.floor.as_ref().is_some_and(Floor::keeps) {
            return self.sleep_for_kept(extra, deadline);
        }
        let Some(slowest) = self.slowest_follower() else {
            return;
        };
        let its_bell = &slowest.reader.header().bell.bell;
        // ORDERING: an old value makes the kernel return at once; the fences order the rest.
        let bell = B::load32(its_bell, site::RELAXED);
        let waiting = &self.ring.header().waiting.0;
        self.sleeper
            .announce::<B>(waiting, site::SLEEP_PUBLISHER_FENCE);
        if self.still_behind(slowest) {
            let version = (&self.registry.subscribers.0, self.version);
            match extra {
                Some(extra) => B::sleep(&[(its_bell, bell), version, extra], deadline),
                None => B::sleep(&[(its_bell, bell), version], deadline),
            }
        }
        self.sleeper.retract::<B>(waiting);
    }

    /// Whether nothing has changed since the claim failed, after the heavy fence of who is about to sleep.
    fn still_behind(&self, slowest: &Follower<B>) -> bool {
        // ORDERING: both after the heavy fence, which pairs with `RELEASE_FENCE`. What the cursor frees is
        // acquired by the claim that follows.
        let cursor = B::load64(slowest.reader.cursor(self.index), site::RELAXED) & !self.ignored();
        let version = B::load32(&self.registry.subscribers.0, site::RELAXED);
        let waits = cursor == slowest.seen && self.lag(cursor) > 0 && !slowest.left();
        waits && version == self.version
    }

    /// Parks: from now on its doorbell is rung when a subscriber releases something. False, and awake, where something has changed since
    /// the claim failed: claim again.
    #[cold]
    pub fn park(&mut self) -> bool {
        self.sleeper.park::<B>(&self.ring.header().waiting.0);
        B::heavy_fence(site::SLEEP_PUBLISHER_FENCE);
        let sleeps = if self.floor.as_ref().is_some_and(Floor::keeps) {
            self.still_kept()
        } else {
            let slowest = self.slowest_follower();
            slowest.is_some_and(|slowest| self.still_behind(slowest))
        };
        if !sleeps {
            self.unpark();
        }
        sleeps
    }

    /// Parks for [other than `known` subscribers](Self::sleep_for_subscribers). False, and awake,
    /// where there are others already, or the set of subscribers has moved. A subscriber that has
    /// not heard of this publisher yet does not ring when it has joined: where some
    /// [are joining](Self::joining), look again soon.
    #[cold]
    pub fn park_for_subscribers(&mut self, known: usize) -> bool {
        self.sleeper.park::<B>(&self.ring.header().waiting.0);
        B::heavy_fence(site::SLEEP_PUBLISHER_FENCE);
        // ORDERING: after the heavy fence. The broker moves the version first, and rings after.
        let version = B::load32(&self.registry.subscribers.0, site::RELAXED);
        let sleeps = version == self.version && self.joined() == known;
        if !sleeps {
            self.unpark();
        }
        sleeps
    }

    /// Is awake again, after [`park`](Self::park).
    pub fn unpark(&mut self) {
        self.sleeper.retract::<B>(&self.ring.header().waiting.0);
    }

    /// Sleeps until other than `known` subscribers have joined, the set of subscribers moves, `extra` no longer holds
    /// its value, or the deadline.
    ///
    /// Returns at once when that has happened already. May return early. Where more than 126 subscribers are joining,
    /// it watches 126 of them, and returns after 10 ms so that its owner looks at the others.
    #[cold]
    pub fn sleep_for_subscribers(
        &mut self,
        known: usize,
        extra: Option<(&B::Word32, u32)>,
        deadline: Option<Instant>,
    ) {
        let version = (&self.registry.subscribers.0, self.version);
        let mut words = [version; MAX_WORDS];
        let mut count = 1;
        if let Some(extra) = extra {
            words[count] = extra;
            count += 1;
        }
        let joining = || {
            let there = self.followers.iter().filter(|f| !f.evicted);
            there.filter(|f| !f.joined())
        };
        let first = count;
        for (word, follower) in words[first..].iter_mut().zip(joining()) {
            let bell = &follower.reader.header().bell.bell;
            // ORDERING: an old value makes the kernel return at once.
            *word = (bell, B::load32(bell, site::RELAXED));
            count += 1;
        }
        let deadline = within_words(first, joining().count(), deadline);
        let waiting = &self.ring.header().waiting.0;
        self.sleeper
            .announce::<B>(waiting, site::SLEEP_PUBLISHER_FENCE);
        // After the heavy fence, which pairs with the `RELEASE_FENCE` of who has joined.
        if self.joined() == known {
            B::sleep(&words[..count], deadline);
        }
        self.sleeper.retract::<B>(waiting);
    }
}
