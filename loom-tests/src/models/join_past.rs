//! A subscriber joins where publishers go past: nothing is written under it before they know of it, and what it loses is counted from its start on.

use bus_core::Overrun;
use loom::thread;

use super::past::{LOSSY, SHAPE};
use super::tally::Tally;
use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::{SLOT_BYTES, UNIT_BYTES};

const EVICTING: Overrun = Overrun {
    evicts: true,
    ..LOSSY
};

/// The publisher never waits; the joiner starts at its head.
pub(super) fn lossy() {
    join(SHAPE, LOSSY, 0, |writer| {
        (0..3).for_each(|_| send(writer, SLOT_BYTES));
    });
}

/// The joiner wants the last message as well.
pub(super) fn lossy_history() {
    join(SHAPE, LOSSY, 1, |writer| {
        (0..3).for_each(|_| send(writer, SLOT_BYTES));
    });
}

/// Payloads lie in the arena.
pub(super) fn lossy_arena() {
    let shape = Shape { units: 3, ..SHAPE };
    join(shape, LOSSY, 1, |writer| {
        (0..2).for_each(|_| send(writer, UNIT_BYTES));
    });
}

/// A batch goes as far as it may without a look at who joins.
pub(super) fn lossy_batch() {
    let shape = Shape { depth: 4, ..SHAPE };
    join(shape, LOSSY, 1, |writer| {
        writer.sync();
        let sent = (0..4).take_while(|_| writer.try_put(SLOT_BYTES)).count();
        assert!(sent > 0, "the first one was checked for");
        writer.announce();
    });
}

/// The publisher waits for whoever has joined: from then on nothing is lost.
pub(super) fn evicting() {
    let end = join(SHAPE, EVICTING, 0, |writer| {
        (0..3).for_each(|_| writer.send(SLOT_BYTES));
    });
    assert_eq!(end.lost(), 0, "the publisher waits");
}

/// The joiner takes a kept place, and starts with the oldest message that is there, below what other
/// joiners count on. A publisher that does not know it yet announces a floor above that, and stays.
pub(super) fn evicting_at_first() {
    let rules = Overrun {
        step: 2,
        ..EVICTING
    };
    let shape = Shape { depth: 4, ..SHAPE };
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, shape, rules);
    (0..4).for_each(|_| assert!(writer.try_send(SLOT_BYTES)));
    let subscriber = Subscriber::with_pins(&broker, 1, rules.pins);
    subscriber.attach(&writer, 0);
    let joining = thread::spawn(move || {
        subscriber.register(0, u64::MAX);
        subscriber
    });
    writer.try_send(SLOT_BYTES);
    let subscriber = joining.join().expect("a failure stops the model");
    // It has not read anything yet, so it cannot have been too slow.
    Tally::from(subscriber.next(0)).drain(&subscriber, writer.head());
}

/// It does not wait: it only wants to know of who joins before it goes on.
fn send(writer: &mut Writer, len: u32) {
    while !writer.try_send(len) {}
}

/// A publisher without a reader publishes a message, then what `publish` does, then closes; somebody joins.
fn join(shape: Shape, rules: Overrun, history: u64, publish: fn(&mut Writer)) -> Subscriber {
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, shape, rules);
    let len = if shape.units > 2 {
        UNIT_BYTES
    } else {
        SLOT_BYTES
    };
    assert!(writer.try_send(len));
    let subscriber = Subscriber::with_pins(&broker, 1, rules.pins);
    subscriber.attach(&writer, 0);
    let published = writer.published();
    let reader = thread::spawn(move || {
        subscriber.join(0, history);
        let first = subscriber.next(0);
        assert!(first + history >= 1, "what was there before is history");
        assert!(first <= published.get(), "it starts no later than now");
        let mut tally = Tally::from(first);
        while tally.receive(&subscriber) {}
        (subscriber, tally)
    });
    publish(&mut writer);
    writer.close();
    let (subscriber, tally) = reader.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
    subscriber
}
