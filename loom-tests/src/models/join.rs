//! A subscriber joins while messages flow: what is published after its join returned is received, without a gap,
//! and what it reads is left alone by a publisher that does not know of it yet.

use loom::thread;

use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::{SLOT_BYTES, UNIT_BYTES};

const SHAPE: Shape = Shape {
    depth: 2,
    history: 1,
    units: 0,
};

/// One message at a time, and a version check before each.
pub(super) fn singles() {
    join(SHAPE, 0, 1, |writer| {
        for _ in 0..3 {
            writer.send(SLOT_BYTES);
        }
    });
}

/// As before; the subscriber wants the last message as well.
pub(super) fn history() {
    join(SHAPE, 1, 1, |writer| {
        for _ in 0..3 {
            writer.send(SLOT_BYTES);
        }
    });
}

/// A batch as long as the history allows is in flight.
pub(super) fn batch() {
    let shape = Shape {
        depth: 4,
        history: 2,
        units: 0,
    };
    join(shape, 2, 4, |writer| {
        writer.send_batches(4, SLOT_BYTES);
    });
}

/// Payloads lie in an arena that holds the last one and the next.
pub(super) fn arena() {
    let shape = Shape {
        depth: 4,
        history: 1,
        units: 2,
    };
    join(shape, 1, 1, |writer| {
        for _ in 0..3 {
            writer.send(UNIT_BYTES);
        }
    });
}

/// A batch in the arena leaves alone what was last before it, although it publishes more than the history since.
pub(super) fn arena_batch() {
    let shape = Shape {
        depth: 4,
        history: 1,
        units: 3,
    };
    join(shape, 1, 1, |writer| {
        writer.send_batches(3, UNIT_BYTES);
    });
}

/// The publisher says nothing meanwhile: a join needs no answer from it.
pub(super) fn idle_publisher() {
    let shape = Shape {
        depth: 4,
        history: 2,
        units: 0,
    };
    join(shape, 1, 3, |_| ());
}

/// A publisher without a reader publishes `before` messages, then what `publish` does, then closes; somebody joins.
fn join(shape: Shape, history: u64, before: u64, publish: fn(&mut Writer)) {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, shape);
    let len = if shape.units > 0 {
        UNIT_BYTES
    } else {
        SLOT_BYTES
    };
    (0..before).for_each(|_| writer.send(len));
    let subscriber = Subscriber::new(&broker, 1);
    subscriber.attach(&writer, 0);
    let published = writer.published();
    let reader = thread::spawn(move || {
        subscriber.join(0, history);
        let first = subscriber.next(0);
        assert!(
            first + history >= before,
            "what was there before is history"
        );
        assert!(first <= published.get(), "it starts no later than now");
        subscriber.receive_to_the_end();
        subscriber
    });
    publish(&mut writer);
    writer.close();
    let subscriber = reader.join().expect("a failure stops the model");
    assert_eq!(subscriber.next(0), writer.head(), "there is no gap");
}

/// The publisher waits for the joiner, asleep; what it sends from then on is received, and nothing is passed over.
pub(super) fn waited_for() {
    waited_for_with(|_| ());
}

/// The same for a publisher that is parked on its doorbell.
pub(super) fn waited_for_parked() {
    waited_for_with(Writer::parks);
}

fn waited_for_with(prepare: fn(&mut Writer)) {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::new(&broker, 1);
    subscriber.attach(&writer, 0);
    prepare(&mut writer);
    let reader = thread::spawn(move || {
        subscriber.join(0, 0);
        assert_eq!(subscriber.next(0), 0, "it was waited for");
        assert!(subscriber.receive());
    });
    writer.wait_for_subscriber();
    writer.send(SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}

/// The publisher waits, asleep, for a subscriber that has not attached its ring yet.
pub(super) fn waited_for_unattached() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::new(&broker, 1);
    let reader = thread::spawn(move || {
        subscriber.register(0, 0);
        // It stays: dropping it would be leaving.
        subscriber
    });
    writer.wait_for_subscriber();
    reader.join().expect("a failure stops the model");
}

/// The first cursor of a joiner is a whole lap behind: the publisher sleeps until the joiner has
/// moved the cursor to the head.
pub(super) fn wakes_for_room() {
    wakes_for_room_with(|_| ());
}

/// The same for a publisher that is parked on its doorbell.
pub(super) fn wakes_parked_for_room() {
    wakes_for_room_with(Writer::parks);
}

fn wakes_for_room_with(prepare: fn(&mut Writer)) {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::new(&broker, 1);
    subscriber.attach(&writer, 0);
    subscriber.start_at_heads(0);
    prepare(&mut writer);
    (0..3).for_each(|_| writer.send(SLOT_BYTES));
    let reader = thread::spawn(move || {
        // Not `join`: that would look at the head before the broker tells the publisher.
        subscriber.register(0, 0);
        subscriber
    });
    writer.send(SLOT_BYTES);
    let subscriber = reader.join().expect("a failure stops the model");
    while subscriber.poll() {}
    assert_eq!(subscriber.next(0), 4, "there is no gap");
}

/// The joiner sleeps at once, while the only message is on its way from a publisher that does not know of it yet.
pub(super) fn wakes_for_message() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::new(&broker, 1);
    subscriber.attach(&writer, 0);
    let reader = thread::spawn(move || {
        subscriber.join(0, 0);
        if subscriber.next(0) == 0 {
            assert!(subscriber.receive());
        }
    });
    writer.send(SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}

/// The joiner parks at once, while the only message is on its way from a publisher that does not know of it yet.
pub(super) fn parked() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::new(&broker, 1);
    subscriber.attach(&writer, 0);
    let reader = thread::spawn(move || {
        subscriber.join(0, 0);
        subscriber.parks(0);
        if subscriber.next(0) == 0 {
            assert!(subscriber.receive());
        }
    });
    writer.send(SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}
