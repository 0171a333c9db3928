//! Many rings, read fairly, slept on at once; over any backend.
//!
//! Promises: a ring with messages is read after at most [`TURN`] messages of each other one; a sleep ends when any publisher
//! publishes or closes, or when the set of publishers moves. It asks its owner to look at
//! [`stale`](Receiver::stale) before it polls, and to attach and end rings until that version is
//! reached; and to park instead of sleeping where the topic [is foreign](Receiver::is_foreign).

use std::cell::{Cell, OnceCell, UnsafeCell};
use std::sync::Arc;
use std::time::Instant;

use super::ring::{Found, Refused, RingReader};
use crate::backend::{Backend, ReaderMemory, RingMemory, WakeUp, site};
use crate::memory::layout::{JOINED, LEFT};
use crate::memory::registry::is_foreign;
use crate::wake::{MAX_WORDS, Sleeper, ring as ring_bell};

/// Messages in a row from one ring while others may have some.
const TURN: u32 = 32;
/// Words that a sleep watches beside the rings' bells, at most: the version, the word that pokes the subscriber, and
/// the bell of messages that were given back.
const OTHER_WORDS: usize = 3;

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
    /// Messages lost of rings that were let go of.
    lost: Cell<u64>,
    /// Wakes publishers that are parked and not known here.
    relay: OnceCell<B::Relay>,
}

// SAFETY: a receiver owns its rings: no `Arc` of them leaves it, so whole it may move to another thread.
unsafe impl<B: Backend> Send for Receiver<B>
where
    B::Ring: Send,
    B::Reader: Send,
    B::Registry: Send,
    B::Notify: Send,
    B::Relay: Send,
{
}

