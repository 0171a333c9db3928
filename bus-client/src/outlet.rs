//! The sending end of a handle, of whatever type: membership, waiting, and the core's publisher.

mod notice;
mod park;
mod room;

use std::iter::Peekable;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::Doorbell;
use bus_core::control::Role;
use bus_core::memory::segment::Handed;
use bus_core::schema::Schema;
use bus_core::wake::SpinBudget;
use bus_core::{Delivery, TopicSettings, publish};

use crate::fall_backs::FallBacks;
use crate::handle::{Membership, Patience, Peers};
use crate::session::{Next, Standing, Told};
use crate::stall::{Stall, Stalls};
use crate::wait::{Attempts, deadline};
use crate::{Error, Peer, PlacementReport, Result, TopicBuilder};

/// Times that a message is tried again because subscribers join meanwhile.
const JOINS: usize = 16;

pub(crate) struct Outlet {
    pub(crate) core: publish::Publisher,
    member: Arc<Membership>,
    peers: Peers,
    /// Those of them that are places kept for who is to come.
    places: Vec<u64>,
    spin: SpinBudget,
    version: u32,
    /// The broker before this one had not told of everybody, and this one has not made up for it yet.
    behind: bool,
    id: u64,
    settings: TopicSettings,
    attempts: Attempts,
    stalls: Stalls,
    fall_backs: FallBacks,
    /// Where it parks, once it does.
    own: Option<Arc<Doorbell>>,
    /// Whether all subscribers can wake it there.
    notified: bool,
    /// Whether a subscriber has joined since it is there.
    had_subscribers: bool,
}

impl Outlet {
    pub(crate) fn open(builder: &TopicBuilder, schema: &Schema, deadline: Instant) -> Result<Self> {
        let opening = builder.bus.session.opening()?;
        let (member, opened) = Membership::open(builder, Role::Publisher, schema, deadline)?;
        // To create a large segment takes long, and somebody is to read the socket meanwhile.
        drop(opening);
        let core = publish::Publisher::create_placed(
            &opened.settings,
            &opened.registry,
            opened.index,
            builder.placement.clone(),
        )
        .map_err(|e| member.wrap(e))?;
        let _opening = builder.bus.session.opening()?;
        member.join(Standing {
            settings: opened.settings,
            index: opened.index,
            segment: Arc::clone(core.segment()),
            seat: core.seat().clone(),
        });
        let mut outlet = Self {
            core,
            member: Arc::new(member),
            peers: Peers::default(),
            places: Vec::new(),
            spin: SpinBudget::new(builder.spin),
            version: 0,
            behind: false,
            id: opened.id,
            settings: opened.settings,
            attempts: Attempts::default(),
            stalls: Stalls::default(),
            fall_backs: FallBacks::default(),
            own: None,
            notified: false,
            had_subscribers: false,
        };
        // From now on the end of this thread's thread-locals is noticed.
        notice::thread_is_whole();
        outlet.core.set_relay(outlet.member.clone());
        outlet.warn_of_fall_backs();
        loop {
            match outlet.member.answer()? {
                Told::Joined { version } => {
                    outlet.version = version;
                    outlet.core.set_version(version);
                    return Ok(outlet);
                }
                told => outlet.take_in(told)?,
            }
        }
    }

    /// Nobody will come any more and take a place that a broker kept who is gone.
    fn give_up_places(&mut self) {
        let places = std::mem::take(&mut self.places);
        places.into_iter().for_each(|id| self.drop_peer(id));
    }

    /// Who left or died while nobody could say so.
    fn part_from_who_left(&mut self) {
        let mut gone = self.peers.dead();
        gone.extend(self.peers.ids().filter(|id| self.core.has_left(*id)));
        for id in gone {
            self.member.forget_peer(id);
            self.drop_peer(id);
        }
    }

