//! How a publisher goes past subscribers that read, hold, or stand still, without touching what they look at.
//!
//! The *floor* is a word of the ring: every message from it on is intact (`waiting` has that of a ring that waits). Before a slot or span is written again, the floor is raised above its
//! old message, then the subscribers' cursors and pins are read; what they protect is passed over for as long as they do. A subscriber
//! protects first and looks at the floor afterwards. A full fence on either side between its store and its loads: so either the publisher
//! sees the protection, or the subscriber sees that it came too late.
//!
//! ```text
//!          floor                    head      publisher                      subscriber
//!   -------+-------------------------+---     floor = f                      cursor = c  (protects c up to c + window)
//!    may go | intact                 |        full fence                     full fence
//!    unless protected                         version moved? adopt first     floor > c? too late: go on at the floor
//!                                             read cursors and pins          read
//! ```
//! A message whose slot is passed over goes into the arena instead, so that no sequence number is skipped: what a subscriber
//! loses is a difference of two. Where protected messages leave no room anywhere, the new message lies nowhere, and all lose it.
//!
//! Promises: nothing protected is written over. A lossy publisher never waits. The cost for each step of the floor grows with the number of
//! subscribers and pins, not with the depth.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::arena;
use super::follower::Follower;
use super::ring::{Claim, RingPublisher};
use super::sleep::within_words;
use super::stall::Stall;
use crate::Overrun;
use crate::backend::{Backend, ReaderMemory, RingMemory, site};
use crate::memory::layout::{IDLE, INLINE, NOWHERE, REPLACED};
use crate::wake::MAX_WORDS;

/// What a publisher leaves alone below its floor.
#[derive(Debug)]
pub(super) struct Floor {
    rules: Overrun,
    /// Everything from here on is intact, and what is protected below it is known.
    at: u64,
    /// Messages below the floor that subscribers protect.
    kept: Vec<Kept>,
    /// Sequences that subscribers protect, for one look.
    seen: Vec<u64>,
    /// Messages that found no room.
    nowhere: u64,
    /// A message that finds no room is refused, not published as one that everybody lost.
    refuses: bool,
    /// How long there has been no room, though nobody who is waited for is behind.
    held_up: Stall,
}

/// Why an evicting publisher has waited as long as its topic allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It has not.
    No,
    /// For subscribers that made no progress; nobody waits for them any more.
    Evicted,
    /// For messages that subscribers hold, which take all the room. Evicting their holders would not give it back.
    Held,
}

/// A message below the floor that is left alone: somebody reads it, or is about to look where it lies.
#[derive(Debug)]
struct Kept {
    sequence: u64,
    lies: Lies,
}

/// Where a message lies.
#[derive(Debug)]
enum Lies {
    /// In its slot.
    Inline,
    /// In these bytes of the arena.
    Arena(Range<u64>),
    /// Nowhere.
    Nowhere,
}

/// How raising the floor ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Raised {
    /// It is higher.
    Yes,
    /// What is above must stay, for a subscriber that is waited for or for one that joins.
    No,
    /// The set of subscribers moved: they must be adopted first.
    Stale,
}

impl Floor {
    pub(super) fn new(rules: Overrun, start: u64) -> Self {
        Self {
            rules,
            at: start,
            kept: Vec::with_capacity(64),
            seen: Vec::with_capacity(64),
            nowhere: 0,
            refuses: false,
            held_up: Stall::default(),
        }
    }

