//! The subscriber's half of the ring protocol for one ring, over any backend.
//!
//! Promises: messages come in order, each once; a message handed out stays as it is until it is released, in
//! any order; whoever publishes and slept for the room is woken, once. It believes nothing that a slot says but its
//! stamp: the ring's memory checks place and length against the registration.

mod past;

use std::cell::{Cell, OnceCell};

use super::early::Early;
use super::head;
use super::shield::Shield;
use crate::Overrun;
use crate::backend::{Backend, ReaderMemory, RingMemory, WakeUp, site};
use crate::memory::layout::{CLOSED, REPLACED};
use crate::wake::{Alarm, Call, ring as ring_bell};

/// A message that was found: received, not yet released. `place` and `len` are its publisher's words, not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its sequence number.
    pub sequence: u64,
    /// [`INLINE`](crate::memory::layout::INLINE), or the unit in the arena.
    pub place: u32,
    /// Bytes of payload.
    pub len: u32,
}

/// Why a subscriber gets nothing from a ring though there may be something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It holds as many messages as it may.
    Held,
    /// Its publisher waited for it, and then went past it.
    Evicted,
    /// The ring contradicts itself: the next message is written over, and yet intact. Until it is [disbelieved](RingReader::disbelieve).
    Broken,
}

/// How many messages a subscriber may hold of a ring, and how it protects them where its publisher may go past it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Messages that may be received and not yet released. As many as the ring has slots: there is no limit but the ring's own.
    pub most: u64,
    /// The rules by which its publisher goes past it.
    pub overrun: Option<Overrun>,
}

/// What is out of a ring whose messages are copied: a copy is released in the ring at once.
#[derive(Debug)]
struct Copies {
    /// Copies that messages and batches read, which borrow this ring.
    lent: Cell<u64>,
    /// Copies that are held, and borrow nothing.
    held: Cell<u64>,
    /// How many may be out.
    most: u64,
}

impl Copies {
    /// How many are out.
    fn count(&self) -> u64 {
        self.lent.get() + self.held.get()
    }
}

/// The subscriber's half of one ring.
pub struct RingReader<B: Backend> {
    ring: B::Ring,
    reader: B::Reader,
    index: usize,
    /// The next sequence to receive.
    next: Cell<u64>,
    /// Everything below it is released: what the shared cursor says.
    tail: Cell<u64>,
    /// Released out of order, above `tail`.
    early: Early,
    /// Messages that may be received and not yet released: at most the depth.
    most: u64,
    /// Where the publisher may go past: then `tail` and `early` are not used.
    shield: Option<Shield>,
    refused: Cell<Option<Refused>>,
    /// No message will follow the last one that is committed: its publisher is gone.
    ended: Cell<bool>,
    /// The owner has been told of the end.
    end_seen: Cell<bool>,
    alarm: Alarm,
    /// Wakes its publisher where that is parked, once that is known here.
    notify: OnceCell<B::Notify>,
    /// Wakes it where that is not known here.
    relay: OnceCell<B::Relay>,
    /// Batches that borrow this ring, also those without a message.
    batches: Cell<u32>,
    /// Where its messages are copied, so that its publisher cannot rewrite what is read.
    copies: Option<Copies>,
    /// Who publishes here, as the broker numbers them.
    publisher: u64,
}

impl<B: Backend> RingReader<B> {
    /// A reader of `ring`, whose cursor is number `index` of the segment, from sequence `start` on.
    pub fn new(
        ring: B::Ring,
        reader: B::Reader,
        index: usize,
        publisher: u64,
        start: u64,
        holding: Holding,
    ) -> Self {
        let early = Early::new(ring.depth());
        let most = holding.most.min(ring.depth());
        let this = Self {
            ring,
            reader,
            index,
            next: Cell::new(start),
            tail: Cell::new(start),
            early,
            most,
            shield: holding.overrun.map(|rules| Shield::new(rules, start)),
            refused: Cell::new(None),
            ended: Cell::new(false),
            end_seen: Cell::new(false),
            publisher,
            alarm: Alarm::default(),
            notify: OnceCell::new(),
            relay: OnceCell::new(),
            batches: Cell::new(0),
            copies: None,
        };
        this.store_cursor();
        this
    }

    /// The same, but its messages are to be copied: whoever receives one copies it, [releases](Self::release) it, and says that it is
    /// lent.
    pub fn copied(mut self, holding: Holding) -> Self {
        self.copies = Some(Copies {
            lent: Cell::new(0),
            held: Cell::new(0),
            most: holding.most + holding.overrun.map_or(0, |rules| rules.window),
        });
        // Nothing is ever out in the ring itself, so this makes each look at how many copies are.
        self.most = 0;
        self
    }

