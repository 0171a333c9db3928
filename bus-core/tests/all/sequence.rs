//! The protocol across the wrap of its sequence numbers, in tiny rings, against a plain queue.
//!
//! The numbers start near 0, 2^32 and 2^64; every slot first holds the stamp of the lap before. The last test shows
//! the promise about sleepers: each sleep costs its waker one call, also when nobody wakes up from it.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use bus_core::backend::{ReaderMemory, RingMemory};
use bus_core::memory::layout::INLINE;
use bus_core::publish::{Arena, RingPublisher};
use bus_core::receive::{Holding, RingReader};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::cells::{self, Cells, Reader, Ring};

/// Bytes of the arena.
const ARENA: u64 = 1024;

struct Pair {
    publisher: RingPublisher<Cells>,
    reader: RingReader<Cells>,
    page: Rc<Reader>,
}

fn holding(depth: u64) -> Holding {
    Holding {
        most: depth,
        overrun: None,
    }
}

fn pair(start: u64, depth: u64) -> Pair {
    let ring = Ring::starting_at(start, depth);
    let page = Reader::new();
    let arena = Arena::new(ARENA, depth);
    let mut publisher = RingPublisher::new(
        ring.clone(),
        cells::registry(),
        0,
        start,
        1,
        48,
        arena,
        None,
    );
    let reader = RingReader::new(ring, page.clone(), 0, 7, start, holding(depth));
    publisher.adopt(1, page.clone());
    Pair {
        publisher,
        reader,
        page,
    }
}

impl Pair {
    /// The subscriber leaves, and another joins with some history.
    fn join(&mut self, history: u64) {
        self.publisher.drop_follower(1);
        let ring = self.publisher.ring().clone();
        self.reader = RingReader::new(
            ring.clone(),
            self.page.clone(),
            0,
            7,
            0,
            holding(ring.depth()),
        );
        self.reader.start_at_head(history);
        self.publisher.adopt(1, self.page.clone());
    }

