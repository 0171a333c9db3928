//! A reader that nobody waits for: what the floor of a ring says is intact, that reader has read whole.
//!
//! It reads a slot's words, not its payload: the model checker forbids payload to be read while it is written, which
//! such a reader does on purpose. What orders one orders the other: both lie between the same two fences.

use bus_core::backend::{Backend, RingMemory, site};
use loom::sync::atomic::{Ordering, fence};
use loom::thread;

use crate::Loom;
use crate::actors::{Broker, Shape, Writer};
use crate::memory::ModelRing;

const SHAPE: Shape = Shape {
    depth: 2,
    history: 1,
    units: 0,
};

/// Bytes of each message: no two that share a slot have as many.
fn len(sequence: u64) -> u32 {
    1 + sequence as u32
}

/// Reads a message, and keeps it if the floor is still at or below it.
fn read(ring: &ModelRing, sequence: u64) {
    let slot = ring.slot(sequence);
    // ORDERING: as for a subscriber.
    if Loom::load64(&slot.commit, site::RECEIVE_COMMIT) != sequence + 1 {
        return;
    }
    // ORDERING: before the look at the floor, by the fence.
    let place = Loom::load64(&slot.place, site::RELAXED);
    // ORDERING: acquire pairs with `FLOOR_STEP_FENCE`.
    fence(Ordering::Acquire);
    // ORDERING: after the fence.
    if Loom::load64(&ring.header().floor.0, site::RELAXED) <= sequence {
        assert_eq!(
            place as u32,
            len(sequence),
            "a message under another's stamp"
        );
    }
}

/// The ring goes round while it is read.
pub(super) fn steps() {
    let broker = Broker::start(2);
    let mut writer = Writer::new(&broker, 0, SHAPE);
    assert!(writer.try_send(len(0)) && writer.try_send(len(1)));
    let ring = writer.memory().clone();
    let reader = thread::spawn(move || (0..2).for_each(|sequence| read(&ring, sequence)));
    assert!(writer.try_send(len(2)) && writer.try_send(len(3)));
    reader.join().expect("a failure stops the model");
}