    /// Whether its messages are to be copied.
    #[inline(always)]
    pub fn copies(&self) -> bool {
        self.copies.is_some()
    }

    /// Whether as many copies are out as may be.
    #[inline(always)]
    fn lends_all(&self) -> bool {
        self.copies
            .as_ref()
            .is_some_and(|copies| copies.count() >= copies.most)
    }

    /// A copy is out, and borrows this ring.
    pub(super) fn lend(&self) {
        if let Some(copies) = &self.copies {
            copies.lent.set(copies.lent.get() + 1);
        }
    }

    /// So many copies that were lent are back.
    pub(super) fn unlend(&self, count: u64) {
        if let Some(copies) = &self.copies {
            copies.lent.set(copies.lent.get() - count);
        }
    }

    /// A copy that was lent is held from now on.
    pub(super) fn keep_lent(&self) {
        self.unlend(1);
        if let Some(copies) = &self.copies {
            copies.held.set(copies.held.get() + 1);
        }
    }

    /// A copy that was held is back.
    pub(super) fn unkeep(&self) {
        if let Some(copies) = &self.copies {
            copies.held.set(copies.held.get() - 1);
        }
    }

    /// The last message that was received could not be taken: it is the next again.
    pub(super) fn put_back(&self, sequence: u64) {
        if let Some(shield) = &self.shield {
            shield.take_back(sequence);
        }
        self.next.set(sequence);
    }

    /// The ring's memory.
    pub fn ring(&self) -> &B::Ring {
        &self.ring
    }

    /// Who publishes here, as the broker numbers them.
    pub fn publisher(&self) -> u64 {
        self.publisher
    }

    /// Which cursor of the reader segment is this ring's.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Starts over at the ring's present head less `history` messages, as far as there are so many.
    /// For a ring that was there before this subscriber joined, after the join's heavy fence.
    ///
    /// While a message or batch is outstanding it stays where it is.
    pub fn start_at_head(&self, history: u64) {
        if self.borrowed() {
            return;
        }
        let ignored = if self.shield.is_some() { REPLACED } else { 0 };
        let head = head::find::<B>(&self.ring, ignored);
        if let Some(shield) = &self.shield {
            // A start behind the floor is none of this subscriber's losses.
            let start = head.wrapping_sub(history.min(head));
            let (ring, reader) = (&self.ring, &self.reader);
            self.next
                .set(shield.protect::<B>(ring, reader, self.index, start));
            return;
        }
        // Never back behind what this cursor has released: its publisher may have written there.
        let back = history.min(head).min(head.wrapping_sub(self.tail.get()));
        let start = head.wrapping_sub(back);
        self.next.set(start);
        self.tail.set(start);
        self.store_cursor();
    }

    /// Receives the next message, if one is committed; none where this ring [refuses](Self::take_refusal).
    #[inline(always)]
    pub fn poll(&self) -> Option<Found> {
        self.poll_word().map(|word| self.found(word))
    }

    /// As [`poll`](Self::poll); gives the word that says where the message is, for [`found`](Self::found). A word comes back in a register from either way: a
    /// whole find would go through memory on both, and cost more than to look.
    #[inline(always)]
    pub(super) fn poll_word(&self) -> Option<u64> {
        match &self.shield {
            None => self.poll_plain(),
            Some(shield) => self.poll_shielded(shield),
        }
    }

    /// The message that was received last, of which this is the word.
    #[inline(always)]
    pub(super) fn found(&self, word: u64) -> Found {
        Found {
            sequence: self.next.get().wrapping_sub(1),
            place: (word >> 32) as u32,
            len: word as u32,
        }
    }

    /// From now on stamps of later messages say nothing: the ring has [contradicted itself](Refused::Broken), and its owner was told.
    pub fn disbelieve(&self) {
        if let Some(shield) = &self.shield {
            shield.disbelieve();
        }
    }

    /// Whether the publisher has gone past since this was last asked: then everything that it keeps follows.
    #[inline(always)]
    pub fn take_passed(&self) -> bool {
        self.shield.as_ref().is_some_and(Shield::take_passed)
    }

    /// Messages of this ring that were lost since the one received before the last.
    #[inline(always)]
    pub fn take_lost(&self) -> u64 {
        self.shield.as_ref().map_or(0, Shield::take_lost)
    }

