//! A subscriber on mapped memory: hands out messages, in place or copied, as it is to [trust](Trust) their publisher.
//!
//! Promises: a message handed out stays mapped and unchanged until it is dropped; several may be out at once, and dropped in
//! any order. A [`Held`] one outlives the subscriber. It does not talk to the broker.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use super::copies::{Chain, Spares};
use super::head;
use super::held::{Desk, Returned};
use super::message::{Arrival, Batch, Message, copy, payload, refuse};
use super::receiver::Receiver;
use super::ring::{Holding, RingReader};
use crate::backend::doorbell::Doorbell;
use crate::backend::{MappedReader, MappedRing, Native, ReaderMemory};
use crate::control::Trust;
use crate::fork::{Birth, Unshared, unshared};
use crate::memory::layout::{READER_MAGIC, REPLACED, RING_MAGIC};
use crate::memory::placement::{Placement, PlacementReport};
use crate::memory::registry::Seat;
use crate::memory::segment::{self, Handed, Kind, Mapping};
use crate::memory::{reader_bytes, registry, ring_bytes, undecided_reader_bytes};
use crate::wake::{Poked, Relay};
use crate::{Error, Result, TopicSettings};

/// Reads one topic's messages from the rings of its publishers.
pub struct Subscriber {
    /// None only while it is dropped.
    receiver: Option<Receiver<Native>>,
    fd: Arc<Unshared<OwnedFd>>,
    seat: Seat,
    /// Provisional until a publisher [decides](Self::decide); read when a ring is attached, and never on the data path.
    settings: Cell<TopicSettings>,
    desk: Arc<Desk>,
    /// Messages held and not yet given back, and those of them that are copies.
    held: Cell<u64>,
    copies_held: Cell<u64>,
    /// Room for what the desk has, kept from one fetch to the next.
    returned: Cell<Vec<Returned>>,
    spares: Spares,
    /// Why the last look failed, until that is asked for.
    failed: Cell<Option<Error>>,
    /// The process that made it.
    birth: Birth,
    placement: Placement,
    /// What became of it.
    report: RefCell<PlacementReport>,
}

/// Where a new ring is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From its first message: it is newer than this subscriber.
    First,
    /// From its present head, less some history: it was there before.
    Head {
        /// Messages to go back, as far as there are so many.
        history: u32,
    },
}

/// Messages that were ever published in a ring of a topic with these settings.
///
/// # Errors
/// [`Error::Segment`] where it is no such ring.
pub fn published(settings: &TopicSettings, ring: Handed) -> Result<u64> {
    let settings = settings.check()?;
    let mapping = match ring {
        Handed::Descriptor(ring) => segment::open(&ring, Kind::Ring, ring_bytes(&settings))?,
        Handed::Mapped(mapping) => mapping,
    };
    let ring = MappedRing::new(Arc::new(mapping), &settings);
    ring.check_identity(RING_MAGIC)?;
    Ok(head::find::<Native>(&ring, REPLACED))
}

impl Subscriber {
    /// Makes the reader segment of a subscriber. `membership` is kept for as long as this or a message held lives.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where there is no page for it; [`Error::Segment`] where `registry` is none.
    pub fn create(
        settings: &TopicSettings,
        registry: &impl AsFd,
        membership: Arc<dyn Send + Sync>,
    ) -> Result<Self> {
        Self::create_placed(settings, registry, membership, Placement::default())
    }

    /// As [`create`](Self::create); what it makes and maps is placed as asked, as far as that can be had: see
    /// [`placement`](Self::placement).
    ///
    /// # Errors
    /// As for [`create`](Self::create); [`Error::Node`] where there is no such NUMA node.
    pub fn create_placed(
        settings: &TopicSettings,
        registry: &impl AsFd,
        membership: Arc<dyn Send + Sync>,
        placement: Placement,
    ) -> Result<Self> {
        let bytes = reader_bytes(&settings.check()?);
        Self::create_of(bytes, settings, registry, membership, placement)
    }

