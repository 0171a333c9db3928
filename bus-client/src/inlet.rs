//! The receiving end of a handle, of whatever type: membership, waiting, ends, and the core's subscriber.

mod park;

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::TopicSettings;
use bus_core::backend::doorbell::Doorbell;
use bus_core::control::Role;
use bus_core::memory::segment::Handed;
use bus_core::receive::{self, Arrival, Start};
use bus_core::schema::Schema;
use bus_core::wake::SpinBudget;

use crate::fall_backs::FallBacks;
use crate::handle::{Membership, Patience, Peers};
use crate::session::{Next, Standing, Told};
use crate::wait::{Attempts, Step, Wait, deadline};
use crate::{Error, Peer, PlacementReport, Result, TopicBuilder};

/// Messages between two looks whether rings of who has left are drained.
const SETTLE: u32 = 64;

/// A subscriber of whatever type. No name of the crate leads here: it is shown to selectors only.
pub struct Inlet {
    pub(crate) core: receive::Subscriber,
    member: Arc<Membership>,
    peers: RefCell<Peers>,
    /// Publishers that have left, of whose rings something may still be unread or outstanding.
    left: RefCell<Vec<u64>>,
    /// Publishers whose ring has the index of one that is still read.
    later: RefCell<Vec<Told>>,
    /// Messages since somebody left whose ring is not let go of yet; none where there is nobody.
    leaving: Cell<Option<u32>>,
    spin: RefCell<SpinBudget>,
    version: Cell<u32>,
    history: u32,
    /// A place was kept for it since the topic's first message.
    whole: bool,
    /// Whether [`Told::Joined`] came: rings that come later are newer than this subscriber.
    joined: Cell<bool>,
    ends: bool,
    /// Rings ever followed, and those of them that were drained.
    followed: Cell<u64>,
    drained: Cell<u64>,
    /// Provisional until a publisher decides.
    settings: Cell<TopicSettings>,
    attempts: Attempts,
    fall_backs: FallBacks,
    /// Where it parks, once it does.
    own: OnceCell<Arc<Doorbell>>,
    parked: Cell<bool>,
    /// Whether all publishers can wake it there.
    notified: Cell<bool>,
}

impl Inlet {
    pub(crate) fn open(builder: &TopicBuilder, schema: &Schema, deadline: Instant) -> Result<Self> {
        let _opening = builder.bus.session.opening()?;
        let (member, opened) = Membership::open(builder, Role::Subscriber, schema, deadline)?;
        let member = Arc::new(member);
        let create = match opened.decided {
            true => receive::Subscriber::create_placed,
            false => receive::Subscriber::create_undecided,
        };
        let core = create(
            &opened.settings,
            &opened.registry,
            member.clone(),
            builder.placement.clone(),
        )
        .map_err(|e| member.wrap(e))?;
        let inlet = Self {
            core,
            member,
            peers: RefCell::default(),
            left: RefCell::default(),
            later: RefCell::default(),
            leaving: Cell::default(),
            spin: RefCell::new(SpinBudget::new(builder.spin)),
            version: Cell::new(0),
            history: builder.history,
            whole: builder.place.is_some_and(|place| place.whole),
            joined: Cell::new(false),
            ends: builder.ends,
            followed: Cell::new(0),
            drained: Cell::new(0),
            settings: Cell::new(opened.settings),
            attempts: Attempts::default(),
            fall_backs: FallBacks::default(),
            own: OnceCell::new(),
            parked: Cell::new(false),
            notified: Cell::new(false),
        };
        inlet.core.set_relay(inlet.member.clone());
        inlet.warn_of_fall_backs();
        // What was sent before the answer to `Open` is read now, so that the cursors are near the heads
        // before anybody waits for them.
        while let Some(told) = inlet.member.answered()? {
            inlet.take_in(told)?;
        }
        inlet.member.join(Standing {
            settings: inlet.settings.get(),
            index: opened.index,
            segment: Arc::clone(inlet.core.segment()),
            seat: inlet.core.seat().clone(),
        });
        loop {
            match inlet.member.answer()? {
                Told::Joined { version } => {
                    if inlet.whole {
                        inlet.core.joined_at_first();
                    } else {
                        inlet.core.joined(inlet.history);
                    }
                    inlet.joined.set(true);
                    inlet.version.set(version);
                    inlet.core.set_version(version);
                    return Ok(inlet);
                }
                told => inlet.take_in(told)?,
            }
        }
    }

    /// Who left or died while nobody could say so.
    fn part_from_who_left(&self) {
        let mut gone = self.peers.borrow().dead();
        gone.extend(self.peers.borrow().ids().filter(|id| self.core.closed(*id)));
        for id in gone {
            self.member.forget_peer(id);
            self.end(id);
        }
    }