    /// Takes in what a broker said.
    fn take_in(&mut self, told: Told) -> Result<()> {
        match told {
            Told::Subscriber {
                id,
                process,
                kept,
                reader,
                button,
            } => {
                let adopted = match reader {
                    Handed::Descriptor(reader) => self.core.adopt(id, &reader),
                    Handed::Mapped(reader) => self.core.adopt_mapped(id, reader),
                };
                match adopted {
                    Ok(()) => {
                        self.peers.insert(id, process, None);
                        self.had_subscribers = true;
                        self.stalls.add(id);
                        if let Some(button) = button {
                            self.core.set_notify(id, button);
                        }
                        self.places.extend(kept.then_some(id));
                        self.warn_of_fall_backs();
                    }
                    // A segment that is not one hurts its own subscriber only.
                    Err(error @ bus_core::Error::Segment { .. }) => {
                        let identity = process.identity();
                        let (client, pid) = (identity.client, identity.pid);
                        tracing::warn!(client, pid, %error, "not adopted");
                    }
                    Err(error) => return Err(self.member.give_up(error.to_string())),
                }
            }
            Told::SubscriberLeft { id } => self.drop_peer(id),
            Told::Doorbell { id, button } => self.core.set_notify(id, button),
            Told::DoorbellRegistered => self.notified = true,
            Told::Synced { version } => {
                self.behind = false;
                self.version = version;
            }
            Told::Reclaimed {
                version,
                behind,
                registered,
            } => {
                self.behind = behind;
                self.version = version;
                self.notified |= registered;
                self.part_from_who_left();
                self.give_up_places();
            }
            told => return Err(self.member.unexpected(&told)),
        }
        Ok(())
    }

    fn warn_of_fall_backs(&self) {
        self.fall_backs
            .warn(&self.member.topic(), self.core.placement());
    }

    pub(crate) fn placement(&self) -> &PlacementReport {
        self.core.placement()
    }

    fn drop_peer(&mut self, id: u64) {
        self.core.drop_follower(id);
        self.peers.remove(id);
        self.places.retain(|place| *place != id);
        self.stalls.remove(id);
    }

    /// Adopts and drops subscribers, if their set moved. To be called before each message or batch.
    #[inline(always)]
    pub(crate) fn refresh(&mut self) -> Result<()> {
        match self.core.stale() {
            None => Ok(()),
            Some(_) => self.sync(),
        }
    }

    /// Takes in everything up to the version of now. Nothing may be written over what somebody reads of whom this
    /// publisher does not know: so it waits, also for the next broker.
    #[cold]
    fn sync(&mut self) -> Result<()> {
        let member = Arc::clone(&self.member);
        let mut patience = Patience::new();
        loop {
            let moved = member.moved();
            match member.next()? {
                Next::Told(told) => {
                    self.take_in(told)?;
                    patience.renew();
                }
                Next::Nothing { version, .. } if self.knows(version) => {
                    self.core.set_version(version);
                    return Ok(());
                }
                Next::Nothing { down: true, .. } => member.await_broker(
                    moved,
                    &patience,
                    "it went before it had told of everybody who joined; this goes on when one is there again",
                )?,
                Next::Nothing { .. } => member.wait(moved, &patience)?,
            }
        }
    }

    /// Whether everybody was told of up to this version, which is one of the broker that spoke last.
    fn knows(&self, version: u32) -> bool {
        !self.behind && version.wrapping_sub(self.version) as i32 <= 0
    }

    /// Takes in what was told already.
    fn take_in_all(&mut self) -> Result<()> {
        while let Next::Told(told) = self.member.next()? {
            self.take_in(told)?;
        }
        Ok(())
    }

