//! No allocation for a message, shown by an allocator that counts what its thread asks for.
//!
//! It is a program of its own, because an allocator belongs to a whole program.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bus_core::Delivery;
use bus_core::control::Trust;
use bus_core::receive::{Received, Subscriber};

use common::{Pen, Topic, cursor_offset, payload, pin_offset};

const MESSAGES: u64 = 100_000;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // Gone while a thread ends; nothing is measured then.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator; the count is a plain cell without a destructor, so
// that counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of this thread while `run` runs.
fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

#[test]
fn the_allocator_counts() {
    assert_eq!(allocations(|| drop(Box::new(1_u64))), 1);
}

fn receive(subscriber: &Subscriber, bytes: &[u8]) {
    let message = subscriber.poll().unwrap().unwrap();
    assert_eq!(message.bytes(), bytes);
}

#[test]
fn inline_messages_allocate_nothing_from_the_first_on() {
    let mut topic = Topic::new(common::settings(64, 64, 48, 1, 0));
    let readers = [topic.joined(1), topic.joined(2)];
    let bytes = payload(0, 40);
    let made = allocations(|| {
        for _ in 0..MESSAGES {
            topic.sync();
            topic.publisher.try_send_bytes(&bytes).unwrap().unwrap();
            readers.iter().for_each(|reader| receive(reader, &bytes));
        }
    });
    assert_eq!(made, 0);
}

#[test]
fn arena_messages_allocate_nothing_from_the_first_on() {
    for history in [1, 7] {
        let mut topic = Topic::new(common::settings(8, 64, 1000, history, 1 << 16));
        let reader = topic.joined(1);
        let bytes: Vec<_> = [49, 64, 300, 1000].map(|len| payload(0, len)).into();
        let made = allocations(|| {
            for sequence in 0..MESSAGES {
                topic.sync();
                let bytes = &bytes[sequence as usize % 4];
                topic.publisher.try_send_bytes(bytes).unwrap().unwrap();
                receive(&reader, bytes);
            }
        });
        assert_eq!(made, 0, "with a history of {history}");
    }
}

#[test]
fn batches_and_loans_allocate_nothing_from_the_first_on() {
    let mut topic = Topic::new(common::settings(64, 64, 200, 1, 0));
    let reader = topic.joined(1);
    let bytes = payload(0, 40);
    let made = allocations(|| {
        for _ in 0..MESSAGES / 10 {
            topic.sync();
            let mut batch = topic.publisher.batch();
            while batch.sent() < 9 && batch.push_bytes(&bytes).unwrap().is_some() {}
            drop(batch);
            topic.sync();
            let mut slot = topic.publisher.try_loan(40).unwrap().unwrap();
            slot.bytes().copy_from_slice(&bytes);
            slot.commit(40);
            while let Some(batch) = reader.poll_batch(10) {
                while let Some(message) = batch.next() {
                    assert_eq!(message.unwrap().1, bytes);
                }
            }
        }
    });
    assert_eq!(made, 0);
    assert!(topic.publisher.head() > MESSAGES / 5);
}

#[test]
fn releases_out_of_order_allocate_once() {
    let mut topic = Topic::new(common::settings(256, 64, 48, 1, 0));
    let reader = topic.joined(1);
    let bytes = payload(0, 40);
    let mut out_of_order = || {
        for _ in 0..2 {
            topic.sync();
            topic.publisher.try_send_bytes(&bytes).unwrap().unwrap();
        }
        let older = reader.poll().unwrap().unwrap();
        let newer = reader.poll().unwrap().unwrap();
        drop(newer);
        drop(older);
    };
    assert_eq!(allocations(&mut out_of_order), 1);
    let made = allocations(|| (0..MESSAGES / 2).for_each(|_| out_of_order()));
    assert_eq!(made, 0);
}

#[test]
fn values_with_strings_allocate_nothing_once_warm() {
    type Tick = (u32, f64, String);
    let mut topic = Topic::new(common::settings(8, 64, 400, 1, 0));
    let reader = topic.joined(1);
    // Some fit a slot, some do not.
    let ticks: Vec<Tick> = [3, 30, 300].map(|len| (7, 1.5, "x".repeat(len))).into();
    let mut run = |messages: u64| {
        for sequence in 0..messages {
            topic.sync();
            let tick = &ticks[sequence as usize % 3];
            topic.publisher.try_send(tick).unwrap().unwrap();
            let message = reader.poll().unwrap().unwrap();
            let seen = Received::<Tick>::new(message).unwrap();
            assert_eq!((seen.0.to_native(), seen.2.as_str()), (7, tick.2.as_str()));
        }
    };
    run(30);
    assert_eq!(allocations(|| run(MESSAGES)), 0);
}

