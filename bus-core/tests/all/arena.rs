//! The arena against a naive map of its bytes, over random histories: spans of any length, given back in order, and some of them held for
//! longer, which new spans then go round.
//!
//! What it hands out overlaps nothing that is in use or held, and it finds a place wherever the map has one between its head and its tail.

use std::collections::VecDeque;
use std::ops::Range;

use bus_core::publish::Arena;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const UNIT: u64 = 64;

#[derive(Clone, Debug)]
enum Step {
    /// Looks for so many bytes, and takes a part of what was found.
    Place { len: u64, part: Option<Index> },
    /// Gives so many back; some of them are held, by the mask.
    Release { count: usize, hold: u8 },
    /// Lets go of something held.
    LetGo(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![0..6 * UNIT, (0..12_u64).prop_map(|units| units * UNIT)];
    prop_oneof![
        6 => (len, proptest::option::weighted(0.3, any::<Index>()))
            .prop_map(|(len, part)| Step::Place { len, part }),
        3 => (0..6_usize, any::<u8>()).prop_map(|(count, hold)| Step::Release { count, hold }),
        2 => any::<Index>().prop_map(Step::LetGo),
    ]
}

/// A span of `len` bytes at `start`; an empty one has a unit as well.
fn span(start: u64, len: u64) -> Range<u64> {
    start..start + len.max(1).next_multiple_of(UNIT)
}

/// The naive map.
struct Map {
    bytes: u64,
    /// Where the next span goes at the earliest, and what is free from there on, over the end of the arena if need be.
    head: u64,
    free: u64,
    /// In use, oldest first: what each takes with the gap before it, and where it lies.
    used: VecDeque<(u64, Range<u64>)>,
    held: Vec<Range<u64>>,
}

impl Map {
    /// Where a span of this many bytes fits next.
    fn fits(&self, bytes: u64) -> Option<u64> {
        let starts = (0..self.bytes / UNIT).map(|ahead| (self.head + ahead * UNIT) % self.bytes);
        let mut starts = starts.filter(|start| start + bytes <= self.bytes);
        starts.find(|start| {
            let span = *start..start + bytes;
            self.way(*start) + bytes <= self.free
                && !self.held.iter().any(|held| overlap(held, &span))
        })
    }

    /// Bytes from the head on to this place.
    fn way(&self, start: u64) -> u64 {
        (start + self.bytes - self.head) % self.bytes
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spans_lie_where_the_map_has_room_and_overlap_nothing(
        units in 1..24_u64,
        first in prop_oneof![Just(0_u64), any::<u64>()],
        steps in vec(step(), 1..120),
    ) {
        let bytes = units * UNIT;
        let mut arena = Arena::new(bytes, 64);
        let mut map = Map { bytes, head: 0, free: bytes, used: VecDeque::new(), held: Vec::new() };
        let mut next = first;
        for step in steps {
            match step {
                Step::Place { len, part } => {
                    let wanted = map.fits(span(0, len).end);
                    let place = arena.place(len);
                    prop_assert_eq!(place.map(|unit| u64::from(unit) * UNIT), wanted);
                    let (Some(start), Some(unit)) = (wanted, place) else {
                        continue;
                    };
                    let len = part.map_or(len, |part| part.index(len as usize + 1) as u64);
                    let new = span(start, len);
                    prop_assert!(new.end <= bytes);
                    let live = map.used.iter().map(|(_, live)| live).chain(&map.held);
                    for live in live {
                        prop_assert!(!overlap(live, &new), "{:?} and {:?}", live, new);
                    }
                    let taken = map.way(start) + new.end - new.start;
                    arena.take(next, unit, len);
                    next = next.wrapping_add(1);
                    map.free -= taken;
                    map.head = new.end % bytes;
                    map.used.push_back((taken, new));
                }
                Step::Release { count, hold } => {
                    let count = count.min(map.used.len());
                    for (number, (taken, old)) in map.used.drain(..count).enumerate() {
                        map.free += taken;
                        if hold >> number & 1 == 1 {
                            map.held.push(old);
                        }
                    }
                    if map.used.is_empty() {
                        (map.head, map.free) = (0, bytes);
                    }
                    let floor = next.wrapping_sub(map.used.len() as u64);
                    arena.release_before(floor, next);
                    arena.go_round(map.held.iter().cloned());
                }
                Step::LetGo(which) if !map.held.is_empty() => {
                    map.held.swap_remove(which.index(map.held.len()));
                    arena.go_round(map.held.iter().cloned());
                }
                Step::LetGo(_) => {}
            }
            // The longest that fits, and not a unit more.
            let longest = (0..=units).rev().find(|units| *units == 0 || map.fits(units * UNIT).is_some());
            prop_assert_eq!(arena.longest(), longest.unwrap_or(0) * UNIT);
            // What must go so that more is free: no message less would do.
            for wanted in [UNIT, 3 * UNIT, bytes] {
                let Some(to) = arena.frees(wanted) else {
                    prop_assert!(map.used.is_empty());
                    continue;
                };
                let oldest = next.wrapping_sub(map.used.len() as u64);
                let count = to.wrapping_sub(oldest) as usize;
                prop_assert!(0 < count && count <= map.used.len());
                let freed = |count: usize| map.used.iter().take(count).map(|(taken, _)| taken).sum::<u64>();
                prop_assert!(freed(count) >= wanted || count == map.used.len());
                prop_assert!(freed(count - 1) < wanted);
            }
        }
    }
}