    /// As [`create_placed`](Self::create_placed), on a topic that no publisher has decided yet: these settings are
    /// provisional, and those that are [decided](Self::decide) may need a longer segment. So it is made
    /// [long enough](undecided_reader_bytes) for most of them.
    ///
    /// # Errors
    /// As for [`create_placed`](Self::create_placed).
    pub fn create_undecided(
        settings: &TopicSettings,
        registry: &impl AsFd,
        membership: Arc<dyn Send + Sync>,
        placement: Placement,
    ) -> Result<Self> {
        let bytes = reader_bytes(&settings.check()?).max(undecided_reader_bytes());
        Self::create_of(bytes, settings, registry, membership, placement)
    }

    /// Makes it with a segment of `bytes` bytes, which are enough for the settings.
    fn create_of(
        bytes: u64,
        settings: &TopicSettings,
        registry: &impl AsFd,
        membership: Arc<dyn Send + Sync>,
        placement: Placement,
    ) -> Result<Self> {
        let settings = settings.check()?;
        Native::prepare()?;
        let (registry, mut report) = registry::open_placed(registry, &placement)?;
        let seat = Seat::new(&registry, &placement);
        let (fd, mapping) = segment::create_placed(Kind::Reader, bytes, &placement)?;
        report.merge(mapping.report().clone());
        let fd = Unshared::new(|| Ok(fd)).map_err(unshared)?;
        let reader = MappedReader::new(Arc::new(mapping), &settings);
        reader.header().identity.write(READER_MAGIC);
        Ok(Self {
            receiver: Some(Receiver::new(reader, registry)),
            fd: Arc::new(fd),
            seat,
            settings: Cell::new(settings),
            desk: Arc::new(Desk::new(membership)),
            held: Cell::new(0),
            copies_held: Cell::new(0),
            returned: Cell::default(),
            birth: Birth::here(),
            spares: Spares::new(&settings),
            failed: Cell::default(),
            placement,
            report: RefCell::new(report),
        })
    }

    /// A publisher has decided what the topic is like. Rings that are attached from now on have these settings.
    ///
    /// # Errors
    /// [`Error::Control`] where a ring is attached: that one has the settings of before. [`Error::Segment`] where the
    /// reader segment is too short for the settings: a subscriber that is opened anew makes a longer one. Either leaves
    /// everything as it was.
    pub fn decide(&self, settings: &TopicSettings) -> Result<()> {
        let settings = settings.check()?;
        if !self.receiver().is_empty() {
            return Err(Error::Control(
                "the settings of a topic are decided before its first ring".into(),
            ));
        }
        if self.receiver().reader().bounded_by(&settings).is_none() {
            return Err(too_short(&settings));
        }
        self.settings.set(settings);
        self.spares.fit(&settings);
        Ok(())
    }

    /// What became of the placement that was asked for, of this subscriber's segment and of the rings that it has followed.
    pub fn placement(&self) -> PlacementReport {
        self.report.borrow().clone()
    }

    /// The reader segment's descriptor, to register.
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

    #[inline(always)]
    fn receiver(&self) -> &Receiver<Native> {
        match &self.receiver {
            Some(receiver) => receiver,
            None => unreachable!("it is taken out by drop only"),
        }
    }

    /// See [`Receiver::stale`].
    #[inline(always)]
    pub fn stale(&self) -> Option<u32> {
        self.receiver().stale()
    }

    /// See [`Receiver::set_version`].
    pub fn set_version(&self, version: u32) {
        self.receiver().set_version(version);
    }

    /// Checks and maps the ring of publisher `publisher`, and reads it from now on, in place or copied, as that is trusted.
    ///
    /// # Errors
    /// [`Error::Segment`] where it is not one.
    pub fn attach(
        &self,
        publisher: u64,
        index: u16,
        ring: &impl AsFd,
        start: Start,
        trust: Trust,
    ) -> Result<()> {
        let bytes = ring_bytes(&self.settings.get());
        let mapping = segment::open_placed(ring, Kind::Ring, bytes, &self.placement)?;
        self.attach_mapped(publisher, index, mapping, start, trust)
    }

