//! A subscriber's owner: reads events and messages, checks each payload, sleeps when there is nothing.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use bus_core::backend::{Backend, site};
use bus_core::receive::{Found, Receiver, Refused, RingReader};

use super::broker::ToSubscriber;
use super::{Broker, Writer};
use crate::Loom;
use crate::doorbell::Doorbell;
use crate::memory::ModelReader;

/// A subscriber and its owner.
pub struct Subscriber {
    receiver: Receiver<Loom>,
    memory: ModelReader,
    broker: Rc<Broker>,
    ended: Cell<usize>,
    /// Where it sleeps, once it parks.
    own: OnceCell<Rc<Doorbell>>,
    /// It sleeps on shared words as long as there are members of one user.
    may_sleep: Cell<bool>,
}

/// A message that was received and is not yet released.
pub struct Held<'a> {
    ring: &'a RingReader<Loom>,
    found: Found,
    lost: u64,
}

impl Held<'_> {
    /// Its sequence number.
    pub fn sequence(&self) -> u64 {
        self.found.sequence
    }

    /// Messages lost right before it.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Its publisher.
    pub fn publisher(&self) -> u64 {
        self.ring.publisher()
    }

    /// Reads it: it is whole, and the one that its sequence number says.
    pub fn check(&self) {
        let Found {
            sequence,
            place,
            len,
        } = self.found;
        for payload in self.ring.ring().payload(sequence, place, len) {
            payload.expect(self.publisher(), sequence);
        }
    }

    /// Reads it once more and gives it back.
    pub fn release(self) {
        self.check();
        self.ring.release(self.found.sequence);
    }
}

impl Subscriber {
    /// A subscriber of the broker's topic, for this many rings at most.
    pub fn new(broker: &Rc<Broker>, rings: usize) -> Self {
        Self::with_pins(broker, rings, 0)
    }

    /// The same, with pins for each ring.
    pub fn with_pins(broker: &Rc<Broker>, rings: usize, pins: usize) -> Self {
        let memory = ModelReader::new(rings, pins);
        let receiver = Receiver::new(memory.clone(), broker.registry());
        receiver.set_relay(broker.relay_to_publishers());
        Self {
            receiver,
            memory,
            broker: broker.clone(),
            ended: Cell::new(0),
            own: OnceCell::new(),
            may_sleep: Cell::new(false),
        }
    }

    /// Parks from now on, as number `id`.
    pub fn parks(&self, id: u64) {
        let own = Doorbell::new();
        self.broker.subscriber_notified(id, own.clone());
        assert!(self.own.set(own).is_ok(), "it is asked for once");
    }

    /// Parks as number `id` where there are members of a second user, and sleeps on shared words
    /// where there are none.
    pub fn parks_where_foreign(&self, id: u64) {
        self.parks(id);
        self.may_sleep.set(true);
    }

    /// Parks from now on, as a process of another user than the writers: only the broker has its doorbell.
    pub fn parks_as_stranger(&self) {
        let own = Doorbell::new();
        self.broker.stranger_notified(own.clone());
        assert!(self.own.set(own).is_ok(), "it is asked for once");
    }

    /// A subscriber of all these writers' rings from their first message on, adopted by each as number `id`.
    pub fn of(broker: &Rc<Broker>, writers: &mut [&mut Writer], id: u64) -> Self {
        let rules = writers.first().and_then(|w| w.holding().overrun);
        let this = Self::with_pins(broker, writers.len(), rules.map_or(0, |r| r.pins));
        for (index, writer) in writers.iter_mut().enumerate() {
            this.attach(writer, index);
            writer.adopt(id, &this.memory);
        }
        if rules.is_some_and(|rules| rules.evicts) {
            // Who has not joined is not waited for.
            this.receiver.joined(0);
        }
        this
    }

    /// Its own segment.
    pub fn memory(&self) -> &ModelReader {
        &self.memory
    }

    /// Maps the ring of a writer.
    pub fn attach(&self, writer: &Writer, index: usize) {
        let ring = writer.memory().clone();
        let reader = self.memory.clone();
        let publisher = index as u64;
        let ring = RingReader::new(ring, reader, index, publisher, 0, writer.holding());
        self.receiver.attach(ring);
    }

