//! A lossy ring whose two sides interrupt each other before any access to a shared word, by a random schedule: whatever lies between two
//! accesses of one side, the other may do whole messages, and nothing that is held is written over, taken for another message, or lost uncounted.
//!
//! Memory is sequentially consistent here: this is about the steps of the protocol and their order, not about fences.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bus_core::Overrun;
use bus_core::memory::layout::{INLINE, NOWHERE};
use bus_core::publish::{Arena, RingPublisher};
use bus_core::receive::{Found, Holding, RingReader};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::cells::{self, Cells, Reader, Ring};

/// The first message: no slot's stamp of the lap before has the top bit.
const START: u64 = 1 << 32;

/// Payload memory: a number for each slot and each unit of the arena.
struct Payloads {
    slots: Vec<Cell<u64>>,
    units: Vec<Cell<u64>>,
}

impl Payloads {
    fn cells(&self, sequence: u64, place: u32, len: u64) -> &[Cell<u64>] {
        if place == INLINE {
            let slot = sequence as usize & (self.slots.len() - 1);
            return &self.slots[slot..=slot];
        }
        let start = place as usize;
        &self.units[start..start + (len.max(1)).div_ceil(64) as usize]
    }

    fn check(&self, found: Found) {
        for cell in self.cells(found.sequence, found.place, found.len.into()) {
            assert_eq!(
                cell.get(),
                found.sequence,
                "what is held is another message"
            );
        }
    }
}

struct Writer {
    publisher: RingPublisher<Cells>,
    payloads: Rc<Payloads>,
}

impl Writer {
    fn send(&mut self, len: u64) {
        assert_eq!(self.publisher.stale(), None);
        let claim = self
            .publisher
            .claim(len)
            .expect("a lossy ring is never full");
        if claim.place != NOWHERE {
            for cell in self.payloads.cells(claim.sequence, claim.place, len) {
                cell.set(claim.sequence);
            }
        }
        self.publisher.commit(claim, len as u32);
    }
}

struct Holder {
    reader: RingReader<Cells>,
    payloads: Rc<Payloads>,
    kept: Vec<Found>,
    next: u64,
    received: u64,
}

impl Holder {
    /// Receives one message; whether there was one.
    fn receive(&mut self) -> bool {
        self.kept
            .iter()
            .for_each(|found| self.payloads.check(*found));
        let Some(found) = self.reader.poll() else {
            return false;
        };
        self.payloads.check(found);
        assert_eq!(found.sequence, self.next + self.reader.take_lost());
        self.next = found.sequence + 1;
        self.received += 1;
        self.kept.push(found);
        true
    }

    fn release(&mut self, which: usize) {
        if !self.kept.is_empty() {
            let found = self.kept.swap_remove(which % self.kept.len());
            self.payloads.check(found);
            self.reader.release(found.sequence);
        }
    }

    fn turn(&mut self, choice: u8) {
        match choice % 3 {
            0 => self.release(choice.into()),
            _ => drop(self.receive()),
        }
    }
}

/// What the other side does before each access; nothing when it is over.
type Schedule = VecDeque<Option<u8>>;

fn schedule() -> impl Strategy<Value = Vec<Option<u8>>> {
    vec(proptest::option::weighted(0.2, any::<u8>()), 0..400)
}

fn length(choice: u8) -> u64 {
    [8, 48, 49, 200][usize::from(choice / 4) % 4]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_between_two_accesses_what_is_held_stays(
        (depth, step, window) in select(vec![(2_u64, 1_u64, 1_u64), (4, 1, 1), (8, 1, 2), (8, 2, 4)]),
        pins in 1..=cells::PINS,
        arena in 4..30_u64,
        actors in vec((any::<bool>(), any::<u8>()), 1..150),
        schedule in schedule(),
    ) {
        let rules = Overrun { step, window, pins, evicts: false };
        let (ring, page) = (Ring::starting_at(START, depth), Reader::new());
        let payloads = Rc::new(Payloads {
            slots: vec![Cell::new(0); depth as usize],
            units: vec![Cell::new(0); arena as usize],
        });
        let arena = Arena::new(arena * 64, depth);
        let registry = cells::registry();
        let mut publisher =
            RingPublisher::new(ring.clone(), registry, 0, START, 1, 48, arena, Some(rules));
        let holding = Holding { most: pins as u64, overrun: Some(rules) };
        let reader = RingReader::new(ring.clone(), page.clone(), 0, 7, START, holding);
        publisher.adopt(1, page);
        let writer = Rc::new(RefCell::new(Writer { publisher, payloads: payloads.clone() }));
        let holder = Holder { reader, payloads, kept: Vec::new(), next: START, received: 0 };
        let holder = Rc::new(RefCell::new(holder));
        let schedule = Rc::new(RefCell::new(Schedule::from(schedule)));
        for (publishes, choice) in actors {
            let schedule = schedule.clone();
            let due = move || schedule.borrow_mut().pop_front().flatten();
            if publishes {
                let other = holder.clone();
                let between = move || {
                    if let Some(choice) = due() {
                        other.borrow_mut().turn(choice);
                    }
                };
                cells::interleave(between, || writer.borrow_mut().send(length(choice)));
            } else {
                let other = writer.clone();
                let between = move || {
                    if let Some(choice) = due() {
                        (0..=choice % 12).for_each(|n| other.borrow_mut().send(length(choice ^ n)));
                    }
                };
                cells::interleave(between, || holder.borrow_mut().turn(choice));
            }
        }
        let mut holder = holder.borrow_mut();
        while holder.receive() || holder.reader.ready() {
            let last = holder.kept.len().wrapping_sub(1);
            holder.release(last);
        }
        prop_assert_eq!(holder.received + holder.reader.lost(), writer.borrow().publisher.head() - START);
    }
}