    /// Takes in what a broker said.
    fn take_in(&self, told: Told) -> Result<()> {
        match told {
            told @ Told::Publisher { index, .. } if self.core.uses(index) => {
                self.later.borrow_mut().push(told);
            }
            Told::Publisher {
                id,
                process,
                index,
                ended,
                trust,
                ring,
                button,
            } => {
                let start = if self.whole || self.joined.get() {
                    Start::First
                } else {
                    Start::Head {
                        history: self.history,
                    }
                };
                let attached = match ring {
                    Handed::Descriptor(ring) => self.core.attach(id, index, &ring, start, trust),
                    Handed::Mapped(ring) => self.core.attach_mapped(id, index, ring, start, trust),
                };
                match attached {
                    // It had ended before this subscriber came, which the broker has not heard yet.
                    Ok(()) if self.is_stale(ended) && self.core.drained(id) => {
                        self.core.retire(&[id], |_| ());
                        self.member.released(id);
                    }
                    Ok(()) => {
                        self.followed.set(self.followed.get() + 1);
                        self.peers.borrow_mut().insert(id, process, Some(trust));
                        if let Some(button) = button {
                            self.core.set_notify(id, button);
                        }
                        self.warn_of_fall_backs();
                        if ended {
                            self.end(id);
                        }
                    }
                    // A segment that is no ring hurts its own publisher only.
                    Err(error @ bus_core::Error::Segment { .. }) => {
                        let identity = process.identity();
                        let (client, pid) = (identity.client, identity.pid);
                        tracing::warn!(client, pid, %error, "not followed");
                        self.member.released(id);
                    }
                    Err(error) => return Err(self.member.give_up(error.to_string())),
                }
            }
            Told::Decided { settings } => {
                let decided = self.core.decide(&settings);
                decided.map_err(|error| self.member.give_up(error.to_string()))?;
                self.settings.set(settings);
            }
            Told::PublisherLeft { id, dropped } => self.publisher_left(id, dropped),
            Told::Lost { messages } => self.core.count_lost(messages),
            Told::Doorbell { id, button } => self.core.set_notify(id, button),
            Told::DoorbellRegistered => self.notified.set(true),
            Told::Synced { version } => self.version.set(version),
            Told::Reclaimed {
                version,
                registered,
                ..
            } => {
                // A publisher that was missed waits for its subscribers: another broker tells of it.
                self.version.set(version);
                self.notified.set(self.notified.get() || registered);
                self.part_from_who_left();
            }
            told => return Err(self.member.unexpected(&told)),
        }
        Ok(())
    }

    /// Whether a ring that is told of now, and has ended, is none that this subscriber is to follow.
    fn is_stale(&self, ended: bool) -> bool {
        !self.joined.get() && !self.whole && self.history == 0 && !ended
    }

    /// A publisher has left. Where it was `dropped`, its index goes to another one, and what is unread is lost.
    fn publisher_left(&self, publisher: u64, dropped: bool) {
        let is_later = |told: &Told| matches!(told, Told::Publisher { id, .. } if *id == publisher);
        let waits = self.later.borrow().iter().position(is_later);
        match waits {
            Some(at) if dropped => {
                let told = self.later.borrow_mut().remove(at);
                if let Told::Publisher { ring, .. } = told {
                    let messages = receive::published(&self.settings.get(), ring);
                    self.core.count_lost(messages.unwrap_or_default());
                }
                self.member.released(publisher);
            }
            Some(at) => {
                if let Some(Told::Publisher { ended, .. }) = self.later.borrow_mut().get_mut(at) {
                    *ended = true;
                }
            }
            None => {
                if dropped {
                    self.core.abandon(publisher);
                }
                self.end(publisher);
            }
        }
    }

    /// Attaches rings that waited for the end of another one with their index.
    fn attach_later(&self) -> Result<()> {
        if self.later.borrow().is_empty() {
            return Ok(());
        }
        let later = self.later.take();
        later.into_iter().try_for_each(|told| self.take_in(told))
    }

    fn warn_of_fall_backs(&self) {
        self.fall_backs
            .warn(&self.member.topic(), &self.core.placement());
    }

    pub(crate) fn placement(&self) -> PlacementReport {
        self.core.placement()
    }

    /// The publisher is gone: what is in its ring is all there will be. It may be one that was never heard of.
    fn end(&self, id: u64) {
        let mut left = self.left.borrow_mut();
        if self.core.reads(id) && !left.contains(&id) {
            self.core.end(id);
            left.push(id);
            self.leaving.set(Some(0));
        }
    }

    /// Attaches and ends rings, if the set of publishers moved. To be called before each look.
    #[inline(always)]
    pub(crate) fn refresh(&self) -> Result<()> {
        match self.core.stale() {
            None => Ok(()),
            Some(_) => self.sync(),
        }
    }

