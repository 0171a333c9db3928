//! The publisher's half of the ring protocol, over any backend.
//!
//! Promises: a slot or span is overwritten only when every adopted subscriber has released it, and the last
//! `keep` messages before a version check are left alone until the next check; a message is seen whole or not at all;
//! whoever slept when it was committed is woken by [`announce`](RingPublisher::announce), once. A subscriber that was seen to have joined misses nothing from then on.
//!
//! It asks its owner to look at [`stale`](RingPublisher::stale) before every message or batch, and to adopt and
//! drop subscribers until the version is reached; and to park instead of sleeping where the topic
//! [is foreign](RingPublisher::is_foreign). It does not touch payloads.

use super::Arena;
use super::floor::Floor;
use super::follower::Follower;
use super::stall::Stall;
use super::waiting::Risen;
use crate::Overrun;
use crate::backend::{Backend, ReaderMemory, RingMemory, site};
use crate::memory::layout::{CLOSED, IDLE, INLINE, NOWHERE};
use crate::memory::registry::is_foreign;
use crate::wake::{Alarm, Call, Sleeper};

/// The publisher's half of a ring.
pub struct RingPublisher<B: Backend> {
    pub(super) ring: B::Ring,
    pub(super) registry: B::Registry,
    /// Which cursor of a reader segment belongs to this ring.
    pub(super) index: usize,
    /// The next sequence to publish.
    pub(super) head: u64,
    /// The first sequence whose slot may not be written before room is looked for again. A sequence, not a count: a
    /// count would be stored with each message.
    pub(super) limit: u64,
    /// `head` at the last version check.
    pub(super) checked: u64,
    /// Messages kept for subscribers that join.
    pub(super) keep: u64,
    /// Where set, messages from here on are kept instead of the last `keep`.
    pub(super) kept_from: Option<u64>,
    /// The messages that are kept may take the whole arena.
    scarce: bool,
    pub(super) version: u32,
    pub(super) arena: Arena,
    pub(super) inline: u64,
    pub(super) followers: Vec<Follower<B>>,
    /// Where this publisher may go past subscribers: what it leaves alone.
    pub(super) floor: Option<Floor>,
    /// Where it waits for them: how far its floor has risen.
    pub(super) risen: Risen,
    pub(super) sleeper: Sleeper,
    /// Wakes who is parked and not known here.
    relay: Option<B::Relay>,
}

/// Where the next message goes. Dropping it leaves the ring as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The message's sequence number.
    pub sequence: u64,
    /// [`INLINE`], [`NOWHERE`], or the unit in the arena.
    pub place: u32,
    /// Bytes that may be written; of no use to anybody where the place is [`NOWHERE`].
    pub capacity: u64,
}

