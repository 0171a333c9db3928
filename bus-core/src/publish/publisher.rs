//! A publisher on mapped memory: bytes and values go in, committed messages come out.
//!
//! Promises: a call that does not return a sequence number left the ring as it was. It asks its owner to look at
//! [`stale`](Publisher::stale) before each call, and to wait with [`sleep`](Publisher::sleep) when there is no
//! room. It does not talk to the broker.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rkyv::ser::allocator;
use rkyv::util::AlignedVec;

use super::arena::Arena;
use super::floor::Overdue;
use super::ring::{Claim, RingPublisher};
use super::serialise::{Fit, Payload, check_levels, into_span, may_be_deep, measure, measure_into};
use crate::backend::{MappedReader, MappedRing, Native, ReaderMemory};
use crate::fork::{Unshared, unshared};
use crate::memory::layout::{NOWHERE, READER_MAGIC, RING_MAGIC};
use crate::memory::placement::{Placement, PlacementReport};
use crate::memory::registry::Seat;
use crate::memory::segment::{self, Kind, Mapping};
use crate::memory::{reader_bytes, registry, ring_bytes};
use crate::schema::Nesting;
use crate::wake::{Poked, Relay};
use crate::{Delivery, Error, Result, TopicSettings};

/// A value that is offered again and again until there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// There is none, as far as is known.
    Not,
    /// It was not measured yet.
    Unknown,
    /// It needs so many bytes.
    Needs(u64),
}

/// Writes one topic's messages into its own ring.
pub struct Publisher {
    ring: RingPublisher<Native>,
    fd: Arc<Unshared<OwnedFd>>,
    seat: Seat,
    settings: TopicSettings,
    max_payload: usize,
    scratch: allocator::Arena,
    /// Where a message is built that nobody will get: see [`NOWHERE`].
    nowhere: AlignedVec,
    /// The last value did not fit a slot: try the arena first.
    spilled: bool,
    /// Bytes of the last value that went to the arena.
    last_spilled: u64,
    /// How deep values of its type may nest, once it had to know.
    nesting: Option<Nesting>,
    /// What is known of the value that waits for room.
    waiting: Waiting,
    placement: Placement,
    /// What became of it.
    report: PlacementReport,
}

impl Publisher {
    /// Makes the ring of publisher number `index` of a topic.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where there is no room for the ring; [`Error::Segment`] where `registry` is none;
    /// [`Error::Unsupported`] where the kernel lacks what the bus is made of.
    pub fn create(settings: &TopicSettings, registry: &impl AsFd, index: u16) -> Result<Self> {
        Self::create_placed(settings, registry, index, Placement::default())
    }

    /// As [`create`](Self::create); the ring is placed as asked, as far as that can be had: see [`placement`](Self::placement).
    ///
    /// # Errors
    /// As for [`create`](Self::create); [`Error::Node`] where there is no such NUMA node.
    pub fn create_placed(
        settings: &TopicSettings,
        registry: &impl AsFd,
        index: u16,
        placement: Placement,
    ) -> Result<Self> {
        let settings = settings.check()?;
        if index >= settings.rings() {
            return Err(Error::Control(format!("ring index {index} is too high")));
        }
        Native::prepare()?;
        let (registry, mut report) = registry::open_placed(registry, &placement)?;
        let seat = Seat::new(&registry, &placement);
        let (fd, mapping) = segment::create_placed(Kind::Ring, ring_bytes(&settings), &placement)?;
        report.merge(mapping.report().clone());
        let fd = Unshared::new(|| Ok(fd)).map_err(unshared)?;
        let ring = MappedRing::new(Arc::new(mapping), &settings);
        ring.identify(RING_MAGIC);
        let inline = u64::from(ring.inline());
        let mut arena = Arena::new(settings.arena, u64::from(settings.depth));
        if settings.tight_arena() {
            arena = arena.in_cells(settings.max_payload);
        }
        let keep = u64::from(settings.keep);
        let index = usize::from(index);
        let overrun = settings.overrun();
        let mut ring = RingPublisher::new(ring, registry, index, 0, keep, inline, arena, overrun);
        if !settings.keeps_longest() {
            ring.set_scarce();
        }
        Ok(Self {
            ring,
            fd: Arc::new(fd),
            seat,
            settings,
            max_payload: settings.max_payload as usize,
            scratch: allocator::Arena::new(),
            nowhere: AlignedVec::new(),
            spilled: false,
            last_spilled: 0,
            nesting: None,
            waiting: Waiting::Not,
            placement,
            report,
        })
    }

