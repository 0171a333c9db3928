//! Messages held while a publisher goes past: they stay as they are, and are written over once they are released.

use std::rc::Rc;

use bus_core::Overrun;
use bus_core::receive::Refused;
use loom::thread;

use super::past::{LOSSY, SHAPE};
use super::tally::Tally;
use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::{SLOT_BYTES, UNIT_BYTES};

/// A message leaves the window while the publisher comes past, and is seen in the window or at its pin.
pub(super) fn pinned() {
    let (_broker, mut writer, subscriber) = topic(SHAPE, LOSSY, 2, SLOT_BYTES);
    let mut tally = Tally::default();
    let held = tally.take(&subscriber).expect("it was there before");
    let writer = thread::spawn(move || {
        send(&mut writer, 2, SLOT_BYTES);
        writer
    });
    tally.poll(&subscriber);
    held.release();
    let writer = writer.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}

/// A pin is given back while the publisher comes past again: then the message is written over.
pub(super) fn unpinned() {
    let (_broker, mut writer, subscriber) = topic(SHAPE, LOSSY, 2, SLOT_BYTES);
    let mut tally = Tally::default();
    let held = tally.take(&subscriber).expect("it was there before");
    tally.poll(&subscriber);
    send(&mut writer, 1, SLOT_BYTES);
    let writer = thread::spawn(move || {
        send(&mut writer, 2, SLOT_BYTES);
        writer
    });
    held.release();
    let writer = writer.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}

/// One pin is given back and taken for another message: who sees the new message there has seen the reads of the old one end.
pub(super) fn pinned_again() {
    let (_broker, mut writer, subscriber) = topic(SHAPE, LOSSY, 2, SLOT_BYTES);
    let mut tally = Tally::default();
    let first = tally.take(&subscriber).expect("it was there before");
    let second = tally.take(&subscriber).expect("it was there before");
    send(&mut writer, 1, SLOT_BYTES);
    let writer = thread::spawn(move || {
        send(&mut writer, 2, SLOT_BYTES);
        writer
    });
    first.release();
    tally.poll(&subscriber);
    second.release();
    let writer = writer.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}

/// The same for spans of the arena: what is held there is an island, and free again once it is released.
pub(super) fn island() {
    let shape = Shape { units: 3, ..SHAPE };
    let (_broker, mut writer, subscriber) = topic(shape, LOSSY, 2, UNIT_BYTES);
    let mut tally = Tally::default();
    let held = tally.take(&subscriber).expect("it was there before");
    tally.poll(&subscriber);
    let writer = thread::spawn(move || {
        send(&mut writer, 3, UNIT_BYTES);
        writer
    });
    held.release();
    let writer = writer.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}

/// Held messages take all the room: the publisher goes on nevertheless, and its messages are counted as lost.
pub(super) fn nowhere() {
    let shape = Shape { units: 0, ..SHAPE };
    let (_broker, mut writer, subscriber) = topic(shape, LOSSY, 2, SLOT_BYTES);
    let mut tally = Tally::default();
    let held = tally.take(&subscriber).expect("it was there before");
    let writer = thread::spawn(move || {
        send(&mut writer, 1, SLOT_BYTES);
        writer
    });
    tally.poll(&subscriber);
    held.release();
    let writer = writer.join().expect("a failure stops the model");
    assert!(writer.nowhere() <= 1, "the others have room");
    tally.drain(&subscriber, writer.head());
}

/// No pin is left: the subscriber is refused, for as long as it holds as much, and what it holds stays.
pub(super) fn held_too_many() {
    let (_broker, mut writer, subscriber) = topic(SHAPE, LOSSY, 2, SLOT_BYTES);
    let mut tally = Tally::default();
    let first = tally.take(&subscriber).expect("it was there before");
    let second = tally.take(&subscriber).expect("it was there before");
    send(&mut writer, 1, SLOT_BYTES);
    let writer = thread::spawn(move || {
        send(&mut writer, 1, SLOT_BYTES);
        writer
    });
    assert_eq!(subscriber.try_take().err(), Some(Refused::Held));
    first.release();
    tally.poll(&subscriber);
    second.release();
    let writer = writer.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}

/// One reader holds a message from the start, another one reads.
pub(super) fn beside_reader() {
    let broker = Broker::start(3);
    let mut writer = Writer::going_past(&broker, 0, SHAPE, LOSSY);
    let [holder, reader] = [0, 1].map(|id| Subscriber::of(&broker, &mut [&mut writer], id));
    send(&mut writer, 2, SLOT_BYTES);
    let mut holds = Tally::default();
    let held = holds.take(&holder).expect("it was there before");
    let mut reads = Tally::default();
    reads.poll(&reader);
    let reading = thread::spawn(move || {
        reads.poll(&reader);
        (reader, reads)
    });
    let writing = thread::spawn(move || {
        send(&mut writer, 2, SLOT_BYTES);
        writer
    });
    held.release();
    let writer = writing.join().expect("a failure stops the model");
    let (reader, reads) = reading.join().expect("a failure stops the model");
    reads.drain(&reader, writer.head());
    holds.drain(&holder, writer.head());
}

/// A topic with one subscriber and this many messages.
fn topic(
    shape: Shape,
    rules: Overrun,
    messages: usize,
    len: u32,
) -> (Rc<Broker>, Writer, Subscriber) {
    let broker = Broker::start(2);
    let mut writer = Writer::going_past(&broker, 0, shape, rules);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    send(&mut writer, messages, len);
    (broker, writer, subscriber)
}

fn send(writer: &mut Writer, messages: usize, len: u32) {
    (0..messages).for_each(|_| assert!(writer.try_send(len), "it never waits"));
}

/// What has no room lies nowhere only for as long as so much is held.
pub(super) fn room_again() {
    let shape = Shape {
        depth: 4,
        units: 1,
        ..SHAPE
    };
    let (_broker, mut writer, subscriber) = topic(shape, LOSSY, 1, UNIT_BYTES);
    let mut tally = Tally::default();
    let held = tally.take(&subscriber).expect("it was sent");
    send(&mut writer, 2, UNIT_BYTES);
    assert_eq!(writer.nowhere(), 2, "the arena is held");
    held.release();
    tally.poll(&subscriber);
    send(&mut writer, 1, UNIT_BYTES);
    assert_eq!(writer.nowhere(), 2, "the arena is free");
    tally.drain(&subscriber, writer.head());
}

/// A message that lies nowhere is looked at while its slot gets another one.
pub(super) fn nowhere_replaced() {
    let shape = Shape { units: 0, ..SHAPE };
    let (_broker, mut writer, subscriber) = topic(shape, LOSSY, 2, SLOT_BYTES);
    let mut tally = Tally::default();
    let held = tally.take(&subscriber).expect("it was there before");
    tally.poll(&subscriber);
    // It finds no room, and protected is its slot, though not its payload.
    send(&mut writer, 1, SLOT_BYTES);
    assert_eq!(writer.nowhere(), 1, "its slot is held");
    held.release();
    send(&mut writer, 1, SLOT_BYTES);
    let writer = thread::spawn(move || {
        send(&mut writer, 1, SLOT_BYTES);
        writer
    });
    tally.poll(&subscriber);
    let writer = writer.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}
