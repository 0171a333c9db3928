//! The broker's part: an event into a mailbox, *then* the version moves, *then* the caller goes on.
//!
//! A mailbox stands for a socket: it orders what was sent before what is received, and nothing else. The version itself
//! carries no ordering here. Whoever calls is the broker for that step, as it waits for its answer anyway.

use std::rc::Rc;

use bus_core::backend::{Backend, RingMemory, site};
use bus_core::memory::layout::{Line, RegistryPage};
use loom::sync::Mutex;

use crate::doorbell::{Doorbell, Known};
use crate::memory::{ModelReader, ModelRing, registry};
use crate::{Loom, kernel};

/// What a publisher is told.
pub(super) enum ToPublisher {
    /// Adopt this subscriber.
    Joined(u64, ModelReader),
    /// Drop this subscriber.
    Left(u64),
    /// This subscriber may park.
    Notify(u64, Rc<Doorbell>),
}

/// What a subscriber is told.
pub(super) enum ToSubscriber {
    /// This publisher is gone.
    Left(u64),
    /// This publisher may park.
    Notify(u64, Rc<Doorbell>),
    /// Nothing has changed.
    Synced,
}

/// A topic with at most one publisher and one subscriber that listen to it.
pub struct Broker {
    registry: Rc<RegistryPage<Loom>>,
    publisher: Mutex<Vec<ToPublisher>>,
    subscriber: Mutex<Vec<ToSubscriber>>,
    /// Publishers and subscribers that may park.
    publishers: Known,
    subscribers: Known,
}

impl Broker {
    /// Starts a model with this many threads: its kernel and its broker.
    pub fn start(threads: usize) -> Rc<Self> {
        kernel::boot(threads);
        Rc::new(Self {
            registry: registry(),
            publisher: Mutex::new(Vec::new()),
            subscriber: Mutex::new(Vec::new()),
            publishers: Known::new(),
            subscribers: Known::new(),
        })
    }

    /// The topic's registry.
    pub fn registry(&self) -> Rc<RegistryPage<Loom>> {
        self.registry.clone()
    }

    /// A subscriber joins.
    pub fn subscriber_joined(&self, id: u64, reader: ModelReader) {
        self.tell_publisher(ToPublisher::Joined(id, reader));
    }

    /// A subscriber may park from now on.
    pub fn subscriber_notified(&self, id: u64, doorbell: Rc<Doorbell>) {
        self.subscribers.add(doorbell.clone());
        self.tell_publisher(ToPublisher::Notify(id, doorbell));
    }

    /// A subscriber of another user may park from now on: publishers are not given its doorbell.
    pub fn stranger_notified(&self, doorbell: Rc<Doorbell>) {
        self.subscribers.add(doorbell);
    }

    /// A publisher may park from now on.
    pub fn publisher_notified(&self, publisher: u64, doorbell: Rc<Doorbell>) {
        self.publishers.add(doorbell.clone());
        self.tell_subscriber(ToSubscriber::Notify(publisher, doorbell));
    }

    /// A member of a second user is let in. From then on it may [steal](Self::steal) whoever sleeps
    /// on shared words.
    pub fn second_user(&self) {
        // ORDERING: the mailbox's.
        Loom::store32(&self.registry.foreign.0, 1, site::RELAXED);
        self.tell_subscriber(ToSubscriber::Synced);
    }

    /// Steals whoever sleeps on the version of the set of publishers, or on the bell of this ring.
    pub fn steal(&self, ring: &ModelRing) {
        let futex = &kernel::current().futex;
        futex.steal(&self.registry.publishers.0);
        futex.steal(&ring.header().bell.bell);
    }

    /// How a publisher wakes subscribers that it does not know.
    pub fn relay_to_subscribers(&self) -> Known {
        self.subscribers.clone()
    }

    /// How a subscriber wakes publishers that it does not know.
    pub fn relay_to_publishers(&self) -> Known {
        self.publishers.clone()
    }

    /// A subscriber is gone.
    pub fn subscriber_left(&self, id: u64) {
        self.tell_publisher(ToPublisher::Left(id));
    }

    /// A publisher is gone, as the kernel says.
    pub fn publisher_left(&self, publisher: u64) {
        self.tell_subscriber(ToSubscriber::Left(publisher));
    }

    fn tell_publisher(&self, event: ToPublisher) {
        post(&self.publisher, event);
        bump(&self.registry.subscribers);
        self.publishers.ring();
    }

    fn tell_subscriber(&self, event: ToSubscriber) {
        post(&self.subscriber, event);
        bump(&self.registry.publishers);
        self.subscribers.ring();
    }

    pub(super) fn for_publisher(&self) -> Vec<ToPublisher> {
        collect(&self.publisher)
    }

    pub(super) fn for_subscriber(&self) -> Vec<ToSubscriber> {
        collect(&self.subscriber)
    }
}

fn post<T>(mailbox: &Mutex<Vec<T>>, event: T) {
    let mut mailbox = mailbox.lock().expect("no model goes on after a panic");
    mailbox.push(event);
}

fn collect<T>(mailbox: &Mutex<Vec<T>>) -> Vec<T> {
    let mut mailbox = mailbox.lock().expect("no model goes on after a panic");
    std::mem::take(&mut mailbox)
}

fn bump(version: &Line<<Loom as Backend>::Word32>) {
    // ORDERING: none. Members get the events from the mailbox, which orders them. In one step, for loom's sake:
    // see `Word`.
    version.0.add_one();
    Loom::wake(&version.0);
}