    /// What became of the placement that was asked for, of the ring and of the segments of others that this publisher maps.
    pub fn placement(&self) -> &PlacementReport {
        &self.report
    }

    /// The ring's descriptor, to register.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The same, for who registers it again after this handle's owner.
    pub fn segment(&self) -> &Arc<Unshared<OwnedFd>> {
        &self.fd
    }

    /// Where its registry lies.
    pub fn seat(&self) -> &Seat {
        &self.seat
    }

    /// See [`RingPublisher::stale`].
    #[inline(always)]
    pub fn stale(&mut self) -> Option<u32> {
        self.ring.stale()
    }

    /// See [`RingPublisher::set_version`].
    pub fn set_version(&mut self, version: u32) {
        self.ring.set_version(version);
    }

    /// Checks and maps a subscriber's segment, then waits for it and wakes it from now on. A segment that was made before
    /// the topic was decided may be longer than the settings need.
    ///
    /// # Errors
    /// [`Error::Segment`] where it is not one, or is too short.
    pub fn adopt(&mut self, id: u64, reader: &impl AsFd) -> Result<()> {
        let bytes = reader_bytes(&self.settings);
        let mapping = segment::open_first(reader, Kind::Reader, bytes, &self.placement)?;
        self.adopt_mapped(id, mapping)
    }

    /// As [`adopt`](Self::adopt), of a segment that is mapped already.
    ///
    /// # Errors
    /// [`Error::Segment`] where it is not one.
    pub fn adopt_mapped(&mut self, id: u64, mapping: Mapping) -> Result<()> {
        self.report.merge(mapping.report().clone());
        let reader = MappedReader::new(Arc::new(mapping), &self.settings);
        reader.header().identity.check(Kind::Reader, READER_MAGIC)?;
        self.ring.adopt(id, reader);
        Ok(())
    }

    /// See [`RingPublisher::set_notify`]. The descriptor is one that [`check`](crate::backend::doorbell::check) passed.
    pub fn set_notify(&mut self, id: u64, notify: OwnedFd) {
        self.ring.set_notify(id, notify);
    }

    /// See [`RingPublisher::set_relay`].
    pub fn set_relay(&mut self, relay: Arc<dyn Relay>) {
        self.ring.set_relay(relay);
    }

    /// See [`RingPublisher::park`].
    pub fn park(&mut self) -> bool {
        self.ring.park()
    }

    /// See [`RingPublisher::unpark`].
    pub fn unpark(&mut self) {
        self.ring.unpark();
    }

    /// See [`RingPublisher::drop_follower`].
    pub fn drop_follower(&mut self, id: u64) {
        self.ring.drop_follower(id);
    }

    /// Number of subscribers.
    pub fn followers(&self) -> usize {
        self.ring.followers()
    }

    /// See [`RingPublisher::has_joined`].
    pub fn has_joined(&self, id: u64) -> bool {
        self.ring.has_joined(id)
    }

    /// See [`RingPublisher::has_left`].
    pub fn has_left(&self, id: u64) -> bool {
        self.ring.has_left(id)
    }

    /// See [`RingPublisher::joined`].
    pub fn joined(&self) -> usize {
        self.ring.joined()
    }

    /// See [`RingPublisher::joining`].
    pub fn joining(&self) -> usize {
        self.ring.joining()
    }

    /// See [`RingPublisher::is_foreign`].
    pub fn is_foreign(&self) -> bool {
        self.ring.is_foreign()
    }

    /// See [`RingPublisher::park_for_subscribers`].
    pub fn park_for_subscribers(&mut self, known: usize) -> bool {
        self.ring.park_for_subscribers(known)
    }

