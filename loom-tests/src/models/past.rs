//! A publisher that goes past its subscribers: what they look at is left alone, what they lose is counted.

use bus_core::Overrun;
use loom::thread;

use super::tally::Tally;
use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::{SLOT_BYTES, UNIT_BYTES};

pub(super) const SHAPE: Shape = Shape {
    depth: 2,
    history: 1,
    units: 2,
};

pub(super) const LOSSY: Overrun = Overrun {
    step: 1,
    window: 1,
    pins: 1,
    evicts: false,
};

/// Laps around a reader that reads one message at a time, over one lap and a half.
pub(super) fn laps() {
    traffic(SHAPE, LOSSY, &[SLOT_BYTES; 3], 0, 2);
}

/// The floor moves past two messages at a time, and the reader's window has two; it keeps both before it releases them.
pub(super) fn window() {
    let shape = Shape { depth: 4, ..SHAPE };
    let rules = Overrun {
        step: 2,
        window: 2,
        ..LOSSY
    };
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, shape, rules);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    (0..3).for_each(|_| assert!(writer.try_send(SLOT_BYTES)));
    let reader = thread::spawn(move || {
        let mut tally = Tally::default();
        {
            let first = tally.take(&subscriber);
            let second = tally.take(&subscriber);
            for held in [second, first].into_iter().flatten() {
                held.release();
            }
        }
        tally.poll(&subscriber);
        (subscriber, tally)
    });
    (0..3).for_each(|_| assert!(writer.try_send(SLOT_BYTES)));
    let (subscriber, tally) = reader.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}

/// Payloads lie in the arena: what is read there is an island.
pub(super) fn arena() {
    let shape = Shape { units: 3, ..SHAPE };
    traffic(shape, LOSSY, &[UNIT_BYTES; 2], 2, 2);
}

/// Two readers, one behind the other.
pub(super) fn two_readers() {
    let broker = Broker::start(3);
    let mut writer = Writer::going_past(&broker, 0, SHAPE, LOSSY);
    let readers: Vec<_> = (0..2)
        .map(|id| Subscriber::of(&broker, &mut [&mut writer], id))
        .collect();
    assert!(writer.try_send(SLOT_BYTES) && writer.try_send(SLOT_BYTES));
    let readers: Vec<_> = readers
        .into_iter()
        .map(|subscriber| {
            thread::spawn(move || {
                let mut tally = Tally::default();
                tally.poll(&subscriber);
                (subscriber, tally)
            })
        })
        .collect();
    assert!(writer.try_send(SLOT_BYTES));
    for reader in readers {
        let (subscriber, tally) = reader.join().expect("a failure stops the model");
        tally.drain(&subscriber, writer.head());
    }
}

/// The reader is about to read where its message lies, in a slot whose header is replaced meanwhile.
pub(super) fn replaced() {
    // Its cursor protects the first message from the start, so the third one's payload always goes into the arena.
    traffic(SHAPE, LOSSY, &[SLOT_BYTES], 2, 1);
}

/// A reader asleep for messages is woken by each lap; a sleep ends also where what it waited for is gone.
pub(super) fn sleeps() {
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, SHAPE, LOSSY);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    let reader = thread::spawn(move || {
        let mut tally = Tally::default();
        while tally.receive(&subscriber) {}
        (subscriber, tally)
    });
    (0..3).for_each(|_| assert!(writer.try_send(SLOT_BYTES)));
    writer.close();
    let (subscriber, tally) = reader.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}

/// One writer that has sent `before` messages of the first length sends these; one reader polls so often meanwhile.
fn traffic(shape: Shape, rules: Overrun, lens: &[u32], before: usize, polls: usize) {
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, shape, rules);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    (0..before).for_each(|_| assert!(writer.try_send(lens[0])));
    let reader = thread::spawn(move || {
        let mut tally = Tally::default();
        (0..polls).for_each(|_| tally.poll(&subscriber));
        (subscriber, tally)
    });
    for len in lens {
        assert!(writer.try_send(*len), "it never waits");
    }
    let (subscriber, tally) = reader.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}