/// There is no room: a subscriber has not released what would be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<B: Backend> RingPublisher<B> {
    /// A publisher of a new ring whose first message has sequence `start`, at `version` of the set of subscribers.
    ///
    /// `start` is 0 but in tests of the wrap-around; then every slot must hold another stamp than its
    /// first message's. `keep` is at least 1 and less than the depth; `inline` is the bytes of payload that a slot holds. With
    /// `overrun` it goes past subscribers, by these rules.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a fact of the ring's own"
    )]
    pub fn new(
        ring: B::Ring,
        registry: B::Registry,
        index: usize,
        start: u64,
        keep: u64,
        inline: u64,
        arena: Arena,
        overrun: Option<Overrun>,
    ) -> Self {
        Self {
            ring,
            registry,
            index,
            head: start,
            limit: start,
            checked: start,
            keep,
            kept_from: None,
            scarce: false,
            version: 0,
            arena,
            inline,
            followers: Vec::new(),
            floor: overrun.map(|rules| Floor::new(rules, start)),
            risen: Risen::new(start),
            sleeper: Sleeper::default(),
            relay: None,
        }
    }

    /// From now on wakes through this whom it cannot wake itself.
    pub fn set_relay(&mut self, relay: B::Relay) {
        self.relay = Some(relay);
    }

    /// The ring's memory.
    pub fn ring(&self) -> &B::Ring {
        &self.ring
    }

    /// The sequence number of the next message.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Whether the set of subscribers moved: then its version, up to which the owner must adopt and drop
    /// before it claims. To be asked before every message or batch.
    #[inline(always)]
    pub fn stale(&mut self) -> Option<u32> {
        self.checked = self.head;
        // ORDERING: ordered after the last commit by its fence (`PUBLISH_FENCE`), which pairs with a joining
        // subscriber's (`JOIN_FENCE`): one of the two sees the other.
        let seen = B::load32(&self.registry.subscribers.0, site::RELAXED);
        (seen != self.version).then_some(seen)
    }

    /// Whether the topic has had members of more than one user: one of them could move whoever
    /// sleeps on a shared word to a word that nobody wakes. Once it is so, it stays so at this
    /// broker. To be asked before each sleep.
    pub fn is_foreign(&self) -> bool {
        is_foreign(&self.registry, &self.registry.subscribers)
    }

    /// The owner has adopted and dropped everybody up to this version.
    pub fn set_version(&mut self, version: u32) {
        self.version = version;
        self.forget_room();
    }

    /// From now on waits for this subscriber and wakes it. Its cursor was set before it registered.
    pub fn adopt(&mut self, id: u64, reader: B::Reader) {
        self.followers.push(Follower {
            id,
            reader,
            seen: self.head,
            stall: Stall::default(),
            joining: true,
            evicted: false,
            alarm: Alarm::default(),
            notify: None,
        });
        self.forget_room();
    }

    /// This subscriber may park from now on, and is woken so. Unknown ids are no error, as for [`drop_follower`](Self::drop_follower).
    pub fn set_notify(&mut self, id: u64, notify: B::Notify) {
        if let Some(follower) = self.followers.iter_mut().find(|f| f.id == id) {
            follower.notify = Some(notify);
        }
    }

    /// From now on waits for this subscriber no longer. Unknown ids are no error: it may have left before it was adopted.
    pub fn drop_follower(&mut self, id: u64) {
        self.followers.retain(|f| f.id != id);
        self.forget_room();
    }

    /// Number of subscribers adopted.
    pub fn followers(&self) -> usize {
        self.followers.len()
    }

    /// Whether this subscriber has joined: what is published from now on, it receives.
    ///
    /// An adopted one still chooses its start, and may pass over messages that were published meanwhile.
    pub fn has_joined(&self, id: u64) -> bool {
        self.followers.iter().any(|f| f.id == id && f.receives())
    }

    /// Whether this subscriber has said that it reads nothing any more.
    pub fn has_left(&self, id: u64) -> bool {
        self.followers.iter().any(|f| f.id == id && f.left())
    }

    /// Number of subscribers that have joined.
    pub fn joined(&self) -> usize {
        self.followers.iter().filter(|f| f.receives()).count()
    }

    /// Number of subscribers that are there and have not joined, places that are kept for some
    /// among them.
    pub fn joining(&self) -> usize {
        let there = self.followers.iter().filter(|f| !f.evicted);
        there.filter(|f| !f.joined()).count()
    }

    /// The subscriber furthest behind and its lag in messages, when room was last looked for.
    pub fn slowest(&self) -> Option<(u64, u64)> {
        let slowest = self.slowest_follower()?;
        Some((slowest.id, self.lag(slowest.seen)))
    }

    pub(super) fn slowest_follower(&self) -> Option<&Follower<B>> {
        let gating = self.followers.iter().filter(|f| !f.evicted);
        gating.max_by_key(|f| self.lag(f.seen))
    }

    /// Messages above a cursor. One that claims to be ahead lies, to its own harm.
    pub(super) fn lag(&self, cursor: u64) -> u64 {
        let lag = self.head.wrapping_sub(cursor);
        if lag > i64::MAX as u64 { 0 } else { lag }
    }

    /// Whether the next slot may be written as usual.
    #[inline(always)]
    pub(super) fn has_room(&self) -> bool {
        self.head != self.limit
    }

    /// Looks for slots that may be written now.
    fn look_for_room(&mut self) {
        if self.floor.is_some() {
            self.look_past();
        } else {
            self.look_for_slots();
        }
    }

    /// Bits of a cursor that are no part of its sequence number.
    pub(super) fn ignored(&self) -> u64 {
        if self.floor.is_some() { IDLE } else { 0 }
    }

    pub(super) fn look_at_cursors(&mut self) {
        let ignored = self.ignored();
        for follower in &mut self.followers {
            // ORDERING: acquire pairs with the subscriber's `RELEASE_CURSOR`: its reads of what it released are
            // over before this side writes there.
            let cursor = B::load64(follower.reader.cursor(self.index), site::PUBLISH_CURSOR);
            follower.seen = cursor & !ignored;
            // Whoever has left waits for nothing, also where no broker is there to say so.
            if follower.left() {
                follower.seen = self.head;
            }
        }
    }

    /// Claims the slot of the next message, and room for `len` bytes of payload.
    ///
    /// # Errors
    /// [`Full`] where a subscriber has not yet released what would be overwritten; on a lossy ring, where the set of subscribers moved
    /// or a batch has gone as far as it may: then look at [`stale`](Self::stale) and claim again.
    #[inline(always)]
    pub fn claim(&mut self, len: u64) -> Result<Claim, Full> {
        // Only a place comes back from the rarer ways: a whole claim would go through memory on all of them.
        let place = if !self.has_room() && self.find_no_room() {
            self.place_passed_over(len)
        } else if len <= self.inline {
            Some(INLINE)
        } else {
            self.place_in_arena(len)
        };
        Ok(Claim {
            sequence: self.head,
            place: place.ok_or(Full)?,
            capacity: len.max(self.inline),
        })
    }

    #[cold]
    fn find_no_room(&mut self) -> bool {
        self.look_for_room();
        !self.has_room()
    }

    #[cold]
    fn place_in_arena(&mut self, len: u64) -> Option<u32> {
        if self.floor.is_some() {
            return self.place_past(len);
        }
        self.place_in_spans(len)
    }

    /// Says that the messages that are kept may take the whole arena: see [`only_kept`](Self::only_kept).
    pub fn set_scarce(&mut self) {
        self.scarce = true;
    }

    /// A claim failed: whether nothing is in the way of the next message but what is kept for subscribers
    /// that join. Then waiting does not help, whoever reads.
    #[cold]
    pub fn only_kept(&self) -> bool {
        if !self.scarce || self.checked != self.head {
            return false;
        }
        let Some(floor) = &self.floor else {
            let behind = self.slowest().map_or(0, |(_, lag)| lag);
            return behind <= self.keep;
        };
        floor.is_up_to(self.intact_from()) && !floor.keeps()
    }

    /// Bytes of the longest payload that [`claim`](Self::claim) grants in the arena without waiting. Tries to make that
    /// `wanted` bytes.
    pub fn longest(&mut self, wanted: u64) -> u64 {
        if self.floor.is_none() && wanted > 0 {
            let _ = self.place_in_spans(wanted);
        }
        self.arena.longest()
    }

    /// Messages that may go into a batch that starts now: it must leave alone what a joiner may read. Where this publisher goes past
    /// subscribers, each claim sees to that.
    pub fn batch_limit(&mut self) -> u64 {
        if self.floor.is_some() {
            return self.ring.depth();
        }
        if !self.has_room() {
            self.look_for_room();
        }
        // Each claim of the batch raises the floor as it goes.
        let room = if !self.has_room() {
            0
        } else {
            self.released_room()
        };
        room.min(self.ring.depth() - self.keep)
    }

    /// Publishes what was written into the claim, `len` bytes of it. Wakes nobody: see [`announce`](Self::announce).
    #[inline(always)]
    pub fn commit(&mut self, claim: Claim, len: u32) {
        debug_assert_eq!(claim.sequence, self.head);
        if claim.place != INLINE {
            self.take_span(claim, len);
        }
        if !self.has_room() {
            return self.commit_passed_over(claim, len);
        }
        let slot = self.ring.slot(claim.sequence);
        let place = u64::from(claim.place) << 32 | u64::from(len);
        // ORDERING: published by the stamp below.
        B::store64(&slot.place, place, site::RELAXED);
        let stamp = claim.sequence.wrapping_add(1);
        // ORDERING: release pairs with the subscriber's `RECEIVE_COMMIT`: it sees the payload whole.
        B::store64(&slot.commit, stamp, site::PUBLISH_COMMIT);
        self.head = stamp;
        debug_assert!(
            self.limit.wrapping_sub(stamp) <= self.ring.depth(),
            "a slot is written within the room that was found"
        );
    }

    fn take_span(&mut self, claim: Claim, len: u32) {
        match &mut self.floor {
            Some(floor) if claim.place == NOWHERE => floor.count_nowhere(),
            _ => self.arena.take(claim.sequence, claim.place, u64::from(len)),
        }
    }

    /// Looks at the subscribers after a message or batch, and wakes who sleeps.
    #[inline(always)]
    pub fn announce(&mut self) {
        B::light_fence(site::PUBLISH_FENCE);
        // ORDERING: as in `stale`. Who is about to join may sleep already, and is not yet known here.
        let seen = B::load32(&self.registry.subscribers.0, site::RELAXED);
        let moved = seen != self.version;
        let mut asleep = moved;
        for follower in &self.followers {
            asleep |= follower.alarm.due::<B>(&follower.reader.header().waiting.0);
        }
        if asleep {
            self.wake(moved);
        }
    }

    /// Wakes each who sleeps as it sleeps; where somebody may be `unknown` here, in both ways.
    #[cold]
    fn wake(&self, unknown: bool) {
        let mut ring = unknown && B::makes(site::NEWCOMER_BELL);
        let mut relay = unknown && B::makes(site::NEWCOMER_RELAY);
        for follower in &self.followers {
            match follower
                .alarm
                .take::<B>(&follower.reader.header().waiting.0)
            {
                Some(Call::Bell) => ring |= B::makes(site::READER_BELL),
                Some(Call::Notify) => match &follower.notify {
                    Some(notify) if B::makes(site::READER_DOORBELL) => B::notify(notify),
                    Some(_) => {}
                    None => relay |= B::makes(site::READER_RELAY),
                },
                None => {}
            }
        }
        if ring {
            crate::wake::ring::<B>(&self.ring.header().bell.bell);
        }
        if let Some(broker) = self.relay.as_ref().filter(|_| relay) {
            B::relay(broker);
        }
    }

    /// Ends the ring: subscribers drain it and then see its end.
    pub fn close(&mut self) {
        let header = self.ring.header();
        // ORDERING: release pairs with the subscriber's `RECEIVE_STATE`: who sees the end sees the last message.
        B::store32(&header.bell.state, CLOSED, site::CLOSE_STATE);
        if B::makes(site::CLOSE_WAKES) {
            self.announce();
        }
    }
}