#[test]
fn lossy_messages_allocate_nothing_once_warm_also_while_some_are_held() {
    for (depth, max_payload) in [(8, 48), (256, 48), (8, 300), (64, 300)] {
        let settings =
            common::overrun_settings(Delivery::Lossy, depth, max_payload, (1, 4), 1 << 16);
        let mut topic = Topic::new(settings);
        let readers = [topic.joined(1), topic.joined(2), topic.joined(3)];
        let bytes = payload(0, max_payload as usize);
        // One keeps up, one holds a message and keeps up, one stands still and then jumps.
        let mut run = |laps: u64| {
            for lap in 0..laps {
                let mut held = None;
                for _ in 0..4 * depth {
                    topic.sync();
                    topic.publisher.try_send_bytes(&bytes).unwrap().unwrap();
                    receive(&readers[0], &bytes);
                    let message = readers[1].poll().unwrap().unwrap();
                    held.get_or_insert(message);
                }
                assert_eq!(held.unwrap().bytes(), bytes);
                while let Some(batch) = readers[2].poll_batch(9) {
                    while let Some(message) = batch.next() {
                        assert_eq!(message.unwrap().1, bytes);
                    }
                }
                assert!(readers[2].lost() >= lap * u64::from(depth));
            }
        };
        run(3);
        assert_eq!(allocations(|| run(1000 / u64::from(depth))), 0);
        assert_eq!((readers[0].lost(), readers[1].lost()), (0, 0));
        assert_eq!(topic.publisher.nowhere(), 0);
    }
}

#[test]
fn wild_pins_and_cursors_make_a_publisher_allocate_no_more_than_honest_ones() {
    let settings = common::overrun_settings(Delivery::Lossy, 64, 300, (1, 64), 1 << 12);
    let mut topic = Topic::new(settings);
    let readers = [topic.joined(1), topic.joined(2)];
    let pens = readers.each_ref().map(|reader| Pen::on(&reader.fd()));
    let bytes = payload(0, 300);
    let mut run = |rounds: u64| {
        for round in 0..rounds {
            let head = topic.publisher.head();
            let chance = payload(round, 65);
            let wild = |number: usize| (head + 32).wrapping_sub(u64::from(chance[number] % 64));
            for pen in &pens {
                (0..64).for_each(|number| pen.write64(pin_offset(number), wild(number)));
                pen.write64(cursor_offset(0), wild(64));
            }
            for _ in 0..32 {
                topic.sync();
                topic.publisher.try_send_bytes(&bytes).unwrap().unwrap();
            }
        }
    };
    // The lists grow to what two subscribers can protect, and no further; the test itself makes one in each round.
    let grown = allocations(|| run(100)) - 100;
    assert!(grown < 20, "{grown}");
    assert_eq!(allocations(|| run(1000)) - 1000, 0);
    assert!(topic.publisher.nowhere() > 0, "nothing was in its way");
}

#[test]
fn copies_of_messages_allocate_nothing_once_warm_also_while_some_are_held() {
    let waits = common::settings(64, 64, 1000, 1, 1 << 16);
    let lossy = common::overrun_settings(Delivery::Lossy, 64, 1000, (1, 8), 1 << 16);
    for settings in [waits, lossy] {
        let mut topic = Topic::new(settings);
        topic.trust = Trust::Copy;
        let reader = topic.joined(1);
        let bytes: Vec<_> = [0, 40, 300, 1000].map(|len| payload(0, len)).into();
        let mut run = |rounds: u64| {
            for _ in 0..rounds {
                for bytes in bytes.iter().chain(&bytes) {
                    topic.sync();
                    topic.publisher.try_send_bytes(bytes).unwrap().unwrap();
                }
                receive(&reader, &bytes[0]);
                let kept = reader.poll().unwrap().unwrap();
                let held = reader.poll().unwrap().unwrap().hold();
                let batch = reader.poll_batch(3).unwrap();
                while let Some(message) = batch.next() {
                    let (_, seen) = message.unwrap();
                    assert!(bytes.iter().any(|sent| sent == seen));
                }
                drop(kept);
                while reader.poll().unwrap().is_some() {}
                assert_eq!(held.bytes(), bytes[2]);
            }
        };
        run(100);
        assert_eq!(allocations(|| run(2000)), 0);
    }
}
