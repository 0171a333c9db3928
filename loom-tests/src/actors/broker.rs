//! The broker's part: an event into a mailbox, *then* the version moves, *then* the caller goes on.
//!
//! A mailbox stands for a socket: it orders what was sent before what is received, and nothing else. The version itself
//! carries no ordering here. Whoever calls is the broker for that step, as it waits for its answer anyway.

use std::rc::Rc;

use bus_core::backend::{Backend, site};
use bus_core::memory::layout::{Line, RegistryPage};
use loom::sync::Mutex;

use crate::memory::{ModelReader, registry};
use crate::{Loom, kernel};

/// What a publisher is told.
pub(super) enum ToPublisher {
    /// Adopt this subscriber.
    Joined(u64, ModelReader),
    /// Drop this subscriber.
    Left(u64),
}

/// A topic with at most one publisher and one subscriber that listen to it.
pub struct Broker {
    registry: Rc<RegistryPage<Loom>>,
    publisher: Mutex<Vec<ToPublisher>>,
    /// Publishers that are gone.
    subscriber: Mutex<Vec<u64>>,
}

impl Broker {
    /// Starts a model with this many threads: its kernel and its broker.
    pub fn start(threads: usize) -> Rc<Self> {
        kernel::boot(threads);
        Rc::new(Self {
            registry: registry(),
            publisher: Mutex::new(Vec::new()),
            subscriber: Mutex::new(Vec::new()),
        })
    }

    /// The topic's registry.
    pub fn registry(&self) -> Rc<RegistryPage<Loom>> {
        self.registry.clone()
    }

    /// A subscriber joins.
    pub fn subscriber_joined(&self, id: u64, reader: ModelReader) {
        post(&self.publisher, ToPublisher::Joined(id, reader));
        bump(&self.registry.subscribers);
    }

    /// A subscriber is gone.
    pub fn subscriber_left(&self, id: u64) {
        post(&self.publisher, ToPublisher::Left(id));
        bump(&self.registry.subscribers);
    }

    /// A publisher is gone, as the kernel says.
    pub fn publisher_left(&self, publisher: u64) {
        post(&self.subscriber, publisher);
        bump(&self.registry.publishers);
    }

    pub(super) fn for_publisher(&self) -> Vec<ToPublisher> {
        collect(&self.publisher)
    }

    pub(super) fn for_subscriber(&self) -> Vec<u64> {
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
    // ORDERING: the broker alone moves it; members get the events from the mailbox, which orders them.
    let next = Loom::load32(&version.0, site::RELAXED) + 1;
    Loom::store32(&version.0, next, site::RELAXED);
    Loom::wake(&version.0);
}