    /// Whether anything below the floor is left alone.
    pub(super) fn keeps(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether it is at this message, or above.
    pub(super) fn is_up_to(&self, sequence: u64) -> bool {
        self.at.wrapping_sub(sequence) as i64 >= 0
    }

    /// A message found no room.
    pub(super) fn count_nowhere(&mut self) {
        self.nowhere += 1;
    }

    /// Messages from `head` on until a slot comes whose old message is left alone, wherever that lies.
    fn unguarded(&self, head: u64, depth: u64) -> u64 {
        let slots = self.kept.iter().map(|kept| kept.sequence);
        let ahead = slots.map(|sequence| sequence.wrapping_sub(head) & (depth - 1));
        ahead.min().unwrap_or(depth)
    }

    /// Looks at what subscribers protect, and lets go of what they no longer do; whether there was such. Nobody comes to protect anything
    /// below the floor, so without a move of the floor this needs no fence.
    fn let_go<B: Backend>(&mut self, followers: &[Follower<B>], index: usize) -> bool {
        self.seen.clear();
        for follower in followers.iter().filter(|f| !f.left()) {
            // ORDERING: acquire pairs with the subscriber's `RELEASE_CURSOR`: a pin that it stored before it moved on is seen below.
            let cursor = B::load64(follower.reader.cursor(index), site::PUBLISH_CURSOR);
            if cursor & IDLE == 0 {
                let window = (0..self.rules.window).map(|ahead| cursor.wrapping_add(ahead));
                self.seen.extend(window);
            }
            let pins = (0..self.rules.pins).map(|number| {
                // ORDERING: acquire pairs with the subscriber's `RELEASE_PIN`: its reads are over.
                B::load64(follower.reader.pin(index, number), site::FLOOR_PIN)
            });
            let pinned = pins.filter(|pin| *pin != 0);
            self.seen.extend(pinned.map(|pin| pin.wrapping_sub(1)));
        }
        self.seen.sort_unstable();
        self.seen.dedup();
        let (seen, before) = (&self.seen, self.kept.len());
        self.kept
            .retain(|kept| seen.binary_search(&kept.sequence).is_ok());
        self.kept.len() < before
    }
}

impl<B: Backend> RingPublisher<B> {
    /// Looks for room: raises the floor by a step where no slot is left below it.
    pub(super) fn look_past(&mut self) {
        let depth = self.ring.depth();
        let Some(floor) = &self.floor else { return };
        if self.head.wrapping_sub(floor.at) >= depth {
            self.raise(floor.at.wrapping_add(floor.rules.step));
        }
        if let Some(floor) = &self.floor {
            let used = self.head.wrapping_sub(floor.at);
            assert!(used <= depth, "no intact message was written over");
            let room = (depth - used).min(floor.unguarded(self.head, depth));
            self.limit = self.head.wrapping_add(room);
        }
    }

    /// A place where no slot may be written as usual: there is none, or the old message of the next one is left alone.
    #[cold]
    pub(super) fn place_passed_over(&mut self, len: u64) -> Option<u32> {
        let depth = self.ring.depth();
        let floor = self.floor.as_ref()?;
        if self.head.wrapping_sub(floor.at) >= depth {
            return None;
        }
        self.place_past(len)
    }

    /// A place for what does not fit the next slot, or where that slot is left alone: the floor is raised as far as is needed and allowed.
    #[cold]
    pub(super) fn place_past(&mut self, len: u64) -> Option<u32> {
        let short = len <= self.inline;
        let len = len.max(self.inline);
        let raised = loop {
            if short && self.slot_is_free() {
                return Some(INLINE);
            }
            let place = self.arena.place(len);
            if place.is_some() {
                return place;
            }
            // Some at a time, for each costs a fence.
            let least = len.next_multiple_of(64).max(self.arena.bytes() / 8);
            let to = self.arena.frees(least);
            match to.map_or(Raised::No, |to| self.raise(to)) {
                Raised::Yes => {}
                // Only what was given back below the floor can make room now.
                Raised::No if self.let_go_of_kept() => {}
                raised => break raised,
            }
        };
        let lossy = self.floor.as_ref();
        let lossy = lossy.is_some_and(|f| !f.rules.evicts && !f.refuses);
        let may_go_on = raised == Raised::Stale || self.checked != self.head;
        (lossy && !may_go_on && !self.only_kept()).then_some(NOWHERE)
    }

    /// From now on a claim fails where there is no room, also on a lossy ring.
    pub fn refuse_losses(&mut self) {
        if let Some(floor) = &mut self.floor {
            floor.refuses = true;
        }
    }

    /// From now on keeps the messages from this one on, instead of the last ones before a version check. For
    /// a ring that goes past subscribers: one that joins goes on where the floor is.
    pub fn keep_from(&mut self, sequence: u64) {
        self.kept_from = Some(sequence);
    }

    /// What a subscriber that is just joining may count on: every message from here on.
    pub(super) fn intact_from(&self) -> u64 {
        let last = |messages: u64| self.checked.wrapping_sub(messages);
        match self.kept_from {
            // The last one is kept in any case.
            Some(from) if last(1).wrapping_sub(from) as i64 >= 0 => from,
            Some(_) => last(1),
            None => last(self.keep),
        }
    }

    /// Whether nobody needs the payload that is in the next slot, below the floor.
    fn slot_is_free(&self) -> bool {
        let slots = self.ring.depth() - 1;
        let kept = self.floor.iter().flat_map(|floor| &floor.kept);
        let mut inline = kept.filter(|kept| matches!(kept.lies, Lies::Inline));
        inline.all(|kept| kept.sequence.wrapping_sub(self.head) & slots != 0)
    }

