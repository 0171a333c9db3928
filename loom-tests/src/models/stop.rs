//! A writer that stops for ever at each step of a publication, and the broker that says so.
//!
//! The survivor neither hangs nor sees what was not committed, and misses nothing that was.

use loom::thread;

use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::SLOT_BYTES;

const SHAPE: Shape = Shape {
    depth: 2,
    history: 1,
    units: 0,
};

/// It has claimed a slot.
pub(super) fn after_claim() {
    run(0, |writer| {
        assert!(writer.claim(SLOT_BYTES).is_some());
    });
}

/// It has written the payload.
pub(super) fn after_payload() {
    run(0, |writer| {
        let claim = writer.claim(SLOT_BYTES).expect("the ring is empty");
        writer.fill(claim, SLOT_BYTES);
    });
}

/// It has committed, and not looked at the sleepers: the broker's version wakes them.
pub(super) fn after_commit() {
    run(1, |writer| assert!(writer.try_put(SLOT_BYTES)));
}

/// As before, and its reader is parked: the broker rings the doorbell.
pub(super) fn parked() {
    run_with(
        |subscriber| subscriber.parks(0),
        1,
        |writer| {
            assert!(writer.try_put(SLOT_BYTES));
        },
    );
}

/// It has woken the sleepers.
pub(super) fn after_announce() {
    run(1, |writer| {
        assert!(writer.try_put(SLOT_BYTES));
        writer.announce();
    });
}

fn run(committed: u64, publish: fn(&mut Writer)) {
    run_with(|_| (), committed, publish);
}

fn run_with(prepare: fn(&Subscriber), committed: u64, publish: fn(&mut Writer)) {
    let broker = Broker::start(3);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    prepare(&subscriber);
    let reader = thread::spawn(move || {
        subscriber.receive_to_the_end();
        subscriber.next(0)
    });
    let thread = thread::spawn(move || {
        writer.sync();
        publish(&mut writer);
    });
    // The kernel knows that it is dead; the broker hears of it.
    thread.join().expect("a failure stops the model");
    broker.publisher_left(0);
    let received = reader.join().expect("a failure stops the model");
    assert_eq!(
        received, committed,
        "what was committed is received, nothing else"
    );
}