    #[inline(always)]
    fn poll_plain(&self) -> Option<u64> {
        let sequence = self.next.get();
        let next = sequence.wrapping_add(1);
        let slot = self.ring.slot(sequence);
        // ORDERING: acquire pairs with the publisher's `PUBLISH_COMMIT`: the payload is seen whole.
        if B::load64(&slot.commit, site::RECEIVE_COMMIT) != next {
            return self.nothing(None);
        }
        if sequence.wrapping_sub(self.tail.get()) >= self.most && self.hands_out_all() {
            return self.nothing(Some(Refused::Held));
        }
        self.next.set(next);
        // ORDERING: written before the stamp.
        Some(B::load64(&slot.place, site::RELAXED))
    }

    #[inline(always)]
    fn nothing(&self, why: Option<Refused>) -> Option<u64> {
        self.refused.set(why);
        None
    }

    /// Why the last poll, which got nothing, did so though there may be something; said once.
    #[inline(always)]
    pub fn take_refusal(&self) -> Option<Refused> {
        self.refused.take()
    }

    /// Receives the next message if it follows the last one without a gap and is protected with it, for a batch. Nothing is passed over:
    /// whatever else there is, the next [`poll`](Self::poll) finds.
    #[inline(always)]
    pub(super) fn poll_following(&self) -> Option<Found> {
        let word = match &self.shield {
            None => self.poll_plain(),
            Some(shield) => self.poll_window(shield),
        }?;
        Some(self.found(word))
    }

    /// Whether there is something to receive, or to be told: a message, a loss, or a refusal.
    #[inline(always)]
    pub fn ready(&self) -> bool {
        let sequence = self.next.get();
        let slot = self.ring.slot(sequence);
        let next = sequence.wrapping_add(1);
        // ORDERING: as in `poll`: who sees nothing more after an end sees the last message.
        let stamp = B::load64(&slot.commit, site::RECEIVE_COMMIT);
        let shield = self.shield.as_ref();
        stamp == next || shield.is_some_and(|shield| shield.is_passed(stamp, next))
    }

    /// Releases a message that was received. Its slot and span go back to the publisher when all before it are released as well.
    ///
    /// It stays a call, with two words in registers: so the drop of a message is small enough to be inlined, and the
    /// message itself need not lie in memory.
    #[inline(never)]
    pub fn release(&self, sequence: u64) {
        self.release_range(sequence, sequence.wrapping_add(1));
    }

    /// Releases the messages from `first` up to but not including `end`, with one store of the cursor.
    #[inline(always)]
    pub fn release_range(&self, first: u64, end: u64) {
        if let Some(shield) = &self.shield {
            return self.release_shielded(shield, first, end);
        }
        if first == self.tail.get() && self.early.count() == 0 {
            self.release_to(end);
        } else {
            self.release_out_of_order(first, end);
        }
    }

    #[cold]
    fn release_out_of_order(&self, first: u64, end: u64) {
        if first == self.tail.get() {
            self.release_to(self.early.take_from(end));
        } else {
            self.early.mark_range(first, end);
        }
    }

    #[inline(always)]
    fn release_to(&self, end: u64) {
        self.tail.set(end);
        self.store_cursor();
        self.wake_publisher(site::RELEASE_WAKES);
    }

    #[inline(always)]
    fn store_cursor(&self) {
        // ORDERING: release pairs with the publisher's `PUBLISH_CURSOR`: reads of what is released are over.
        B::store64(
            self.reader.cursor(self.index),
            self.tail.get(),
            site::RELEASE_CURSOR,
        );
    }

    /// Wakes the publisher if it sleeps for something that this subscriber has changed.
    #[inline(always)]
    pub(super) fn wake_publisher(&self, call: WakeUp) {
        if !B::makes(call) {
            return;
        }
        B::light_fence(site::RELEASE_FENCE);
        if self.alarm.due::<B>(&self.ring.header().waiting.0) {
            self.wake();
        }
    }

    /// Wakes the publisher as it sleeps.
    #[cold]
    fn wake(&self) {
        match self.alarm.take::<B>(&self.ring.header().waiting.0) {
            Some(Call::Bell) if B::makes(site::PUBLISHER_BELL) => {
                ring_bell::<B>(&self.reader.header().bell.bell);
            }
            Some(Call::Notify) => match (self.notify.get(), self.relay.get()) {
                (Some(notify), _) if B::makes(site::PUBLISHER_DOORBELL) => B::notify(notify),
                (None, Some(relay)) if B::makes(site::PUBLISHER_RELAY) => B::relay(relay),
                _ => {}
            },
            _ => {}
        }
    }