    /// Lets go of what is no longer protected, where the floor is; whether there was such.
    fn let_go_of_kept(&mut self) -> bool {
        // A sleep that follows is for what moves from here on.
        self.look_at_cursors();
        let Some(floor) = self.floor.as_mut().filter(|floor| floor.keeps()) else {
            return false;
        };
        let gone = floor.let_go(&self.followers, self.index);
        self.go_round_kept();
        gone
    }

    /// As [`sleep`](Self::sleep), where something below the floor is held: wakes also when that is given back, by whomever.
    /// Where there are more subscribers than one sleep can watch, it returns after 10 ms.
    #[cold]
    pub(super) fn sleep_for_kept(
        &mut self,
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
        let first = count;
        for (word, follower) in words[first..].iter_mut().zip(&self.followers) {
            let bell = &follower.reader.header().bell.bell;
            // ORDERING: an old value makes the kernel return at once.
            *word = (bell, B::load32(bell, site::RELAXED));
            count += 1;
        }
        let deadline = within_words(first, self.followers.len(), deadline);
        let waiting = &self.ring.header().waiting.0;
        self.sleeper
            .announce::<B>(waiting, site::SLEEP_PUBLISHER_FENCE);
        let mut moved = self.moved();
        if let Some(floor) = &mut self.floor {
            moved |= floor.let_go(&self.followers, self.index);
        }
        if !moved {
            B::sleep(&words[..count], deadline);
        }
        self.sleeper.retract::<B>(waiting);
        self.go_round_kept();
    }

    /// As [`park`](Self::park), where something below the floor is held: after the heavy fence, whether nothing has changed.
    pub(super) fn still_kept(&mut self) -> bool {
        let mut moved = self.moved();
        if let Some(floor) = &mut self.floor {
            moved |= floor.let_go(&self.followers, self.index);
        }
        self.go_round_kept();
        !moved
    }

    /// Whether a cursor or the set of subscribers has moved since it was looked at.
    fn moved(&self) -> bool {
        // ORDERING: all after the heavy fence, which pairs with `RELEASE_FENCE`.
        let mut moved = B::load32(&self.registry.subscribers.0, site::RELAXED) != self.version;
        for follower in self.followers.iter().filter(|f| !f.evicted) {
            let cursor = B::load64(follower.reader.cursor(self.index), site::RELAXED);
            let seen = if follower.left() {
                self.head
            } else {
                cursor & !IDLE
            };
            moved |= seen != follower.seen;
        }
        moved
    }

    /// Commits a message in whose slot an older one is left alone. Somebody who protects that one may be about to read where it lies: so
    /// its stamp goes first.
    #[cold]
    pub(super) fn commit_passed_over(&mut self, claim: Claim, len: u32) {
        let slot = self.ring.slot(claim.sequence);
        // ORDERING: this side wrote it last.
        let old = B::load64(&slot.commit, site::RELAXED);
        // ORDERING: before the new place, by that one's release.
        B::store64(&slot.commit, old | REPLACED, site::RELAXED);
        let place = u64::from(claim.place) << 32 | u64::from(len);
        // ORDERING: release pairs with the subscriber's `RECEIVE_PLACE`: who reads this place sees the stamp gone.
        B::store64(&slot.place, place, site::REPLACE_PLACE);
        let stamp = claim.sequence.wrapping_add(1);
        // ORDERING: release pairs with the subscriber's `RECEIVE_COMMIT`: it sees the payload whole.
        B::store64(&slot.commit, stamp, site::PUBLISH_COMMIT);
        self.head = stamp;
        // Whether the slot behind may be written is looked for again.
        self.limit = stamp;
    }

    /// Messages that found no room because of what subscribers hold: every subscriber lost them.
    pub fn nowhere(&self) -> u64 {
        self.floor.as_ref().map_or(0, |floor| floor.nowhere)
    }

