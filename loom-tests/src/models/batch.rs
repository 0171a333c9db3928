//! Many at once: published, received, released, also in another order.

use loom::thread;

use crate::actors::{Broker, Held, Shape, Subscriber, Writer};
use crate::memory::SLOT_BYTES;

const SHAPE: Shape = Shape {
    depth: 4,
    history: 1,
    units: 0,
};

/// Batches with one look at the sleepers reach a reader that sleeps, and wait for room.
pub(super) fn publish() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, Shape { depth: 2, ..SHAPE });
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    let reader = thread::spawn(move || {
        for _ in 0..3 {
            assert!(subscriber.receive());
        }
    });
    writer.send_batches(3, SLOT_BYTES);
    reader.join().expect("a failure stops the model");
}

/// A batch that is received is released with one store.
pub(super) fn receive() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    writer.batch(2, SLOT_BYTES);
    let reader = thread::spawn(move || {
        let mut count = subscriber.poll_batch(3);
        assert!(count >= 2, "what was there before is received");
        count += subscriber.poll_batch(2);
        (subscriber, count)
    });
    for _ in 0..4 {
        writer.try_send(SLOT_BYTES);
    }
    let (subscriber, mut count) = reader.join().expect("a failure stops the model");
    while subscriber.poll() {
        count += 1;
    }
    assert_eq!(count as u64, writer.head(), "nothing is lost");
}

/// A message that is kept while newer ones are released stays as it is; then all of them are given back.
pub(super) fn out_of_order() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, Shape { depth: 2, ..SHAPE });
    let subscriber = Subscriber::of(&broker, &mut [&mut writer], 0);
    writer.batch(1, SLOT_BYTES);
    writer.batch(1, SLOT_BYTES);
    let reader = thread::spawn(move || {
        let first = subscriber.take().expect("it was there before");
        let second = subscriber.take().expect("it was there before");
        Held::release(second);
        Held::release(first);
        subscriber
    });
    writer.send(SLOT_BYTES);
    writer.send(SLOT_BYTES);
    let subscriber = reader.join().expect("a failure stops the model");
    while subscriber.poll() {}
    assert_eq!(subscriber.next(0), 4, "nothing is lost");
}