    /// Its publisher may park from now on, and is woken so. The first one holds.
    pub fn set_notify(&self, notify: B::Notify) {
        let _ = self.notify.set(notify);
    }

    /// From now on wakes its publisher through this while it cannot do so itself. The first one holds.
    pub fn set_relay(&self, relay: B::Relay) {
        let _ = self.relay.set(relay);
    }

    /// Messages that were received and not given back yet, in place or copied.
    pub fn outstanding(&self) -> u64 {
        self.unreleased() + self.copies.as_ref().map_or(0, Copies::count)
    }

    /// Messages received and not yet released.
    fn unreleased(&self) -> u64 {
        if let Some(shield) = &self.shield {
            return shield.outstanding();
        }
        self.next.get().wrapping_sub(self.tail.get()) - self.early.count()
    }

    /// Whether as many messages are out as may be.
    #[inline(never)]
    fn hands_out_all(&self) -> bool {
        match &self.copies {
            Some(copies) => copies.count() >= copies.most,
            // A publisher that is honest stays within the depth of the cursor, whatever was released early.
            None => {
                let ahead = self.next.get().wrapping_sub(self.tail.get());
                ahead >= self.ring.depth() || self.unreleased() >= self.most
            }
        }
    }

    /// Messages lost so far, of those that were there to receive since this subscriber started.
    pub fn lost(&self) -> u64 {
        self.shield.as_ref().map_or(0, Shield::lost_in_all)
    }

    /// A batch begins to borrow this ring.
    pub(super) fn open_batch(&self) {
        self.batches.set(self.batches.get() + 1);
    }

    /// A batch is dropped, and does not touch this ring again.
    pub(super) fn close_batch(&self) {
        self.batches.set(self.batches.get() - 1);
    }

    /// Whether somebody borrows this ring: a batch, or a message that is not given back.
    pub fn borrowed(&self) -> bool {
        let lent = self.copies.as_ref().map_or(0, |copies| copies.lent.get());
        self.batches.get() > 0 || self.unreleased() > 0 || lent > 0
    }

    /// The publisher is gone, as the kernel knows: what is committed is all there will be.
    pub fn end(&self) {
        self.ended.set(true);
    }

    /// The publisher is gone, and its index goes to another one: what was not received is lost. Only where publishers
    /// may go past subscribers; on another topic this is an [`end`](Self::end).
    pub fn abandon(&self) {
        self.end();
        let Some(shield) = &self.shield else {
            return;
        };
        if !shield.is_evicted() {
            let head = head::find::<B>(&self.ring, REPLACED);
            let unread = head.wrapping_sub(self.next.get());
            // What a hostile ring claims may lie behind.
            if unread as i64 > 0 {
                shield.lose(unread);
                self.next.set(head);
            }
        }
    }

    /// Whether the ring has ended: no message is added any more.
    ///
    /// A clean end is read from the ring itself, so it needs no broker.
    pub fn closed(&self) -> bool {
        if !self.ended.get() {
            // ORDERING: acquire pairs with the publisher's `CLOSE_STATE`: the last message is seen before the end.
            let state = B::load32(&self.ring.header().bell.state, site::RECEIVE_STATE);
            self.ended.set(state == CLOSED);
        }
        self.ended.get()
    }

    /// Whether the ring has ended and everything in it was received.
    pub fn drained(&self) -> bool {
        let ended = self.closed();
        let evicted = self.shield.as_ref().is_some_and(Shield::is_evicted);
        ended && (evicted || !self.ready())
    }

    /// Whether the ring is drained and its owner has not been told.
    pub fn end_unseen(&self) -> bool {
        !self.end_seen.get() && self.drained()
    }

    /// Whether the ring is drained, said once.
    pub fn take_end(&self) -> bool {
        self.end_unseen() && !self.end_seen.replace(true)
    }

    /// The sequence number that comes next.
    #[inline(always)]
    pub fn next(&self) -> u64 {
        self.next.get()
    }

    /// Gives the cursor back for the next ring with this index. Nothing may be outstanding.
    pub fn give_back(&self) {
        // ORDERING: the broker is told through a socket afterwards.
        B::store64(self.reader.cursor(self.index), 0, site::RELAXED);
    }

    /// The word that its publisher rings, and what it holds now.
    pub(super) fn bell(&self) -> (&B::Word32, u32) {
        let bell = &self.ring.header().bell.bell;
        // ORDERING: an old value makes the kernel return at once.
        (bell, B::load32(bell, site::RELAXED))
    }
}
