//! A publisher that waits for its slowest subscriber until it evicts it.

use bus_core::Overrun;
use bus_core::receive::Refused;
use loom::thread;

use super::past::{LOSSY, SHAPE};
use super::tally::Tally;
use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::SLOT_BYTES;

const EVICTING: Overrun = Overrun {
    evicts: true,
    ..LOSSY
};

/// The publisher sleeps until the reader's window moves; nothing is lost.
pub(super) fn waits() {
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, SHAPE, EVICTING);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    (0..2).for_each(|_| assert!(writer.try_send(SLOT_BYTES)));
    let reader = thread::spawn(move || {
        let mut tally = Tally::default();
        (0..3).for_each(|_| assert!(tally.receive(&subscriber)));
        (subscriber, tally)
    });
    (0..2).for_each(|_| writer.send(SLOT_BYTES));
    let (subscriber, tally) = reader.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
    assert_eq!(subscriber.lost(), 0, "the publisher waits");
}

/// The reader is evicted while it goes on reading: it is told, unless it came away in time, and what it holds stays.
pub(super) fn stalled() {
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, SHAPE, EVICTING);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    (0..2).for_each(|_| assert!(writer.try_send(SLOT_BYTES)));
    let mut tally = Tally::default();
    let held = tally.take(&subscriber).expect("it was there before");
    let writing = thread::spawn(move || {
        for _ in 0..2 {
            if !writer.try_send(SLOT_BYTES) {
                assert!(writer.evict(), "it stands in the way");
                assert!(writer.try_send(SLOT_BYTES), "nobody else does");
            }
        }
        writer
    });
    let mut evicted = false;
    for _ in 0..2 {
        match subscriber.try_take() {
            Ok(Some(message)) => {
                assert!(!evicted, "an eviction is for ever");
                tally.count(&message);
                message.release();
            }
            Ok(None) => {}
            Err(refused) => {
                assert_eq!(refused, Refused::Evicted);
                evicted = true;
            }
        }
    }
    held.release();
    let writer = writing.join().expect("a failure stops the model");
    assert!(writer.has_evicted(0) || !evicted, "nobody else does");
    if !writer.has_evicted(0) {
        tally.drain(&subscriber, writer.head());
    }
    assert_eq!(subscriber.lost(), 0, "an eviction is no loss");
}

/// A reader that has fallen behind finds out that it was evicted. Its window protected messages that
/// took all the room, and protects them no longer: that wakes the publisher.
pub(super) fn wakes_for_window() {
    let rules = Overrun {
        step: 2,
        window: 2,
        ..EVICTING
    };
    let shape = Shape {
        depth: 4,
        units: 1,
        ..SHAPE
    };
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, shape, rules);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    (0..4).for_each(|_| assert!(writer.try_send(SLOT_BYTES)));
    // Both are given back, but the window still protects them until it moves.
    assert!(subscriber.poll() && subscriber.poll());
    assert!(!writer.try_send(SLOT_BYTES), "the reader is in the way");
    assert!(writer.evict(), "nobody else is");
    // This one lies in the arena, for the slot of the first message is protected. The next one has no
    // room: the slot of the second message is protected as well.
    assert!(writer.try_send(SLOT_BYTES));
    assert!(
        !writer.try_send(SLOT_BYTES),
        "the window takes all the room"
    );
    let reader = thread::spawn(move || {
        assert_eq!(subscriber.try_take().err(), Some(Refused::Evicted));
        // It stays: dropping it would wake the publisher as well.
        subscriber
    });
    writer.send(SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}

/// Everything is held that has room, also in the arena: the publisher sleeps until something is given back.
pub(super) fn waits_for_pin() {
    let rules = Overrun {
        pins: 2,
        ..EVICTING
    };
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, Shape { units: 1, ..SHAPE }, rules);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    let mut tally = Tally::default();
    let mut send_and_take = |tally: &mut Tally| {
        assert!(writer.try_send(SLOT_BYTES));
        tally.take(&subscriber).expect("it was sent")
    };
    // The third one lies in the arena, for the first one's slot is held.
    let first = send_and_take(&mut tally);
    send_and_take(&mut tally).release();
    let third = send_and_take(&mut tally);
    send_and_take(&mut tally).release();
    let writing = thread::spawn(move || {
        writer.send(SLOT_BYTES);
        writer
    });
    first.release();
    let writer = writing.join().expect("a failure stops the model");
    third.release();
    tally.drain(&subscriber, writer.head());
    assert_eq!(subscriber.lost(), 0, "the publisher waits");
}