    /// Sets the cursors to the rings' heads: before it joins.
    pub fn start_at_heads(&self, history: u64) {
        for ring in self.receiver.rings() {
            ring.start_at_head(history);
        }
    }

    /// Joins as number `id`: from its return on, it receives whatever is published.
    pub fn join(&self, id: u64, history: u64) {
        self.start_at_heads(history);
        self.register(id, history);
    }

    /// The second half of a join. The cursors stay where they are until the broker has told the
    /// publisher: in the shipped bus, much may be published between the two.
    pub fn register(&self, id: u64, history: u64) {
        self.broker.subscriber_joined(id, self.memory.clone());
        self.receiver.joined(history);
    }

    /// The sequence that comes next on the ring with this index.
    pub fn next(&self, index: usize) -> u64 {
        self.receiver.ring(index).expect("it is attached").next()
    }

    fn sync(&self) {
        let Some(version) = self.receiver.stale() else {
            return;
        };
        for event in self.broker.for_subscriber() {
            match event {
                ToSubscriber::Left(gone) => {
                    let mut rings = self.receiver.rings();
                    if let Some(ring) = rings.find(|ring| ring.publisher() == gone) {
                        ring.end();
                    }
                }
                ToSubscriber::Synced => {}
                ToSubscriber::Notify(publisher, doorbell) => {
                    self.receiver.set_notify(publisher, doorbell);
                }
            }
        }
        self.receiver.set_version(version);
    }

    /// Messages lost up to now.
    pub fn lost(&self) -> u64 {
        self.receiver.lost()
    }

    /// Receives a message, if there is one, or why its ring refuses.
    pub fn try_take(&self) -> Result<Option<Held<'_>>, Refused> {
        let Some((ring, found)) = self.receiver.poll() else {
            return self
                .receiver
                .refusal()
                .map_or(Ok(None), |(_, why)| Err(why));
        };
        let lost = ring.take_lost();
        let held = Held { ring, found, lost };
        held.check();
        Ok(Some(held))
    }

    /// Receives a message, if there is one.
    pub fn take(&self) -> Option<Held<'_>> {
        let taken = self.try_take();
        taken.unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    /// Receives and releases a message, if there is one; whether.
    pub fn poll(&self) -> bool {
        self.take().map(Held::release).is_some()
    }

    /// Receives and releases as many messages of one ring as there are, `most` at most, as one batch; how many.
    pub fn poll_batch(&self, most: usize) -> usize {
        let Some(ring) = self.receiver.select_other() else {
            return 0;
        };
        let first = ring.next();
        let found: Vec<_> = (0..most).map_while(|_| ring.poll()).collect();
        for found in &found {
            Held {
                ring,
                found: *found,
                lost: 0,
            }
            .check();
        }
        ring.release_range(first, ring.next());
        found.len()
    }

    /// Receives a message, asleep for as long as there is none; none when all rings have ended.
    pub fn wait(&self) -> Option<Held<'_>> {
        loop {
            self.sync();
            if let Some(held) = self.take() {
                return Some(held);
            }
            let ends = self.receiver.rings().filter(|ring| ring.take_end());
            self.ended.set(self.ended.get() + ends.count());
            if self.ended.get() == self.receiver.len() {
                return None;
            }
            match self.own.get() {
                Some(own) if !self.may_sleep.get() || self.receiver.is_foreign() => self.park(own),
                _ => self.receiver.sleep(&[], None),
            }
        }
    }

    fn park(&self, own: &Doorbell) {
        self.receiver.park();
        Loom::heavy_fence(site::SLEEP_READER_FENCE);
        if !self.receiver.ready() {
            own.sleep();
        }
        self.receiver.unpark();
    }

    /// Receives and releases a message, asleep for as long as there is none; false when all rings have ended.
    pub fn receive(&self) -> bool {
        self.wait().map(Held::release).is_some()
    }

    /// Receives and releases until all rings have ended.
    pub fn receive_to_the_end(&self) {
        while self.receive() {}
    }
}
