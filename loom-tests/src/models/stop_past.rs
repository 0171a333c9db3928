//! A writer that stops for ever while it goes past a reader, after each of its stores: the reader does not hang, and counts what is gone.

use loom::thread;

use super::past::{LOSSY, SHAPE};
use super::tally::Tally;
use crate::actors::{Broker, Subscriber, Writer};
use crate::fuse;
use crate::memory::SLOT_BYTES;

/// The floor is raised, nothing is written there.
pub(super) fn after_floor() {
    run(1);
}

/// The stamp of the old message is marked, or the header of one that nobody protects is half written.
pub(super) fn after_mark() {
    run(2);
}

/// The place is the new message's, and its stamp is not there.
pub(super) fn after_place() {
    run(3);
}

/// The message is there; nobody was woken.
pub(super) fn after_stamp() {
    run(4);
}

fn run(stores: usize) {
    let broker = Broker::start(3);
    let mut writer = Writer::going_past(&broker, 0, SHAPE, LOSSY);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    (0..2).for_each(|_| assert!(writer.try_send(SLOT_BYTES)));
    let reader = thread::spawn(move || {
        let mut tally = Tally::default();
        while tally.receive(&subscriber) {}
        (subscriber, tally)
    });
    let writing = thread::spawn(move || {
        fuse::stop_after(stores, || {
            writer.try_send(SLOT_BYTES);
        });
        writer
    });
    // The kernel knows that it is dead; the broker hears of it.
    let writer = writing.join().expect("a failure stops the model");
    broker.publisher_left(0);
    assert!(stores > 2 || writer.head() == 2, "it stopped before");
    let (subscriber, tally) = reader.join().expect("a failure stops the model");
    tally.drain(&subscriber, writer.head());
}