    /// Takes in everything up to the version of now.
    #[cold]
    fn sync(&self) -> Result<()> {
        let mut patience = Patience::new();
        loop {
            let moved = self.member.moved();
            match self.member.next()? {
                Next::Told(told) => {
                    self.take_in(told)?;
                    patience.renew();
                }
                // Where a broker went before it had told of a publisher, the ring of that one waits until the next
                // broker does.
                Next::Nothing { version, down } if down || self.knows(version) => {
                    self.core.set_version(version);
                    self.settle();
                    return Ok(());
                }
                Next::Nothing { .. } => self.member.wait(moved, &patience)?,
            }
        }
    }

    /// Whether everybody was told of up to this version, which is one of the broker that spoke last.
    fn knows(&self, version: u32) -> bool {
        version.wrapping_sub(self.version.get()) as i32 <= 0
    }

    /// Takes in what was told already.
    fn take_in_all(&self) -> Result<()> {
        while let Next::Told(told) = self.member.next()? {
            self.take_in(told)?;
        }
        Ok(())
    }

    /// Counts rings that were drained, and lets go of those whose publisher has left.
    #[cold]
    fn settle(&self) {
        let drained = self.core.ends().count() as u64;
        self.drained.set(self.drained.get() + drained);
        let mut left = self.left.borrow_mut();
        if left.is_empty() {
            return;
        }
        self.core.retire(&left, |_| ());
        left.retain(|id| {
            let there = self.core.reads(*id);
            if !there {
                self.peers.borrow_mut().remove(*id);
                self.member.released(*id);
            }
            there
        });
        self.leaving.set((!left.is_empty()).then_some(1));
        drop(left);
        // Why a ring cannot be attached is said by the next call.
        let _ = self.attach_later();
    }

    /// A message was found. Where others never let it run dry, the rings of who has left are let go of now and then.
    #[inline(always)]
    fn found(&self) {
        if let Some(messages) = self.leaving.get() {
            self.leaving.set(Some(messages.wrapping_add(1)));
            if messages.is_multiple_of(SETTLE) {
                self.settle();
            }
        }
    }

    /// Takes in who has joined and left; whether a look would find something then.
    pub(crate) fn look_ahead(&self) -> Result<bool> {
        self.refresh()?;
        Ok(self.core.has_message())
    }

    /// Whether everything of all publishers was received and they have ended, as far as is known.
    pub(crate) fn finished(&self) -> Result<bool> {
        self.refresh()?;
        self.settle();
        Ok(self.drained.get() >= self.followed.get() && self.later.borrow().is_empty())
    }

    fn over(&self) -> bool {
        let followed = self.followed.get();
        let waits = !self.later.borrow().is_empty();
        self.ends && followed > 0 && !waits && self.drained.get() >= followed
    }

    /// Whether a look would find nothing new, neither a message nor somebody who joined or left.
    #[inline(always)]
    pub(crate) fn quiet(&self) -> bool {
        self.core.stale().is_none() && !self.core.has_message()
    }

