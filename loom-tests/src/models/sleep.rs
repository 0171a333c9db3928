//! A reader sleeps until there is a message; none is missed, whichever writer sends it.

use loom::thread;

use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::SLOT_BYTES;

const SHAPE: Shape = Shape {
    depth: 2,
    history: 1,
    units: 0,
};

/// Two messages, with a sleep before each.
pub(super) fn one_reader() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    let thread = thread::spawn(move || {
        writer.try_send(SLOT_BYTES);
        writer.try_send(SLOT_BYTES);
    });
    assert!(subscriber.receive() && subscriber.receive());
    thread.join().expect("a failure stops the model");
}

/// One ring of the bell wakes both.
pub(super) fn two_readers() {
    let broker = Broker::start(3);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let readers: Vec<_> = (0..2)
        .map(|id| Subscriber::of(&broker, &mut [&mut writer], id))
        .map(|subscriber| thread::spawn(move || assert!(subscriber.receive())))
        .collect();
    writer.try_send(SLOT_BYTES);
    for reader in readers {
        reader.join().expect("a failure stops the model");
    }
}

/// Two rings, slept on at once.
pub(super) fn two_writers() {
    let broker = Broker::start(3);
    let mut first = Writer::new(&broker, 0, SHAPE);
    let mut second = Writer::new(&broker, 1, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut first, &mut second], 0);
    let writers = [first, second].map(|mut writer| {
        thread::spawn(move || {
            writer.try_send(SLOT_BYTES);
        })
    });
    assert!(subscriber.receive() && subscriber.receive());
    assert_eq!((subscriber.next(0), subscriber.next(1)), (1, 1));
    for writer in writers {
        writer.join().expect("a failure stops the model");
    }
}

/// Writer and reader sleep for each other in turn, over one lap and a half.
pub(super) fn both_sides() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    let thread = thread::spawn(move || (0..3).for_each(|_| writer.send(SLOT_BYTES)));
    for _ in 0..3 {
        assert!(subscriber.receive());
    }
    thread.join().expect("a failure stops the model");
}

/// Two messages, and the reader is parked before each. The writer has heard of that.
pub(super) fn parked() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    subscriber.parks(0);
    writer.sync();
    let thread = thread::spawn(move || {
        writer.try_send(SLOT_BYTES);
        writer.try_send(SLOT_BYTES);
    });
    assert!(subscriber.receive() && subscriber.receive());
    thread.join().expect("a failure stops the model");
}

/// The reader begins to park while a writer that has not heard of it sends the only message.
pub(super) fn parked_unknown() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    let thread = thread::spawn(move || {
        writer.try_send(SLOT_BYTES);
    });
    subscriber.parks(0);
    assert!(subscriber.receive());
    thread.join().expect("a failure stops the model");
}

/// The reader belongs to another user, so the writer never gets its doorbell and asks the broker to ring.
pub(super) fn parked_stranger() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    subscriber.parks_as_stranger();
    let thread = thread::spawn(move || {
        writer.try_send(SLOT_BYTES);
        writer
    });
    assert!(subscriber.receive());
    thread.join().expect("a failure stops the model");
}

/// The reader sleeps on shared words until a second user comes, who steals whoever sleeps there.
pub(super) fn second_user() {
    let broker = Broker::start(3);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    subscriber.parks_where_foreign(0);
    writer.sync();
    let ring = writer.memory().clone();
    let thief = thread::spawn(move || {
        broker.second_user();
        broker.steal(&ring);
    });
    let thread = thread::spawn(move || {
        writer.try_send(SLOT_BYTES);
    });
    assert!(subscriber.receive());
    for thread in [thief, thread] {
        thread.join().expect("a failure stops the model");
    }
}

/// One reader is parked, another one asleep: the writer wakes each in its way.
pub(super) fn parked_and_asleep() {
    let broker = Broker::start(3);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let parked = Subscriber::of(&broker, &mut [&mut writer], 0);
    let asleep = Subscriber::of(&broker, &mut [&mut writer], 1);
    parked.parks(0);
    writer.sync();
    let readers =
        [parked, asleep].map(|subscriber| thread::spawn(move || assert!(subscriber.receive())));
    writer.try_send(SLOT_BYTES);
    for reader in readers {
        reader.join().expect("a failure stops the model");
    }
}

/// Writer and reader park for each other in turn, over one lap and a half.
pub(super) fn both_parked() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    subscriber.parks(0);
    writer.parks();
    let thread = thread::spawn(move || (0..3).for_each(|_| writer.send(SLOT_BYTES)));
    for _ in 0..3 {
        assert!(subscriber.receive());
    }
    thread.join().expect("a failure stops the model");
}