    /// Tries once; again where what stood in the way is gone at once.
    #[inline(always)]
    pub(crate) fn once<R>(
        &mut self,
        attempt: impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<R> {
        match self.attempt(attempt)? {
            Some(done) => Ok(done),
            None => Err(self.full()),
        }
    }

    /// Tries once; none where there is no room.
    #[inline(always)]
    pub(crate) fn attempt<R>(
        &mut self,
        mut attempt: impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<Option<R>> {
        loop {
            self.refresh()?;
            match attempt(&mut self.core) {
                Ok(Some(done)) => return Ok(Some(done)),
                Ok(None) if self.goes_on()? => {}
                Ok(None) => {
                    if self.attempts.failed() {
                        self.patrol()?;
                    }
                    return Ok(None);
                }
                Err(error) => return Err(self.member.wrap(error)),
            }
        }
    }

    /// While there is no broker, takes the last words of the one that went, and asks the kernel which subscribers are gone.
    pub(crate) fn patrol(&mut self) -> Result<()> {
        if self.member.is_down() {
            self.take_in_all()?;
            self.part_from_who_left();
            if self.member.is_long_down() {
                self.give_up_places();
            }
        }
        Ok(())
    }

    /// Room for `len` bytes, if there is some now.
    #[inline(always)]
    pub(crate) fn try_loan(&mut self, len: usize) -> Result<publish::Slot<'_>> {
        self.refresh()?;
        if !self.core.has_slot(len) {
            self.find_room_once(len)?;
        }
        self.claim(len)
    }

    #[cold]
    fn find_room_once(&mut self, len: usize) -> Result<()> {
        self.once(|core| Ok(core.try_loan(len)?.map(drop)))
    }

    /// Room for `len` bytes; waits for it.
    #[inline(always)]
    pub(crate) fn loan(
        &mut self,
        len: usize,
        timeout: Option<Duration>,
    ) -> Result<publish::Slot<'_>> {
        self.refresh()?;
        if !self.core.has_slot(len) {
            self.wait_for_room(len, timeout)?;
        }
        self.claim(len)
    }

    #[cold]
    fn wait_for_room(&mut self, len: usize, timeout: Option<Duration>) -> Result<()> {
        self.until(timeout, |core| Ok(core.try_loan(len)?.map(drop)))
    }