    /// The next message, if there is one; to be [taken](Arrival::take) at once. After a [`refresh`](Self::refresh).
    #[inline(always)]
    pub(crate) fn find(&self) -> Option<Arrival<'_>> {
        let arrival = self.core.find()?;
        self.found();
        Some(arrival)
    }

    /// Nothing was found: waits until there seems to be something; false when the time is over.
    ///
    /// # Errors
    /// Why there was nothing, or will not be.
    #[inline(never)]
    pub(crate) fn await_more(
        &self,
        timeout: Option<Duration>,
        waited: &mut Option<Option<Instant>>,
    ) -> Result<bool> {
        match self.core.failure() {
            Some(error) => Err(self.refused(error)),
            None => self.wait(timeout, waited),
        }
    }

    /// Nothing was found, and nobody waits.
    ///
    /// # Errors
    /// As for [`await_more`](Self::await_more).
    #[inline(never)]
    pub(crate) fn not_now(&self) -> Result<()> {
        if let Some(error) = self.core.failure() {
            return Err(self.refused(error));
        }
        if self.attempts.failed() {
            self.patrol()?;
        }
        self.nothing::<()>().map(drop)
    }

    /// Looks once.
    #[inline(always)]
    pub(crate) fn once<'a, R>(
        &'a self,
        look: impl FnOnce(&'a receive::Subscriber) -> bus_core::Result<Option<R>>,
    ) -> Result<Option<R>> {
        self.refresh()?;
        match look(&self.core) {
            Ok(Some(found)) => {
                self.found();
                Ok(Some(found))
            }
            Ok(None) => {
                if self.attempts.failed() {
                    self.patrol()?;
                }
                self.nothing()
            }
            Err(error) => Err(self.refused(error)),
        }
    }

    /// A look failed, and so does each one after it while the ring is there that it failed at: an evicted subscriber's, for instance, whose
    /// publisher may have left.
    #[cold]
    pub(crate) fn refused(&self, error: bus_core::Error) -> Error {
        self.settle();
        self.member.wrap(error)
    }

    /// Nothing there: is it the end?
    #[inline(never)]
    fn nothing<R>(&self) -> Result<Option<R>> {
        self.settle();
        if self.over() {
            return Err(Error::Ended {
                topic: self.member.topic(),
            });
        }
        Ok(None)
    }

    /// Looks until something is there; none when the time is over.
    #[inline(always)]
    pub(crate) fn until<'a, R>(
        &'a self,
        timeout: Option<Duration>,
        mut look: impl FnMut(&'a receive::Subscriber) -> bus_core::Result<Option<R>>,
    ) -> Result<Option<R>> {
        self.refresh()?;
        let mut waited = None;
        loop {
            match look(&self.core) {
                Ok(Some(found)) => {
                    self.found();
                    return Ok(Some(found));
                }
                Ok(None) if self.wait(timeout, &mut waited)? => {}
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.refused(error)),
            }
        }
    }

    /// Waits until there seems to be something; false when the time is over. `waited` is none at first, and then the end of the time: a
    /// hostile ring may seem to have something for ever, and there be nothing when it is looked at.
    #[inline(never)]
    fn wait(
        &self,
        timeout: Option<Duration>,
        waited: &mut Option<Option<Instant>>,
    ) -> Result<bool> {
        let in_vain = waited.is_some();
        let deadline = *waited.get_or_insert_with(|| deadline(timeout));
        let over = |at| Instant::now() >= at;
        if in_vain && deadline.is_some_and(over) {
            return Ok(false);
        }
        let mut wait = Wait::new(&self.spin.borrow(), deadline);
        loop {
            match wait.step() {
                Step::Again => {}
                Step::Sleep(until) => {
                    let news = self.member.news();
                    self.look_around()?;
                    self.nothing::<()>()?;
                    if self.must_park() {
                        self.sleep_parked(until)?;
                    } else {
                        self.core.sleep_or_poked(Some(news), until);
                    }
                    self.no_longer_parked();
                }
                Step::Over => {
                    if self.attempts.failed() {
                        self.patrol()?;
                    }
                    self.nothing::<()>()?;
                    return Ok(false);
                }
            }
            self.refresh()?;
            if self.core.has_message() {
                self.spin.borrow_mut().learn(wait.spin());
                return Ok(true);
            }
        }
    }

    /// Whether the broker of now has it in the topic with this number; none if that broker has not taken it back yet.
    pub(crate) fn is_in(&self, topic: u64) -> Option<bool> {
        if self.member.fate().is_some() {
            return Some(false);
        }
        if !self.has_broker() {
            return None;
        }
        Some(self.member.topic_number() == Some(topic))
    }

    /// Whether a broker has it, as far as is known.
    pub(crate) fn has_broker(&self) -> bool {
        !self.member.is_down()
    }

    /// While there is no broker, looks now and then which publishers are gone.
    pub(crate) fn look_around(&self) -> Result<()> {
        if self.member.is_down() && self.attempts.due() {
            self.patrol()?;
        }
        Ok(())
    }

    /// While there is no broker, takes the last words of the one that went, and asks the kernel which publishers are gone.
    pub(crate) fn patrol(&self) -> Result<()> {
        if self.member.is_down() {
            self.take_in_all()?;
            self.part_from_who_left();
            self.settle();
        }
        Ok(())
    }

    pub(crate) fn publishers(&self) -> Result<Vec<Peer>> {
        self.refresh()?;
        self.patrol()?;
        Ok(self.peers.borrow().list())
    }

    pub(crate) fn peer(&self, id: u64) -> Option<Peer> {
        self.peers.borrow().get(id)
    }

    /// Orders publishers that follow each other: a later one has a higher number.
    pub(crate) fn order(&self, publisher: u64) -> u64 {
        self.peers.borrow().order(publisher)
    }

    pub(crate) fn wait_for_publishers(
        &self,
        count: usize,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let deadline = deadline(timeout);
        loop {
            self.refresh()?;
            if self.core.rings() - self.left.borrow().len() >= count {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(self.member.timeout("publishers"));
            }
            let news = self.member.news();
            self.patrol()?;
            if self.core.is_foreign() {
                self.sleep_parked_for_publishers(deadline)?;
            } else {
                self.core.sleep_for_publishers(Some(news), deadline);
            }
        }
    }

    pub(crate) fn settings(&self) -> TopicSettings {
        self.settings.get()
    }

    pub(crate) fn wrap(&self, error: bus_core::Error) -> Error {
        self.member.wrap(error)
    }
}
