//! A publisher's owner: looks at the version before every message or batch, writes payloads, waits for room.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bus_core::Overrun;
use bus_core::backend::RingMemory;
use bus_core::publish::{Arena, Claim, Overdue, RingPublisher};
use bus_core::receive::Holding;

use super::Broker;
use super::broker::ToPublisher;
use crate::Loom;
use crate::doorbell::Doorbell;
use crate::memory::{ModelReader, ModelRing, SLOT_BYTES, UNIT_BYTES};

/// Size of a modelled ring.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Slots, a power of two.
    pub depth: usize,
    /// Messages kept for who joins.
    pub history: u64,
    /// Units of the arena.
    pub units: usize,
}

/// A publisher and its owner.
pub struct Writer {
    ring: RingPublisher<Loom>,
    memory: ModelRing,
    publisher: u64,
    /// Messages whose commit has begun: what really was published, whoever knows of it. loom's threads take turns.
    published: Rc<Cell<u64>>,
    broker: Rc<Broker>,
    overrun: Option<Overrun>,
    /// Where it sleeps, once it parks.
    own: Option<Rc<Doorbell>>,
}

impl Writer {
    /// Publisher number `index` of the broker's topic, with a new ring.
    pub fn new(broker: &Rc<Broker>, index: usize, shape: Shape) -> Self {
        Self::with_rules(broker, index, shape, None)
    }

    /// The same, that goes past subscribers by these rules.
    pub fn going_past(broker: &Rc<Broker>, index: usize, shape: Shape, rules: Overrun) -> Self {
        Self::with_rules(broker, index, shape, Some(rules))
    }

    fn with_rules(
        broker: &Rc<Broker>,
        index: usize,
        shape: Shape,
        overrun: Option<Overrun>,
    ) -> Self {
        let memory = ModelRing::new(shape.depth, shape.units);
        let bytes = shape.units as u64 * u64::from(UNIT_BYTES);
        let mut ring = RingPublisher::new(
            memory.clone(),
            broker.registry(),
            index,
            0,
            shape.history,
            SLOT_BYTES.into(),
            Arena::new(bytes, shape.depth as u64),
            overrun,
        );
        ring.set_relay(broker.relay_to_subscribers());
        Self {
            ring,
            memory,
            publisher: index as u64,
            published: Rc::default(),
            broker: broker.clone(),
            overrun,
            own: None,
        }
    }

    /// How its subscribers hold messages.
    pub fn holding(&self) -> Holding {
        Holding {
            most: self.memory.depth(),
            overrun: self.overrun,
        }
    }

    /// Parks from now on, where it would sleep for room.
    pub fn parks(&mut self) {
        let own = Doorbell::new();
        self.broker.publisher_notified(self.publisher, own.clone());
        self.own = Some(own);
    }

    fn sleep(&mut self) {
        match &self.own {
            None => self.ring.sleep(None, None),
            Some(own) => {
                if self.ring.park() {
                    own.sleep();
                    self.ring.unpark();
                }
            }
        }
    }

    /// Its ring.
    pub fn memory(&self) -> &ModelRing {
        &self.memory
    }

    /// Messages published.
    pub fn head(&self) -> u64 {
        self.ring.head()
    }

    /// Messages published up to now, for others to look at, outside the protocol.
    pub fn published(&self) -> Rc<Cell<u64>> {
        self.published.clone()
    }

    /// Adopts a subscriber that was there first.
    pub fn adopt(&mut self, id: u64, reader: &ModelReader) {
        self.ring.adopt(id, reader.clone());
    }

    /// Looks at the version, and does what the broker sent.
    pub fn sync(&mut self) {
        let Some(version) = self.ring.stale() else {
            return;
        };
        for event in self.broker.for_publisher() {
            match event {
                ToPublisher::Joined(id, reader) => self.ring.adopt(id, reader),
                ToPublisher::Left(id) => self.ring.drop_follower(id),
                ToPublisher::Notify(id, doorbell) => self.ring.set_notify(id, doorbell),
            }
        }
        self.ring.set_version(version);
    }

    /// Claims room for a message of `len` bytes, if there is any.
    pub fn claim(&mut self, len: u32) -> Option<Claim> {
        self.ring.claim(len.into()).ok()
    }

    /// Writes the payload of a claim.
    pub fn fill(&self, claim: Claim, len: u32) {
        for payload in self.memory.payload(claim.sequence, claim.place, len) {
            payload.write(self.publisher, claim.sequence);
        }
    }

    /// Commits a claim.
    pub fn commit(&mut self, claim: Claim, len: u32) {
        self.published.set(claim.sequence + 1);
        self.ring.commit(claim, len);
    }

    /// Wakes who sleeps.
    pub fn announce(&mut self) {
        self.ring.announce();
    }

    /// Publishes a message without announcing it, if there is room.
    pub fn try_put(&mut self, len: u32) -> bool {
        let Some(claim) = self.claim(len) else {
            return false;
        };
        self.fill(claim, len);
        self.commit(claim, len);
        true
    }

    /// Publishes a message, if there is room.
    pub fn try_send(&mut self, len: u32) -> bool {
        self.sync();
        let sent = self.try_put(len);
        if sent {
            self.announce();
        }
        sent
    }

    /// Publishes a message, and sleeps for as long as there is no room.
    pub fn send(&mut self, len: u32) {
        while !self.try_send(len) {
            self.sleep();
        }
    }

    /// Evicts whoever stands in the way now, as if all its time was over; whether there was anybody.
    pub fn evict(&mut self) -> bool {
        self.ring.evict_stalled(Duration::ZERO) == Overdue::Evicted
    }

    /// Whether this subscriber was evicted.
    pub fn has_evicted(&self, id: u64) -> bool {
        self.ring.has_evicted(id)
    }

    /// Messages that lie nowhere.
    pub fn nowhere(&self) -> u64 {
        self.ring.nowhere()
    }

    /// Publishes as many messages of `len` bytes as a batch may have now, `wanted` at most; how many.
    pub fn batch(&mut self, wanted: u64, len: u32) -> u64 {
        self.sync();
        let limit = self.ring.batch_limit().min(wanted);
        // Slots are promised to a batch, the arena is not.
        let count = (0..limit).take_while(|_| self.try_put(len)).count() as u64;
        assert!(
            len > SLOT_BYTES || count == limit,
            "a batch has the slots that it was promised"
        );
        if count > 0 {
            self.announce();
        }
        count
    }

    /// Publishes `count` messages in batches as long as there is room for, and sleeps for room.
    pub fn send_batches(&mut self, count: u64, len: u32) {
        let end = self.head() + count;
        while self.head() < end {
            if self.batch(end - self.head(), len) == 0 {
                self.sleep();
            }
        }
    }

    /// Waits until a subscriber has joined, asleep for as long as there is none.
    pub fn wait_for_subscriber(&mut self) {
        loop {
            self.sync();
            if self.ring.joined() > 0 {
                return;
            }
            match &self.own {
                None => self.ring.sleep_for_subscribers(0, None, None),
                Some(own) => {
                    if self.ring.park_for_subscribers(0) {
                        own.sleep();
                        self.ring.unpark();
                    }
                }
            }
        }
    }

    /// Ends the ring.
    pub fn close(&mut self) {
        self.ring.close();
    }
}