    /// See [`RingPublisher::sleep_for_subscribers`].
    pub fn sleep_for_subscribers(
        &mut self,
        known: usize,
        poke: Option<Poked<'_>>,
        deadline: Option<Instant>,
    ) {
        let poke = poke.map(Poked::word);
        self.ring.sleep_for_subscribers(known, poke, deadline);
    }

    /// The subscriber furthest behind and its lag in messages, when room was last looked for.
    pub fn slowest(&self) -> Option<(u64, u64)> {
        self.ring.slowest()
    }

    /// No room was found: evicts who has held this publisher up for as long as the topic allows.
    #[cold]
    pub fn evict_stalled(&mut self) -> Overdue {
        let Delivery::Evict { after_us } = self.settings.delivery else {
            return Overdue::No;
        };
        self.ring.evict_stalled(Duration::from_micros(after_us))
    }

    /// See [`RingPublisher::has_evicted`].
    pub fn has_evicted(&self, id: u64) -> bool {
        self.ring.has_evicted(id)
    }

    /// See [`RingPublisher::nowhere`].
    pub fn nowhere(&self) -> u64 {
        self.ring.nowhere()
    }

    /// The sequence number of the next message.
    pub fn head(&self) -> u64 {
        self.ring.head()
    }

    /// Sleeps until there may be room. See [`RingPublisher::sleep`].
    pub fn sleep(&mut self, deadline: Option<Instant>) {
        self.ring.sleep(None, deadline);
    }

    /// As [`sleep`](Self::sleep); also ends when the word was poked since it was looked at.
    pub fn sleep_or_poked(&mut self, poke: Poked<'_>, deadline: Option<Instant>) {
        self.ring.sleep(Some(poke.word()), deadline);
    }

    /// The same value is offered from now on until [`end_wait`](Self::end_wait), or until it is published. It is measured, not
    /// serialised, while there is no room for it.
    #[cold]
    pub fn begin_wait(&mut self) {
        self.waiting = Waiting::Unknown;
    }

    /// What is offered next may be another value.
    #[cold]
    pub fn end_wait(&mut self) {
        self.waiting = Waiting::Not;
    }

    /// Publishes a value; its sequence number, or none where there is no room.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Serialise`]; the ring is as it was.
    #[inline(always)]
    pub fn try_send<T: Payload>(&mut self, value: &T) -> Result<Option<u64>> {
        let sent = self.try_put(value)?;
        if sent.is_some() {
            self.ring.announce();
        }
        Ok(sent)
    }

    /// Publishes bytes; their sequence number, or none where there is no room.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; the ring is as it was.
    #[inline(always)]
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> Result<Option<u64>> {
        let sent = self.try_put_bytes(bytes)?;
        if sent.is_some() {
            self.ring.announce();
        }
        Ok(sent)
    }

    #[inline(always)]
    fn try_put<T: Payload>(&mut self, value: &T) -> Result<Option<u64>> {
        if !self.spilled {
            let Ok(claim) = self.ring.claim(0) else {
                return self.find_no_room(value);
            };
            if let Some(len) = self.serialise(value, claim)? {
                return Ok(Some(self.commit(claim, len)));
            }
            self.spilled = true;
        }
        self.try_put_spilled(value)
    }

    /// Serialises into the arena: first into what is free there, then into as much as is needed.
    #[inline(never)]
    fn try_put_spilled<T: Payload>(&mut self, value: &T) -> Result<Option<u64>> {
        let mut capacity = match self.waiting {
            Waiting::Needs(len) => len,
            Waiting::Not | Waiting::Unknown => {
                let longest = self.ring.longest(self.last_spilled);
                longest.min(self.max_payload as u64)
            }
        };
        loop {
            let Ok(claim) = self.ring.claim(capacity) else {
                return self.find_no_room(value);
            };
            let mut span = self.span(claim, claim.capacity as usize);
            // SAFETY: as in `serialise`.
            let span = unsafe { span.as_mut() };
            match measure_into(value, span, &mut self.scratch)? {
                Fit::Takes(len) => {
                    if may_be_deep(len) {
                        self.check_levels::<T>(&span[..len as usize])?;
                    }
                    self.spilled = u64::from(len) > u64::from(self.ring.ring().inline());
                    self.last_spilled = u64::from(len);
                    return Ok(Some(self.commit(claim, len)));
                }
                Fit::Needs(len) => capacity = self.check_len(len)?,
            }
        }
    }

