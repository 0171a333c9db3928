//! A writer that says goodbye: its readers drain the ring, then see its end, without a broker.

use loom::thread;

use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::SLOT_BYTES;

const SHAPE: Shape = Shape {
    depth: 2,
    history: 1,
    units: 0,
};

/// Whoever sees the end has seen the last message.
pub(super) fn close() {
    run(|writer| {
        writer.send(SLOT_BYTES);
        writer.send(SLOT_BYTES);
    });
}

/// The end comes right after a commit that was not announced.
pub(super) fn close_after_batch() {
    run(|writer| {
        writer.sync();
        assert!(writer.try_put(SLOT_BYTES));
    });
}

/// An end without any message wakes who sleeps.
pub(super) fn wakes_sleeper() {
    run(|_| ());
}

/// An end without any message wakes who is parked.
pub(super) fn wakes_parked() {
    run_with(|subscriber| subscriber.parks(0), |_| ());
}

fn run(publish: impl FnOnce(&mut Writer) + 'static) {
    run_with(|_| (), publish);
}

fn run_with(prepare: fn(&Subscriber), publish: impl FnOnce(&mut Writer) + 'static) {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    prepare(&subscriber);
    let thread = thread::spawn(move || {
        publish(&mut writer);
        writer.close();
        writer
    });
    subscriber.receive_to_the_end();
    let received = subscriber.next(0);
    let writer = thread.join().expect("a failure stops the model");
    assert_eq!(
        received,
        writer.head(),
        "the end comes after the last message"
    );
}