    /// Publishes one message of `len` bytes that carries its own number.
    fn send(&mut self, len: u32) -> bool {
        assert_eq!(self.publisher.stale(), None);
        let Ok(claim) = self.publisher.claim(len.into()) else {
            return false;
        };
        let ring = self.publisher.ring();
        let slot = claim.sequence & (ring.depth() - 1);
        ring.payloads[slot as usize].set(claim.sequence);
        self.publisher.commit(claim, len);
        self.publisher.announce();
        true
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(u32),
    Receive,
    Release(Index),
    /// Several at once, with one store of the cursor.
    ReleaseAll,
    Join(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => select(vec![0_u32, 8, 48, 49, 128]).prop_map(Step::Send),
        6 => Just(Step::Receive),
        5 => any::<Index>().prop_map(Step::Release),
        1 => Just(Step::ReleaseAll),
        1 => (0..8_u64).prop_map(Step::Join),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_changes_where_the_numbers_wrap(
        base in select(vec![0_u64, 1 << 32, 1 << 63]),
        before in 0..24_u64,
        depth in select(vec![2_u64, 4, 8]),
        steps in vec(step(), 1..120),
    ) {
        let start = base.wrapping_sub(before);
        let mut pair = pair(start, depth);
        let (mut coming, mut out) = (VecDeque::new(), Vec::<u64>::new());
        // Offsets from the start, so that the model itself never wraps.
        let (mut head, mut next) = (0_u64, 0_u64);
        let mut unreleased = BTreeSet::new();
        for step in steps {
            let cursor = *unreleased.first().unwrap_or(&next);
            match step {
                Step::Send(len) => {
                    let sent = pair.send(len);
                    prop_assert_eq!(sent, head - cursor < depth);
                    if sent {
                        coming.push_back((head, len));
                        head += 1;
                    } else {
                        prop_assert_eq!(pair.publisher.slowest(), Some((1, depth)));
                    }
                }
                Step::Receive => {
                    prop_assert_eq!(pair.reader.ready(), !coming.is_empty());
                    let found = pair.reader.poll();
                    let expected = coming.pop_front();
                    prop_assert_eq!(found.map(|f| f.sequence.wrapping_sub(start)), expected.map(|e| e.0));
                    if let (Some(found), Some((offset, len))) = (found, expected) {
                        prop_assert!(found.len == len);
                        prop_assert_eq!(found.place == INLINE, len <= 48);
                        out.push(found.sequence);
                        unreleased.insert(offset);
                        next = offset + 1;
                    }
                }
                Step::Release(which) if !out.is_empty() => {
                    let sequence = out.swap_remove(which.index(out.len()));
                    let slot = (sequence & (depth - 1)) as usize;
                    prop_assert_eq!(pair.publisher.ring().payloads[slot].get(), sequence);
                    pair.reader.release(sequence);
                    unreleased.remove(&sequence.wrapping_sub(start));
                }
                Step::ReleaseAll => {
                    let first = start.wrapping_add(cursor);
                    let early = next - cursor != unreleased.len() as u64;
                    if !early {
                        pair.reader.release_range(first, pair.reader.next());
                        out.clear();
                        unreleased.clear();
                    }
                }
                // A subscriber that joins now finds the head from the stamps alone.
                Step::Join(history) if out.is_empty() => {
                    let history = history.min(depth - 1);
                    let absolute = start.wrapping_add(head);
                    pair.join(history);
                    // Before the first message of all there is nothing to go back to.
                    let back = history.min(absolute);
                    prop_assert_eq!(pair.reader.next(), absolute.wrapping_sub(back));
                    // What this test's ring never held cannot be received again.
                    let back = back.min(head);
                    pair.join(back);
                    next = head - back;
                    coming.retain(|(offset, _)| *offset >= next);
                    let known = coming.front().map_or(head, |(offset, _)| *offset);
                    for offset in (next..known).rev() {
                        let place = pair.publisher.ring().slot(start.wrapping_add(offset)).place.get();
                        coming.push_front((offset, place as u32));
                    }
                }
                _ => {}
            }
            let cursor = *unreleased.first().unwrap_or(&next);
            prop_assert_eq!(pair.page.cursor(0).get(), start.wrapping_add(cursor));
            prop_assert_eq!(pair.reader.outstanding(), out.len() as u64);
        }
    }
}

#[test]
fn the_head_is_found_at_every_place_of_a_lap() {
    for depth in [2, 4, 8, 16_u64] {
        for base in [0, 1 << 32, 0_u64.wrapping_sub(1 << 33)] {
            for start in (base..base + 2 * depth).chain((0..40).map(|n| base.wrapping_sub(n))) {
                let mut pair = pair(start, depth);
                for sent in 0..=2 * depth {
                    pair.reader.start_at_head(0);
                    let head = start.wrapping_add(sent);
                    assert_eq!(pair.reader.next(), head, "depth {depth} start {start}");
                    assert!(pair.send(8));
                }
            }
        }
    }
}

#[test]
fn a_sleeper_that_never_wakes_costs_one_call_for_each_sleep() {
    let mut pair = pair(0, 4);
    let page = pair.page.clone();
    let waiting = &page.header().waiting.0;
    waiting.set(1);
    for sleep in 1..=3 {
        for _ in 0..100 {
            assert!(pair.send(8));
            let found = pair.reader.poll().unwrap();
            pair.reader.release(found.sequence);
        }
        let bell = &pair.publisher.ring().header().bell.bell;
        assert_eq!(bell.wakes.get(), sleep);
        waiting.set(4 * u64::from(sleep) + 1);
    }
    // The other direction: a publisher that died asleep.
    pair.publisher.ring().header().waiting.0.set(5);
    for _ in 0..100 {
        assert!(pair.send(8));
        let found = pair.reader.poll().unwrap();
        pair.reader.release(found.sequence);
    }
    assert_eq!(pair.page.header().bell.bell.wakes.get(), 1);
}

#[test]
fn who_is_parked_is_notified_once_for_each_sleep_and_not_by_the_bell() {
    let mut pair = pair(0, 4);
    let page = pair.page.clone();
    let (waiting, bell) = (&page.header().waiting.0, &page.header().bell.bell);
    let (rings, questions) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let turn = |pair: &mut Pair| {
        assert!(pair.send(8));
        let found = pair.reader.poll().unwrap();
        pair.reader.release(found.sequence);
    };
    // Before the doorbell is known, the broker is asked.
    pair.publisher.set_relay(questions.clone());
    waiting.set(4 + 3);
    (0..10).for_each(|_| turn(&mut pair));
    assert_eq!((rings.get(), questions.get()), (0, 1));
    pair.publisher.set_notify(1, rings.clone());
    for sleep in 2..5 {
        waiting.set(4 * u64::from(sleep) + 3);
        (0..10).for_each(|_| turn(&mut pair));
        assert_eq!((rings.get(), questions.get()), (sleep - 1, 1));
    }
    assert_eq!(pair.publisher.ring().header().bell.bell.wakes.get(), 0);
    // The other direction.
    let waiting = &pair.publisher.ring().header().waiting.0;
    waiting.set(4 + 3);
    pair.reader.set_relay(questions.clone());
    (0..10).for_each(|_| turn(&mut pair));
    assert_eq!((rings.get(), questions.get()), (3, 2));
    pair.reader.set_notify(rings.clone());
    pair.publisher.ring().header().waiting.0.set(8 + 3);
    (0..10).for_each(|_| turn(&mut pair));
    assert_eq!((rings.get(), questions.get()), (4, 2));
    assert_eq!(bell.wakes.get(), 0);
}