    /// There is no room for a value. One that waits for it is measured once: there may never be any.
    #[cold]
    #[inline(never)]
    fn find_no_room<T: Payload>(&mut self, value: &T) -> Result<Option<u64>> {
        if self.waiting == Waiting::Unknown {
            let len = measure(value, &mut self.scratch)?;
            let len = self.check_len(len)?;
            self.spilled = len > u64::from(self.ring.ring().inline());
            self.waiting = Waiting::Needs(len);
        }
        self.no_room()
    }

    fn check_len(&mut self, len: usize) -> Result<u64> {
        if len > self.max_payload {
            self.spilled = false;
            return Err(Error::TooLarge {
                len,
                limit: self.max_payload,
            });
        }
        Ok(len as u64)
    }

    #[inline(always)]
    fn serialise<T: Payload>(&mut self, value: &T, claim: Claim) -> Result<Option<u32>> {
        let mut span = self.span(claim, claim.capacity as usize);
        // SAFETY: the claim gives this publisher the span until it is committed or dropped, and `self` is
        // borrowed for as long; what lies nowhere is a buffer of its own.
        let span = unsafe { span.as_mut() };
        let len = into_span(value, span, &mut self.scratch)?;
        if let Some(len) = len.filter(|len| may_be_deep(*len)) {
            self.check_levels::<T>(&span[..len as usize])?;
        }
        Ok(len)
    }

    /// A publisher sends values of one type.
    #[inline(never)]
    fn check_levels<T: Payload>(&mut self, payload: &[u8]) -> Result<()> {
        let nesting = *self.nesting.get_or_insert_with(Nesting::of::<T>);
        check_levels::<T>(payload, nesting)
    }

    #[inline(always)]
    fn try_put_bytes(&mut self, bytes: &[u8]) -> Result<Option<u64>> {
        let Some(claim) = self.claim(bytes.len())? else {
            return Ok(None);
        };
        let mut span = self.span(claim, bytes.len());
        // SAFETY: as in `serialise`.
        unsafe { span.as_mut() }.copy_from_slice(bytes);
        Ok(Some(self.commit(claim, bytes.len() as u32)))
    }

    #[inline(always)]
    fn claim(&mut self, len: usize) -> Result<Option<Claim>> {
        if len > self.max_payload {
            return Err(Error::TooLarge {
                len,
                limit: self.max_payload,
            });
        }
        match self.ring.claim(len as u64) {
            Ok(claim) => Ok(Some(claim)),
            Err(_) => self.no_room(),
        }
    }

    /// What to say where a claim failed: none where waiting may help.
    #[cold]
    fn no_room<R>(&self) -> Result<Option<R>> {
        if self.ring.only_kept() {
            return Err(Error::Kept {
                keep: self.settings.keep,
                arena: self.settings.arena,
            });
        }
        Ok(None)
    }

    /// Whether there is room for a message of `len` bytes now.
    pub fn has_room(&mut self, len: u64) -> bool {
        let claim = self.ring.claim(len);
        claim.is_ok_and(|claim| claim.place != NOWHERE)
    }

    /// See [`RingPublisher::refuse_losses`].
    pub fn refuse_losses(&mut self) {
        self.ring.refuse_losses();
    }

    /// See [`RingPublisher::keep_from`].
    pub fn keep_from(&mut self, sequence: u64) {
        self.ring.keep_from(sequence);
    }

    /// The first `len` bytes of a claim, which are at most its capacity.
    #[inline(always)]
    fn span(&mut self, claim: Claim, len: usize) -> NonNull<[u8]> {
        if claim.place == NOWHERE {
            return self.span_nowhere(len);
        }
        let start = self
            .ring
            .ring()
            .payload(claim.sequence, claim.place, len as u32);
        NonNull::slice_from_raw_parts(
            start.unwrap_or(NonNull::dangling()),
            start.map_or(0, |_| len),
        )
    }