    /// Claims the room that was just found. A claim borrows the publisher for as long as it lives, so room is
    /// found first and claimed after: nobody takes it between.
    #[inline(always)]
    fn claim(&mut self, len: usize) -> Result<publish::Slot<'_>> {
        match self.core.try_loan(len) {
            Ok(Some(slot)) => Ok(slot),
            Ok(None) => Err(self.member.timeout("room")),
            Err(error) => Err(self.member.wrap(error)),
        }
    }

    /// Sends as many as there is room for now, as one batch; how many.
    pub(crate) fn try_batch<M: Copy>(
        &mut self,
        messages: &mut Peekable<impl Iterator<Item = M>>,
        push: impl Fn(&mut publish::Batch<'_>, M) -> bus_core::Result<Option<u64>>,
    ) -> Result<u64> {
        match self.once(|core| fill(core, messages, &push)) {
            Err(Error::Full { .. }) => Ok(0),
            sent => sent,
        }
    }

    /// Sends them all, in batches as long as there is room for; how many.
    pub(crate) fn batch<M: Copy>(
        &mut self,
        messages: &mut Peekable<impl Iterator<Item = M>>,
        push: impl Fn(&mut publish::Batch<'_>, M) -> bus_core::Result<Option<u64>>,
    ) -> Result<u64> {
        let mut sent = 0;
        while messages.peek().is_some() {
            sent += self.until(None, |core| fill(core, messages, &push))?;
        }
        Ok(sent)
    }

    #[cold]
    pub(crate) fn full(&self) -> Error {
        let slowest = match self.slowest() {
            Some((peer, lag)) => format!(
                "subscriber {} (process {}) is {lag} messages behind",
                peer.client, peer.pid
            ),
            None => "no subscriber is behind, but the payload does not fit now".into(),
        };
        let advice = match self.settings.delivery {
            Delivery::Fail => "this topic lets nobody wait for room",
            _ => "send() waits for room",
        };
        Error::Full {
            topic: self.member.topic(),
            slowest,
            advice,
            room: self.room(),
        }
    }

    /// The setting of the topic that would make more room.
    fn room(&self) -> &'static str {
        if self.settings.max_payload > self.settings.inline() {
            "arena or depth"
        } else {
            "depth"
        }
    }

    pub(crate) fn stalls(&self) -> Vec<Stall> {
        let stall = |peer: Peer| Stall {
            time: self.stalls.of(peer.id),
            evicted: self.core.has_evicted(peer.id),
            peer,
        };
        self.peers.list().into_iter().map(stall).collect()
    }

    /// From now on this publisher loses no message for want of room, also on a lossy topic.
    pub(crate) fn refuse_losses(&mut self) {
        self.core.refuse_losses();
    }

    /// Sends bytes that must not be lost. Where it [refuses losses](Self::refuse_losses), nothing is
    /// published that fails.
    ///
    /// # Errors
    /// [`Error::Full`] where a lossy topic has no room because of all that subscribers hold.
    pub(crate) fn send_kept(&mut self, bytes: &[u8]) -> Result<u64> {
        if self.settings.delivery != Delivery::Lossy {
            return self.until(None, |core| core.try_send_bytes(bytes));
        }
        let sent = self.if_room(|core| core.try_send_bytes(bytes))?;
        sent.ok_or_else(|| self.protected())
    }

    /// Whether there is room for a message of `len` bytes now.
    pub(crate) fn has_room(&mut self, len: u64) -> Result<bool> {
        let room = self.if_room(|core| Ok(core.has_room(len).then_some(())))?;
        Ok(room.is_some())
    }

    /// Tries it; again while subscribers join, which a lossy topic looks at first.
    fn if_room<R>(
        &mut self,
        mut attempt: impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<Option<R>> {
        for _ in 0..JOINS {
            self.refresh()?;
            let done = attempt(&mut self.core).map_err(|e| self.member.wrap(e))?;
            if done.is_some() || self.core.stale().is_none() {
                return Ok(done);
            }
        }
        Ok(None)
    }

    /// There is no room, and waiting is not for a writer of a state.
    #[cold]
    pub(crate) fn protected(&self) -> Error {
        Error::Full {
            topic: self.member.topic(),
            slowest: "readers protect so many old values that there is no room for a new one"
                .into(),
            advice: "set it again",
            room: self.room(),
        }
    }

    pub(crate) fn nowhere(&self) -> u64 {
        self.core.nowhere()
    }

    pub(crate) fn slowest(&self) -> Option<(Peer, u64)> {
        let (id, lag) = self.core.slowest()?;
        Some((self.peers.get(id)?, lag))
    }

    pub(crate) fn subscribers(&mut self) -> Result<Vec<Peer>> {
        self.refresh()?;
        self.patrol()?;
        let mut peers = self.peers.list();
        peers.retain(|peer| self.core.has_joined(peer.id));
        Ok(peers)
    }

    pub(crate) fn wait_for_subscribers(
        &mut self,
        count: usize,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let deadline = deadline(timeout);
        loop {
            self.refresh()?;
            let joined = self.core.joined();
            if joined >= count {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(self.member.timeout("subscribers"));
            }
            let member = Arc::clone(&self.member);
            let news = member.news();
            self.patrol()?;
            if self.core.is_foreign() {
                self.sleep_parked_for_subscribers(joined, deadline)?;
            } else {
                self.core
                    .sleep_for_subscribers(joined, Some(news), deadline);
            }
        }
    }

    pub(crate) fn topic(&self) -> String {
        self.member.topic()
    }

    pub(crate) fn wrap(&self, error: bus_core::Error) -> Error {
        self.member.wrap(error)
    }

    pub(crate) fn settings(&self) -> &TopicSettings {
        &self.settings
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

/// Pushes messages while there is room; how many, if any.
#[inline(always)]
fn fill<M: Copy>(
    core: &mut publish::Publisher,
    messages: &mut Peekable<impl Iterator<Item = M>>,
    push: impl Fn(&mut publish::Batch<'_>, M) -> bus_core::Result<Option<u64>>,
) -> bus_core::Result<Option<u64>> {
    let mut batch = core.batch();
    while let Some(message) = messages.peek() {
        if push(&mut batch, *message)?.is_none() {
            break;
        }
        messages.next();
    }
    let sent = batch.sent();
    Ok((sent > 0).then_some(sent))
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // A forked copy of the handle ends nothing.
        if self.member.is_here() {
            self.notice_loss();
            self.core.close();
        }
    }
}