    /// As [`attach`](Self::attach), of a segment that is mapped already.
    ///
    /// # Errors
    /// As for [`attach`](Self::attach).
    pub fn attach_mapped(
        &self,
        publisher: u64,
        index: u16,
        mapping: Mapping,
        start: Start,
        trust: Trust,
    ) -> Result<()> {
        let settings = self.settings.get();
        if index >= settings.rings() {
            return Err(Error::Control(format!("ring index {index} is too high")));
        }
        let index = usize::from(index);
        if self
            .receiver()
            .rings()
            .any(|ring| ring.publisher() == publisher || ring.index() == index)
        {
            return Err(Error::Control(format!(
                "publisher {publisher} with ring index {index}: one of the two is in use"
            )));
        }
        self.report.borrow_mut().merge(mapping.report().clone());
        let ring = MappedRing::new(Arc::new(mapping), &settings);
        let ring = match trust {
            Trust::InPlace => ring,
            Trust::Copy => ring.copied(),
        };
        ring.check_identity(RING_MAGIC)?;
        let reader = self.receiver().reader().bounded_by(&settings);
        let reader = reader.ok_or_else(|| too_short(&settings))?;
        let holding = Holding {
            most: settings.held.into(),
            overrun: settings.overrun(),
        };
        let ring = RingReader::new(ring, reader, index, publisher, 0, holding);
        let ring = match trust {
            Trust::InPlace => ring,
            Trust::Copy => ring.copied(holding),
        };
        if let Start::Head { history } = start {
            ring.start_at_head(history.min(settings.keep).into());
        }
        self.receiver().attach(ring);
        Ok(())
    }

    /// See [`Receiver::joined`]. `history` is at most what the topic keeps.
    pub fn joined(&self, history: u32) {
        let history = history.min(self.settings.get().keep);
        self.receiver().joined(history.into());
    }

    /// As [`joined`](Self::joined), where a place was [kept](crate::memory::reserve) since the first message: starts there, or, where
    /// publishers go past who does not keep up, with the oldest message that is there.
    pub fn joined_at_first(&self) {
        self.receiver().joined(u64::MAX);
    }

    /// The publisher is gone, as the kernel knows: its ring ends with what is committed.
    pub fn end(&self, publisher: u64) {
        for ring in self.receiver().rings() {
            if ring.publisher() == publisher {
                ring.end();
            }
        }
    }

    /// The publisher is gone, and its ring's index goes to another one: what was not received counts as
    /// [lost](Self::lost). Only on topics whose publishers go past subscribers.
    pub fn abandon(&self, publisher: u64) {
        for ring in self.receiver().rings() {
            if ring.publisher() == publisher {
                ring.abandon();
            }
        }
    }

    /// So many messages were [lost](Self::lost) of rings that were never attached: see [`published`].
    pub fn count_lost(&self, messages: u64) {
        self.receiver().count_lost(messages);
    }

