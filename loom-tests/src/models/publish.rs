//! Messages come whole, in order, each once, while the ring goes round.

use loom::thread;

use crate::actors::{Broker, Shape, Subscriber, Writer};
use crate::memory::{SLOT_BYTES, UNIT_BYTES};

/// One writer, two readers: nobody waits, so most of it is seen before it is there.
pub(super) fn content() {
    traffic(
        Shape {
            depth: 2,
            history: 1,
            units: 0,
        },
        &[SLOT_BYTES; 3],
        2,
        2,
    );
}

/// One writer, one reader, two laps and a half of a ring of two slots.
pub(super) fn laps() {
    traffic(
        Shape {
            depth: 2,
            history: 1,
            units: 0,
        },
        &[SLOT_BYTES; 5],
        1,
        4,
    );
}

/// Payloads of one and two units go round in an arena of three, and keep their last one.
pub(super) fn arena() {
    traffic(
        Shape {
            depth: 4,
            history: 1,
            units: 3,
        },
        &[
            2 * UNIT_BYTES,
            UNIT_BYTES,
            UNIT_BYTES,
            SLOT_BYTES,
            UNIT_BYTES,
        ],
        1,
        3,
    );
}

fn traffic(shape: Shape, lens: &[u32], readers: u64, polls: usize) {
    let broker = Broker::start(1 + readers as usize);
    let mut writer = Writer::new(&broker, 0, shape);
    let spawned: Vec<_> = (0..readers)
        .map(|id| Subscriber::of(&broker, &mut [&mut writer], id))
        .map(|subscriber| {
            thread::spawn(move || {
                let _polled = (0..polls).filter(|_| subscriber.poll()).count();
                subscriber
            })
        })
        .collect();
    for len in lens {
        writer.try_send(*len);
    }
    for thread in spawned {
        let subscriber = thread.join().expect("a failure stops the model");
        while subscriber.poll() {}
        assert_eq!(subscriber.next(0), writer.head(), "nothing is lost");
    }
}