    #[cold]
    fn span_nowhere(&mut self, len: usize) -> NonNull<[u8]> {
        self.nowhere.resize(len, 0);
        NonNull::from(self.nowhere.as_mut_slice())
    }

    #[inline(always)]
    fn commit(&mut self, claim: Claim, len: u32) -> u64 {
        self.ring.commit(claim, len);
        claim.sequence
    }

    /// Claims room for a message of `len` bytes, to be built in place; none where there is no room.
    ///
    /// The bytes are what an older message left there.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    #[inline(always)]
    pub fn try_loan(&mut self, len: usize) -> Result<Option<Slot<'_>>> {
        let Some(claim) = self.claim(len)? else {
            return Ok(None);
        };
        let span = self.span(claim, len);
        Ok(Some(Slot {
            span,
            place: claim.place,
            publisher: self,
        }))
    }

    /// Whether the next claim of `len` bytes finds the next slot free, without a look at anything. False says nothing.
    #[inline(always)]
    pub fn has_slot(&self, len: usize) -> bool {
        self.ring.has_room() && len <= self.ring.ring().inline() as usize
    }

    /// Starts a batch: up to as many messages as there is room for now, with one look at the sleepers.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch {
            left: self.ring.batch_limit(),
            sent: 0,
            publisher: self,
        }
    }

    /// Ends the ring: subscribers read what is in it and then see its end.
    pub fn close(&mut self) {
        self.ring.close();
    }
}

/// A message under construction, in place. Dropping it publishes nothing.
pub struct Slot<'a> {
    span: NonNull<[u8]>,
    /// Of its claim; the sequence is the publisher's next one, as nothing else is published while this is there.
    place: u32,
    publisher: &'a mut Publisher,
}

// SAFETY: the span belongs to the publisher that is borrowed here, which may move between threads.
unsafe impl Send for Slot<'_> {}

impl Slot<'_> {
    /// The payload so far.
    #[inline(always)]
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the claim gives this publisher the span until it is committed or dropped.
        unsafe { self.span.as_mut() }
    }

    /// Publishes the first `len` bytes, or all of them where it is longer; the sequence number.
    #[inline(always)]
    pub fn commit(self, len: usize) -> u64 {
        let len = len.min(self.span.len()) as u32;
        let claim = Claim {
            sequence: self.publisher.ring.head(),
            place: self.place,
            capacity: self.span.len() as u64,
        };
        let sequence = self.publisher.commit(claim, len);
        self.publisher.ring.announce();
        sequence
    }
}

/// Messages published together. Each is visible at once; sleepers are woken when the batch is dropped.
pub struct Batch<'a> {
    publisher: &'a mut Publisher,
    left: u64,
    sent: u64,
}

impl Batch<'_> {
    /// Publishes a value; its sequence number, or none where the batch is full.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Serialise`]; what was published before stays so.
    #[inline(always)]
    pub fn push<T: Payload>(&mut self, value: &T) -> Result<Option<u64>> {
        self.step(|publisher| publisher.try_put(value))
    }

    /// Publishes bytes; their sequence number, or none where the batch is full.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; what was published before stays so.
    #[inline(always)]
    pub fn push_bytes(&mut self, bytes: &[u8]) -> Result<Option<u64>> {
        self.step(|publisher| publisher.try_put_bytes(bytes))
    }

    #[inline(always)]
    fn step(
        &mut self,
        put: impl FnOnce(&mut Publisher) -> Result<Option<u64>>,
    ) -> Result<Option<u64>> {
        if self.left == 0 {
            return Ok(None);
        }
        let sent = put(self.publisher)?;
        if sent.is_some() {
            self.left -= 1;
            self.sent += 1;
        }
        Ok(sent)
    }

    /// Messages published so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.sent > 0 {
            self.publisher.ring.announce();
        }
    }
}

const _: () = {
    const fn send<T: Send>() {}
    send::<Publisher>();
};