    /// The publishers whose rings were drained since the last call.
    pub fn ends(&self) -> impl Iterator<Item = u64> + '_ {
        let rings = self.receiver().rings();
        rings
            .filter(|ring| ring.take_end())
            .map(|ring| ring.publisher())
    }

    /// Lets go of the rings of these publishers that are drained, and of which no message or batch is outstanding; calls
    /// `released` with the index of each.
    pub fn retire(&self, publishers: &[u64], mut released: impl FnMut(u16)) {
        // SAFETY: this hands out rings inside messages and batches only, which the rings count.
        let freed = unsafe { self.receiver().retire(publishers) };
        for index in freed {
            released(index as u16);
        }
    }

    /// Whether a ring with this index is attached.
    pub fn uses(&self, index: u16) -> bool {
        let mut rings = self.receiver().rings();
        rings.any(|ring| ring.index() == usize::from(index))
    }

    /// Whether the ring of this publisher is attached.
    pub fn reads(&self, publisher: u64) -> bool {
        self.receiver()
            .rings()
            .any(|ring| ring.publisher() == publisher)
    }

    /// Whether this publisher has closed its ring, or is known to be gone.
    pub fn closed(&self, publisher: u64) -> bool {
        let mut rings = self.receiver().rings();
        rings.any(|ring| ring.publisher() == publisher && ring.closed())
    }

    /// Whether this publisher's ring has ended and everything in it was received.
    pub fn drained(&self, publisher: u64) -> bool {
        let mut rings = self.receiver().rings();
        rings.any(|ring| ring.publisher() == publisher && ring.drained())
    }

    /// Number of rings attached.
    pub fn rings(&self) -> usize {
        self.receiver().len()
    }

    /// The next message of any publisher, if there is one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where its slot breaks the ring's bounds; the message is passed over. [`Error::Holding`] where too many are held,
    /// [`Error::Evicted`] where a publisher has gone past.
    #[inline(always)]
    pub fn poll(&self) -> Result<Option<Message<'_>>> {
        match self.find() {
            Some(arrival) => Ok(Some(arrival.take())),
            None => self.failure().map_or(Ok(None), Err),
        }
    }

    /// As [`poll`](Self::poll), in parts, so that no message goes through memory on its way: what this finds is to be [taken](Arrival::take) at once. Where
    /// there is nothing, [`failure`](Self::failure) says whether that is an error.
    #[inline(always)]
    pub fn find(&self) -> Option<Arrival<'_>> {
        self.take_back();
        let (ring, found) = self.receiver().poll()?;
        // An address comes back from either way: a whole message would go through memory on both.
        let payload = match payload(ring, found) {
            Some(payload) => payload,
            None => self.copy(ring, found.sequence, found.place, found.len)?,
        };
        Some(Arrival {
            subscriber: self,
            ring,
            payload,
            sequence: found.sequence,
            len: found.len,
        })
    }

    /// Why the last [`find`](Self::find), which found nothing, failed, if it did: an error of [`poll`](Self::poll).
    #[inline(never)]
    pub fn failure(&self) -> Option<Error> {
        if let Some(error) = self.failed.take() {
            return Some(error);
        }
        let (ring, refused) = self.receiver().refusal()?;
        Some(refuse(&self.desk, ring, refused))
    }

    /// The payload of a message that is not read in place; none where that failed.
    #[inline(never)]
    fn copy(
        &self,
        ring: &RingReader<Native>,
        sequence: u64,
        place: u32,
        len: u32,
    ) -> Option<NonNull<u8>> {
        match copy(&self.spares, ring, sequence, place, len) {
            Ok(copy) => Some(copy.into_payload()),
            Err(error) => {
                self.failed.set(Some(error));
                None
            }
        }
    }

    pub(super) fn spares(&self) -> &Spares {
        &self.spares
    }

    /// Up to `max` messages of one publisher, released together when the batch is dropped. Instead of a first message there may be an
    /// error, or on a lossy topic nothing: see [`Batch::next`].
    pub fn poll_batch(&self, max: usize) -> Option<Batch<'_>> {
        self.take_back();
        let ring = self.receiver().select_other()?;
        ring.open_batch();
        Some(Batch {
            ring,
            desk: &self.desk,
            spares: &self.spares,
            copies: Chain::default(),
            first: Cell::new(ring.next()),
            end: Cell::new(ring.next()),
            left: Cell::new(max.max(1)),
            lost: Cell::new(0),
        })
    }

    /// Messages lost so far, of those that were there to receive since this subscriber joined; 0 but on a lossy topic.
    pub fn lost(&self) -> u64 {
        self.receiver().lost()
    }

    /// Releases what other threads have let go of.
    #[inline(always)]
    fn take_back(&self) {
        if self.held.get() > 0 {
            self.take_back_held();
        }
    }

    #[cold]
    fn take_back_held(&self) {
        let mut returned = self.returned.take();
        self.desk.fetch(&mut returned);
        for mut returned in returned.drain(..) {
            self.held.set(self.held.get() - 1);
            release(self.receiver(), &returned);
            if let Some(copy) = returned.copy.take() {
                self.copies_held.set(self.copies_held.get() - 1);
                self.spares.put(copy);
            }
        }
        self.returned.set(returned);
    }

    /// One more message is held.
    pub(super) fn hold(&self, copied: bool) -> &Arc<Desk> {
        self.held.set(self.held.get() + 1);
        self.copies_held
            .set(self.copies_held.get() + u64::from(copied));
        &self.desk
    }

    /// Whether a poll would find something. Releases what other threads have let go of.
    #[inline(always)]
    pub fn has_message(&self) -> bool {
        self.take_back();
        self.receiver().has_message()
    }

    /// Whether a poll, or a look at ends or versions, would find something.
    pub fn ready(&self) -> bool {
        self.receiver().ready()
    }

    /// See [`Receiver::set_relay`].
    pub fn set_relay(&self, relay: Arc<dyn Relay>) {
        self.receiver().set_relay(relay);
    }

    /// See [`Receiver::set_notify`]. The descriptor is one that [`check`](crate::backend::doorbell::check) passed.
    pub fn set_notify(&self, publisher: u64, notify: OwnedFd) {
        self.receiver().set_notify(publisher, notify);
    }

    /// Parks: from now on `own`, its doorbell, is rung when there is something to receive or a message held is given back. Then
    /// [`fence_parked`](crate::wake::fence_parked), once for any number of subscribers; then look for messages, ends and versions;
    /// then sleep or [`unpark`](Self::unpark).
    pub fn park(&self, own: &Arc<Doorbell>) {
        self.receiver().park();
        self.desk.park(own);
    }

    /// Is awake again, after [`park`](Self::park).
    pub fn unpark(&self) {
        self.desk.unpark();
        self.receiver().unpark();
    }

    /// See [`Receiver::sleep_for_publishers`].
    pub fn sleep_for_publishers(&self, poke: Option<Poked<'_>>, deadline: Option<Instant>) {
        let poke = poke.map(Poked::word);
        self.receiver().sleep_for_publishers(poke, deadline);
    }

    /// See [`Receiver::is_foreign`].
    pub fn is_foreign(&self) -> bool {
        self.receiver().is_foreign()
    }

    /// See [`Receiver::must_park`].
    pub fn must_park(&self) -> bool {
        self.receiver().must_park()
    }

    /// Sleeps until there may be something, a message held is given back, or the deadline. May return early, and
    /// returns at once where this subscriber [must park](Self::must_park).
    #[cold]
    pub fn sleep(&self, deadline: Option<Instant>) {
        self.sleep_or_poked(None, deadline);
    }

    /// As [`sleep`](Self::sleep); also ends when the word was poked since it was looked at.
    #[cold]
    pub fn sleep_or_poked(&self, poke: Option<Poked<'_>>, deadline: Option<Instant>) {
        let bell = self.desk.bell();
        let held = self.held.get() > 0;
        self.take_back();
        let poke = poke.map(Poked::word);
        match (held, poke) {
            (true, Some(poke)) => self.receiver().sleep(&[bell, poke], deadline),
            (true, None) => self.receiver().sleep(&[bell], deadline),
            (false, Some(poke)) => self.receiver().sleep(&[poke], deadline),
            (false, None) => self.receiver().sleep(&[], deadline),
        }
    }
}

/// The reader segment does not do for these settings.
fn too_short(settings: &TopicSettings) -> Error {
    Error::Segment {
        segment: Kind::Reader.name(),
        why: format!(
            "it was made before the topic was decided, and is too short for {} publishers and {} messages held; open the topic again",
            settings.publishers, settings.held
        ),
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if !self.birth.is_here() {
            // A forked copy of the handle ends nothing.
            std::mem::forget(self.receiver.take());
            return;
        }
        self.take_back();
        if self.held.get() > self.copies_held.get()
            && let Some(receiver) = self.receiver.take()
        {
            self.desk.leave(receiver);
        }
    }
}

/// Releases a message at the ring of its publisher, or says there that its copy is back.
pub(super) fn release(receiver: &Receiver<Native>, returned: &Returned) {
    let mut rings = receiver.rings();
    if let Some(ring) = rings.find(|ring| ring.publisher() == returned.publisher) {
        match returned.copy {
            None => ring.release(returned.sequence),
            Some(_) => ring.unkeep(),
        }
    }
}

const _: () = {
    const fn send<T: Send>() {}
    send::<Subscriber>();
};