    /// Raises the floor up to this sequence, or as far as is allowed.
    fn raise(&mut self, to: u64) -> Raised {
        self.look_at_cursors();
        let intact = self.intact_from();
        let Some(floor) = &mut self.floor else {
            return Raised::No;
        };
        // What a subscriber that is just joining may count on, and what those that are waited for have not read: also those whose
        // join is not over, for they may have found their start already.
        let mut most = intact.wrapping_sub(floor.at) as i64;
        if floor.rules.evicts {
            for follower in self.followers.iter().filter(|f| !f.evicted) {
                most = most.min(follower.seen.wrapping_sub(floor.at) as i64);
            }
        }
        let steps = (to.wrapping_sub(floor.at) as i64).min(most);
        if steps <= 0 {
            return Raised::No;
        }
        let to = floor.at.wrapping_add(steps as u64);
        debug_assert!(
            intact.wrapping_sub(to) as i64 >= 0,
            "what is kept for joiners stays above the floor"
        );
        let shared = &self.ring.header().floor.0;
        // ORDERING: the look that counts comes after the fence.
        if B::load32(&self.registry.subscribers.0, site::RELAXED) != self.version {
            return Raised::Stale;
        }
        // ORDERING: before the loads below, by the fence.
        B::store64(shared, to, site::RELAXED);
        B::fence(site::FLOOR_FENCE);
        // ORDERING: after the fence, which pairs with a joining subscriber's `PROTECT_FENCE`.
        if B::load32(&self.registry.subscribers.0, site::RELAXED) != self.version {
            // A subscriber that joins at the floor may start below `to`. If it saw `to` later, it would take
            // that for an eviction. It sees `to` only if it reads its whole window between these two stores.
            // ORDERING: none. Whichever of the two floors a subscriber sees, what it reads is intact.
            B::store64(shared, floor.at, site::RELAXED);
            return Raised::Stale;
        }
        self.look_at_protected(to);
        Raised::Yes
    }

    /// Takes over what subscribers protect below the new floor, and lets go of what they no longer do.
    fn look_at_protected(&mut self, to: u64) {
        let Some(floor) = &mut self.floor else { return };
        floor.let_go(&self.followers, self.index);
        let below = to.wrapping_sub(floor.at);
        debug_assert!(
            (1..=self.ring.depth()).contains(&below),
            "the floor rises, and over no more than a ring"
        );
        for &sequence in &floor.seen {
            if sequence.wrapping_sub(floor.at) >= below {
                continue;
            }
            // ORDERING: this side wrote it.
            let word = B::load64(&self.ring.slot(sequence).place, site::RELAXED);
            let (place, len) = ((word >> 32) as u32, word & u64::from(u32::MAX));
            let lies = match place {
                INLINE => Lies::Inline,
                NOWHERE => Lies::Nowhere,
                place => Lies::Arena(arena::span(place, len)),
            };
            floor.kept.push(Kept { sequence, lies });
        }
        debug_assert!(
            floor.kept.len() as u64
                <= self.followers.len() as u64 * (floor.rules.window + floor.rules.pins as u64),
            "nothing is kept that nobody protects"
        );
        floor.at = to;
        self.arena.release_before(to, self.head);
        self.go_round_kept();
    }

    fn go_round_kept(&mut self) {
        let Some(floor) = &self.floor else { return };
        let spans = floor.kept.iter().filter_map(|kept| match &kept.lies {
            Lies::Arena(span) => Some(span.clone()),
            Lies::Inline | Lies::Nowhere => None,
        });
        self.arena.go_round(spans);
    }

    /// Evicts those subscribers without whose messages nothing more can be published, and that have not moved for `patience` while this was
    /// asked. To be asked when a claim failed, eight times or more within that time.
    #[cold]
    pub fn evict_stalled(&mut self, patience: Duration) -> Overdue {
        let Some(floor) = self.floor.as_mut().filter(|floor| floor.rules.evicts) else {
            return Overdue::No;
        };
        let (mut evicted, mut gated) = (false, false);
        for follower in self.followers.iter_mut().filter(|f| !f.evicted) {
            // Only a cursor that the floor cannot pass holds anybody up.
            if (follower.seen.wrapping_sub(floor.at) as i64) > 0 {
                follower.stall.clear();
                continue;
            }
            gated = true;
            let patience = follower.patience(patience);
            if follower.stall.look(follower.seen, patience / 8) >= patience {
                follower.evicted = true;
                evicted = true;
            }
        }
        if evicted {
            self.forget_room();
            return Overdue::Evicted;
        }
        // The head stands for progress: it moves when room was found.
        if !gated && floor.held_up.look(self.head, patience / 8) >= patience {
            floor.held_up.clear();
            return Overdue::Held;
        }
        Overdue::No
    }

    /// Whether this subscriber was evicted.
    pub fn has_evicted(&self, id: u64) -> bool {
        self.followers.iter().any(|f| f.id == id && f.evicted)
    }
}
