//! Back-pressure: a writer sleeps until there is room, and is woken by whoever makes it.

use std::rc::Rc;

use loom::thread;

use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::SLOT_BYTES;

const SHAPE: Shape = Shape {
    depth: 2,
    history: 1,
    units: 0,
};

fn full_ring(broker: &Rc<Broker>, subscribers: u64) -> (Writer, Vec<Subscriber>) {
    let mut writer = Writer::new(broker, 0, SHAPE);
    let subscribers = (0..subscribers)
        .map(|id| Subscriber::of(broker, &mut [&mut writer], id))
        .collect();
    assert!(writer.try_send(SLOT_BYTES) && writer.try_send(SLOT_BYTES));
    (writer, subscribers)
}

/// A full ring, and a reader that releases what is in it.
pub(super) fn one_reader() {
    let broker = Broker::start(2);
    let (mut writer, mut subscribers) = full_ring(&broker, 1);
    let subscriber = subscribers.remove(0);
    let reader = thread::spawn(move || assert!(subscriber.poll() && subscriber.poll()));
    writer.send(SLOT_BYTES);
    writer.send(SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}

/// The writer needs both readers; whichever is slower wakes it.
pub(super) fn two_readers() {
    let broker = Broker::start(3);
    let (mut writer, subscribers) = full_ring(&broker, 2);
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|subscriber| thread::spawn(move || assert!(subscriber.poll())))
        .collect();
    writer.send(SLOT_BYTES);
    for reader in readers {
        reader.join().expect("a failure stops the model");
    }
}

/// The reader leaves with a message that it has read and not released; the writer goes on without a broker.
pub(super) fn reader_drops() {
    let broker = Broker::start(2);
    let (mut writer, mut subscribers) = full_ring(&broker, 1);
    let subscriber = subscribers.remove(0);
    let reader = thread::spawn(move || {
        subscriber.take().expect("the ring is full").check();
        drop(subscriber);
    });
    writer.send(SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}

/// The reader leaves before it has attached the ring; the writer goes on without a broker.
pub(super) fn unattached_reader_drops() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::new(&broker, 1);
    writer.adopt(0, subscriber.memory());
    assert!(writer.try_send(SLOT_BYTES) && writer.try_send(SLOT_BYTES));
    let reader = thread::spawn(move || drop(subscriber));
    writer.send(SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}

/// The reader never releases anything, but leaves: the version wakes the writer.
pub(super) fn reader_leaves() {
    let broker = Broker::start(2);
    let (mut writer, _subscribers) = full_ring(&broker, 1);
    let kernel = thread::spawn(move || broker.subscriber_left(0));
    writer.send(SLOT_BYTES);
    kernel.join().expect("a failure stops the model");
}

/// The writer begins to park while the reader, who does not look at the broker's news, releases what is in the ring.
pub(super) fn parked_unknown() {
    let broker = Broker::start(2);
    let (mut writer, mut subscribers) = full_ring(&broker, 1);
    let subscriber = subscribers.remove(0);
    let reader = thread::spawn(move || assert!(subscriber.poll() && subscriber.poll()));
    writer.parks();
    writer.send(SLOT_BYTES);
    writer.send(SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}

/// A writer that is parked, and a reader that leaves without having released anything.
pub(super) fn parked_reader_drops() {
    let broker = Broker::start(2);
    let (mut writer, mut subscribers) = full_ring(&broker, 1);
    let subscriber = subscribers.remove(0);
    writer.parks();
    let reader = thread::spawn(move || drop(subscriber));
    writer.send(SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}