impl<B: Backend> Drop for Receiver<B> {
    /// Leaves: no publisher waits for this subscriber any more, also where no broker is there to say so.
    fn drop(&mut self) {
        let bell = &self.reader.header().bell;
        // ORDERING: release pairs with the publishers' `PUBLISH_STATE`: reads of every message are over.
        B::store32(&bell.state, LEFT, site::LEAVE_STATE);
        self.wake_publishers(site::LEAVE_WAKES, site::LEAVE_BELL);
    }
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
            lost: Cell::new(0),
            relay: OnceCell::new(),
        }
    }

    /// Rings that are attached from now on wake through this whom they cannot wake themselves. The first one holds.
    pub fn set_relay(&self, relay: B::Relay) {
        let _ = self.relay.set(relay);
    }

    /// This publisher may park from now on, and is woken so. An unknown one is no error: it may have left before its ring was attached.
    pub fn set_notify(&self, publisher: u64, notify: B::Notify) {
        if let Some(ring) = self.rings().find(|ring| ring.publisher() == publisher) {
            ring.set_notify(notify);
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

    /// The broker has said that this subscriber takes part: the rings attached before start at their heads of now, less
    /// `history` messages, as far as there are so many. From its return on, whatever is published is received.
    pub fn joined(&self, history: u64) {
        // Between the version's move and the look at the heads; pairs with the publishers' fence after a commit.
        B::heavy_fence(site::JOIN_FENCE);
        for ring in self.rings() {
            ring.start_at_head(history);
        }
        // ORDERING: after the acquiring loads that found the heads: who sees this publishes above them.
        B::store32(&self.reader.header().bell.state, JOINED, site::RELAXED);
        self.wake_publishers(site::JOIN_WAKES, site::JOIN_BELL);
    }

    /// Wakes every publisher that waits for this subscriber: those that are parked as well as those that
    /// sleep on its bell. Among the latter may be some whose rings are not attached here.
    fn wake_publishers(&self, known: WakeUp, unknown: WakeUp) {
        B::light_fence(site::RELEASE_FENCE);
        if B::makes(unknown) {
            ring_bell::<B>(&self.reader.header().bell.bell);
        }
        for ring in self.rings() {
            ring.wake_publisher(known);
        }
    }

    /// The ring at this position of the list.
    #[inline(always)]
    pub fn ring(&self, position: usize) -> Option<&RingReader<B>> {
        // SAFETY: one thread uses a receiver, and the list itself is borrowed for this look only. The ring is
        // behind an `Arc`, so it stays where it is until `retire`, whose caller promises that nobody has it.
        unsafe { &*self.rings.get() }
            .get(position)
            .map(|ring| &**ring)
    }

    /// The rings read now; a list that may grow meanwhile.
    pub fn rings(&self) -> impl Iterator<Item = &RingReader<B>> {
        (0..).map_while(|position| self.ring(position))
    }

    /// Number of rings read now.
    #[inline(always)]
    pub fn len(&self) -> usize {
        // SAFETY: as for `ring`.
        unsafe { &*self.rings.get() }.len()
    }

    /// Whether no ring is read now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From now on reads this ring as well.
    pub fn attach(&self, ring: RingReader<B>) {
        if let Some(relay) = self.relay.get() {
            ring.set_relay(relay.clone());
        }
        // SAFETY: as for `ring`: nobody borrows the list now.
        unsafe { &mut *self.rings.get() }.push(Arc::new(ring));
    }

    /// Lets go of the rings of these publishers that have ended and that nobody borrows; says which indices that frees.
    ///
    /// # Safety
    /// No reference to a ring of this receiver is in use but those of messages and batches that it knows to be
    /// outstanding ([`RingReader::borrowed`]).
    pub unsafe fn retire(&self, publishers: &[u64]) -> Vec<usize> {
        let mut freed = Vec::new();
        // SAFETY: as for `ring`: nobody borrows the list now, and no ring that goes; what a backend does to a word does not
        // come back here.
        let rings = unsafe { &mut *self.rings.get() };
        rings.retain(|ring| {
            let go = publishers.contains(&ring.publisher()) && ring.drained() && !ring.borrowed();
            if go {
                self.lost.set(self.lost.get().wrapping_add(ring.lost()));
                ring.give_back();
                freed.push(ring.index());
            }
            !go
        });
        self.turn.set(0);
        freed
    }

    /// So many messages were lost of rings that are not attached.
    pub fn count_lost(&self, messages: u64) {
        self.lost.set(self.lost.get().wrapping_add(messages));
    }

    /// Messages lost so far, of all rings.
    pub fn lost(&self) -> u64 {
        // What a hostile ring claims may be as much as there is.
        let lost = self.rings().map(RingReader::lost);
        lost.fold(self.lost.get(), u64::wrapping_add)
    }

    /// The next message of any ring. It is outstanding until it is released at its ring. None also where the ring whose turn it is
    /// [refuses](Self::refusal).
    #[inline(always)]
    pub fn poll(&self) -> Option<(&RingReader<B>, Found)> {
        let (ring, word) = self.poll_word()?;
        Some((ring, ring.found(word)))
    }

    #[inline(always)]
    fn poll_word(&self) -> Option<(&RingReader<B>, u64)> {
        let left = self.left.get();
        if left > 0
            && let Some(ring) = self.ring(self.turn.get())
            && let Some(word) = ring.poll_word()
        {
            self.left.set(left - 1);
            return Some((ring, word));
        }
        self.poll_other()
    }

    /// The next message of the next ring that has one.
    #[inline(never)]
    fn poll_other(&self) -> Option<(&RingReader<B>, u64)> {
        if let Some(ring) = self.ring(self.turn.get()) {
            // What it says now is not the reason of a later poll.
            ring.take_refusal();
        }
        let ring = self.select_next()?;
        Some((ring, ring.poll_word()?))
    }

    /// Why the last poll found nothing though there may be something: the ring whose turn it was, and its reason. Then it is the
    /// next ring's turn.
    #[inline(always)]
    pub fn refusal(&self) -> Option<(&RingReader<B>, Refused)> {
        let ring = self.ring(self.turn.get())?;
        let refused = ring.take_refusal()?;
        self.left.set(0);
        Some((ring, refused))
    }

    /// Gives the turn to the next ring that has a message.
    #[inline(never)]
    fn select_next(&self) -> Option<&RingReader<B>> {
        let rings = self.len();
        let mut turn = self.turn.get();
        for _ in 0..rings {
            turn = if turn + 1 >= rings { 0 } else { turn + 1 };
            if let Some(ring) = self.ring(turn).filter(|ring| ring.ready()) {
                self.turn.set(turn);
                self.left.set(TURN - 1);
                return Some(ring);
            }
        }
        None
    }

    /// A ring with messages, other than the last where there is one, for reading many at once.
    pub fn select_other(&self) -> Option<&RingReader<B>> {
        self.left.set(0);
        self.select_next()
    }

    /// Whether a poll would find something; for who waits.
    #[inline(always)]
    pub fn has_message(&self) -> bool {
        self.rings().any(|ring| {
            // Asked for before the stamp is, it comes together with it.
            ring.ring().foresee();
            ring.ready()
        })
    }

    /// Whether a poll, or a look at the ends, would find something.
    pub fn ready(&self) -> bool {
        self.stale().is_some() || self.rings().any(|ring| ring.ready() || ring.end_unseen())
    }

    /// Sleeps until the set of publishers moves, until `extra` no longer holds its value, or until the
    /// deadline. May return early.
    #[cold]
    pub fn sleep_for_publishers(
        &self,
        extra: Option<(&B::Word32, u32)>,
        deadline: Option<Instant>,
    ) {
        // The broker wakes who sleeps here with every move, so there is nothing to announce.
        let publishers = (&self.registry.publishers.0, self.version.get());
        match extra {
            Some(extra) => B::sleep(&[publishers, extra], deadline),
            None => B::sleep(&[publishers], deadline),
        }
    }

    /// Parks: from now on its doorbell is rung when a publisher publishes or closes. After a heavy fence, which several may share, look
    /// whether it is [`ready`](Self::ready); then sleep or [`unpark`](Self::unpark).
    pub fn park(&self) {
        self.sleeper.park::<B>(&self.reader.header().waiting.0);
    }

    /// Is awake again, after [`park`](Self::park).
    pub fn unpark(&self) {
        self.sleeper.retract::<B>(&self.reader.header().waiting.0);
    }

    /// Whether the topic has had members of more than one user: one of them could move whoever
    /// sleeps on a shared word to a word that nobody wakes. Once it is so, it stays so at this
    /// broker. To be asked before each sleep.
    pub fn is_foreign(&self) -> bool {
        is_foreign(&self.registry, &self.registry.publishers)
    }

    /// Whether one [`sleep`](Self::sleep) cannot watch the bells of all rings: their owner parks instead. Changes only
    /// when rings are attached or let go of.
    pub fn must_park(&self) -> bool {
        self.len() > MAX_WORDS - OTHER_WORDS
    }

    /// Sleeps until [`ready`](Self::ready), until one of `extra` (two at most) no longer holds its value, or until
    /// the deadline.
    ///
    /// May return early. Returns at once where its owner [must park](Self::must_park): a bell that is not watched would
    /// not end the sleep.
    #[cold]
    pub fn sleep(&self, extra: &[(&B::Word32, u32)], deadline: Option<Instant>) {
        if self.must_park() {
            return;
        }
        let publishers = (&self.registry.publishers.0, self.version.get());
        let mut words = [publishers; MAX_WORDS];
        debug_assert!(
            extra.len() < OTHER_WORDS,
            "there is room for two more words"
        );
        let bells = self.rings().map(|ring| ring.bell());
        let mut count = 1;
        let all = extra.iter().copied().chain(bells);
        for (word, bell) in words[1..].iter_mut().zip(all) {
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
