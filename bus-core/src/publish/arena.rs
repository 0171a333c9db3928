//! Where payloads longer than a slot go: a ring of bytes in 64-byte units, bumped at its head.
//!
//! Promises: a span handed out overlaps none that a reader may still read; spans are contiguous. Private to the publisher:
//! no word of this is shared, readers learn a span's place from its slot.
//!
//! ```text
//!        tail                head
//!   free  |  spans in use     |  free                      (positions count up for ever,
//!   ------+-------------------+------------------------     `offset` is head's place in the arena)
//! ```
//! A span that is held although its time is over is an *island* in the free part: new spans go round it.
//!
//! **Cells.** What is in use can lie so that what is free before and behind it is long enough together, and alone is not: that costs up to
//! one of the longest payloads. An arena that has no such room to spare is divided into cells of the longest payload, and no span lies
//! in two of them. So `n` spans leave at least one of `n + 1` cells free, and as they lie one behind the other, it is the next one.

use std::collections::VecDeque;
use std::ops::Range;

/// Bytes of a unit: what a slot's `place` counts in, so that no two spans share a cache line.
const UNIT: u64 = 64;

/// The free and the used part of an arena.
#[derive(Debug)]
pub struct Arena {
    bytes: u64,
    /// Bytes of each cell but the last, which has the remainder as well.
    cell: u64,
    /// Bytes ever handed out, those passed over included.
    head: u64,
    /// Bytes ever given back.
    tail: u64,
    /// `head` within the arena.
    offset: u64,
    /// Where the cell of `offset` ends.
    cell_end: u64,
    /// What is in use, oldest first.
    spans: VecDeque<Span>,
    /// Bytes in the free part that are held. No two overlap, and they are in the order of their places, so that looking
    /// for room takes a few steps for each of them, not a look at all for each.
    islands: Vec<Range<u64>>,
}

#[derive(Debug)]
struct Span {
    sequence: u64,
    /// `head` at its first byte, behind what was passed over for it.
    start: u64,
    /// `head` after it.
    end: u64,
}

impl Arena {
    /// An empty arena of `bytes` bytes, a multiple of 64, for a ring of `depth` slots.
    pub fn new(bytes: u64, depth: u64) -> Self {
        let spans = if bytes == 0 {
            0
        } else {
            (2 * depth).min(bytes / UNIT)
        };
        Self {
            bytes,
            cell: bytes,
            head: 0,
            tail: 0,
            offset: 0,
            cell_end: bytes,
            spans: VecDeque::with_capacity(spans as usize),
            islands: Vec::new(),
        }
    }

    /// The same arena, still empty, in cells of `longest` bytes, up to a multiple of 64: no longer span is asked for, and it never
    /// goes round anything.
    pub fn in_cells(mut self, longest: u64) -> Self {
        self.cell = longest.max(1).next_multiple_of(UNIT).min(self.bytes);
        (self.offset, self.cell_end) = self.cell_behind(self.bytes);
        self
    }

    /// Where the cell behind the one that ends at `end` begins and ends.
    fn cell_behind(&self, end: u64) -> (u64, u64) {
        let start = if end == self.bytes { 0 } else { end };
        let left = self.bytes - start;
        let last = left - self.cell < self.cell;
        (start, start + if last { left } else { self.cell })
    }

    /// Bytes of the whole.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn free(&self) -> u64 {
        self.bytes - (self.head - self.tail)
    }

    /// Bytes from the head on, over the end of the arena if need be, to this place.
    fn way_to(&self, start: u64) -> u64 {
        if start >= self.offset {
            start - self.offset
        } else {
            self.bytes - self.offset + start
        }
    }

    /// Where a span of this many bytes fits next, behind islands and the end of the arena.
    fn fit(&self, taken: u64) -> Option<u64> {
        let (mut start, mut cell_end) = (self.offset, self.cell_end);
        let mut wrapped = false;
        let mut islands = self.islands_behind(start).iter();
        loop {
            let end = start + taken;
            if end > cell_end {
                if cell_end == self.bytes && wrapped {
                    return None;
                }
                wrapped |= cell_end == self.bytes;
                (start, cell_end) = self.cell_behind(cell_end);
                islands = self.islands_behind(start).iter();
                continue;
            }
            if wrapped && end > self.offset {
                return None;
            }
            match islands.next() {
                Some(island) if island.start < end => start = island.end,
                _ => return (self.way_to(start) + taken <= self.free()).then_some(start),
            }
        }
    }

    /// The islands that end behind this place.
    fn islands_behind(&self, start: u64) -> &[Range<u64>] {
        let passed = self.islands.partition_point(|island| island.end <= start);
        &self.islands[passed..]
    }

    /// The unit at which a span of `len` bytes may start now; an empty one takes a unit as well.
    pub fn place(&self, len: u64) -> Option<u32> {
        let start = self.fit(len.max(1).next_multiple_of(UNIT))?;
        Some((start / UNIT) as u32)
    }

    /// Bytes of the longest span that may start now.
    pub fn longest(&self) -> u64 {
        let ends = self.islands.iter().map(|island| island.end);
        let next = self.islands.iter().skip(1).map(|island| island.start);
        let behind = ends.zip(next.chain([self.bytes]));
        let cells = [
            (self.offset, self.cell_end),
            self.cell_behind(self.cell_end),
        ];
        let cells = cells.map(|(start, cell_end)| {
            let next = self.islands_behind(start).first();
            (start, next.map_or(cell_end, |next| next.start.max(start)))
        });
        let runs = behind.chain(cells).map(|(start, end)| self.run(start, end));
        runs.max().unwrap_or(0)
    }

    /// Bytes of this gap between islands that are free now and in one piece.
    fn run(&self, start: u64, end: u64) -> u64 {
        let run = end - start;
        // At the head itself, all round is as near as nothing: what starts there is counted from the head.
        run.min(self.free().saturating_sub(self.way_to(start)))
    }

    /// Takes `len` bytes at the unit that [`place`](Self::place) named for as many or more, for message `sequence`.
    pub fn take(&mut self, sequence: u64, place: u32, len: u64) {
        let start = u64::from(place) * UNIT;
        // A message that turned out empty takes a unit as well, so that no two spans end at one place.
        let taken = len.max(1).next_multiple_of(UNIT);
        let first = self.head + self.way_to(start);
        self.head = first + taken;
        assert!(
            self.head - self.tail <= self.bytes,
            "nothing in use is handed out again"
        );
        debug_assert!(
            !self
                .islands
                .iter()
                .any(|island| island.start < start + taken && island.end > start),
            "nothing that is held is handed out again"
        );
        self.spans.push_back(Span {
            sequence,
            start: first,
            end: self.head,
        });
        let mut cell = (self.offset, self.cell_end);
        while !(cell.0..cell.1).contains(&start) {
            cell = self.cell_behind(cell.1);
        }
        (self.offset, self.cell_end) = (start + taken, cell.1);
        if self.offset == self.cell_end {
            (self.offset, self.cell_end) = self.cell_behind(self.cell_end);
        }
    }

    /// Gives back the spans of all messages before `floor`; `next` is the sequence after the newest message.
    pub fn release_before(&mut self, floor: u64, next: u64) {
        let kept = next.wrapping_sub(floor);
        while let Some(span) = self.spans.front() {
            if next.wrapping_sub(span.sequence) <= kept {
                if self.cell < self.bytes {
                    // The rest of the cell before it is free as well: else the next one would not be free as a whole.
                    self.tail = span.start;
                }
                return;
            }
            self.tail = span.end;
            self.spans.pop_front();
        }
        self.tail = self.head;
        (self.offset, self.cell_end) = self.cell_behind(self.bytes);
    }

    /// From now on new spans go round these bytes, and round no others.
    pub fn go_round(&mut self, islands: impl Iterator<Item = Range<u64>>) {
        self.islands.clear();
        self.islands.extend(islands);
        self.islands.sort_unstable_by_key(|island| island.start);
        debug_assert!(
            self.cell == self.bytes || self.islands.is_empty(),
            "an arena in cells goes round nothing"
        );
        debug_assert!(
            self.islands
                .windows(2)
                .all(|two| two[0].end <= two[1].start),
            "no two messages lie at one place"
        );
    }

    /// The message before which all must go so that at least this many bytes more are free, or that every span is given back.
    pub fn frees(&self, bytes: u64) -> Option<u64> {
        let enough = self.tail + bytes;
        let short = self.spans.partition_point(|span| span.end < enough);
        let span = self.spans.get(short).or(self.spans.back());
        Some(span?.sequence.wrapping_add(1))
    }
}

/// The bytes of a span of `len` bytes at this unit.
pub(super) fn span(place: u32, len: u64) -> Range<u64> {
    let start = u64::from(place) * UNIT;
    start..start + len.max(1).next_multiple_of(UNIT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_span_ends_exactly_at_the_end_and_the_next_starts_at_zero() {
        let mut arena = Arena::new(256, 8);
        assert_eq!(arena.place(256), Some(0));
        arena.take(0, 0, 128);
        assert_eq!(arena.place(128), Some(2));
        arena.take(1, 2, 128);
        assert_eq!(arena.place(1), None);
        arena.release_before(1, 2);
        assert_eq!(arena.place(128), Some(0));
        assert_eq!(arena.place(129), None);
    }

    #[test]
    fn a_span_that_does_not_fit_the_end_skips_it() {
        let mut arena = Arena::new(320, 8);
        arena.take(0, 0, 128);
        arena.take(1, 2, 64);
        arena.release_before(1, 2);
        assert_eq!(arena.longest(), 128);
        assert_eq!(arena.place(128), Some(3));
        arena.take(2, 3, 65);
        assert_eq!(arena.place(128), Some(0));
        assert_eq!(arena.place(129), None);
    }

    #[test]
    fn nothing_in_use_makes_the_whole_arena_contiguous() {
        let mut arena = Arena::new(256, 8);
        arena.take(u64::MAX, 0, 100);
        arena.release_before(0, 0);
        assert_eq!(arena.longest(), 256);
    }

    #[test]
    fn spans_go_round_what_is_held() {
        let mut arena = Arena::new(512, 8);
        for sequence in 0..8 {
            let place = arena.place(64).unwrap();
            arena.take(sequence, place, 64);
        }
        assert_eq!(arena.frees(100), Some(2));
        arena.release_before(8, 8);
        arena.go_round([span(2, 64), span(5, 64)].into_iter());
        assert_eq!((arena.longest(), arena.place(128)), (128, Some(0)));
        arena.take(8, 0, 64);
        assert_eq!(arena.place(128), Some(3));
        arena.take(9, 3, 128);
        assert_eq!((arena.longest(), arena.place(129)), (128, None));
        assert_eq!(arena.place(128), Some(6));
        arena.take(10, 6, 128);
        assert_eq!(arena.place(1), None);
        arena.release_before(9, 11);
        assert_eq!(arena.place(64), Some(0));
    }

    #[test]
    fn nothing_fits_where_everything_is_held() {
        let mut arena = Arena::new(128, 8);
        arena.go_round([span(0, 64), span(1, 64)].into_iter());
        assert_eq!((arena.longest(), arena.place(1)), (0, None));
    }

    /// What `longest` says, asked of `place` for each length.
    fn longest_placed(arena: &Arena) -> u64 {
        let lens = (1..=arena.bytes / UNIT).map(|units| units * UNIT);
        let fits = lens.filter(|len| arena.place(*len).is_some());
        fits.max().unwrap_or(0)
    }

    /// In one cell, the second message would leave 128 bytes before and 192 behind it: never room for 256.
    #[test]
    fn a_kept_message_between_two_short_ends_is_not_in_the_way_for_ever() {
        let mut arena = Arena::new(512, 8).in_cells(256);
        for (sequence, len) in [(0_u64, 128), (1, 192), (2, 256), (3, 64), (4, 256)] {
            arena.release_before(sequence.saturating_sub(1), sequence);
            let place = arena.place(len).unwrap();
            arena.take(sequence, place, len);
        }
    }

    /// Sends messages of these lengths; before each, all but some are released. Nothing in use may be handed out again, and what
    /// `longest` says must be so.
    fn flow(
        mut arena: Arena,
        keep: u64,
        longest: u64,
        lens: &[(u64, u64)],
    ) -> Result<(), TestCaseError> {
        let mut used = VecDeque::<Range<u64>>::new();
        for (sent, &(len, lag)) in (0..400).zip(lens.iter().cycle()) {
            // Numbers wrap as well.
            let sequence = (u64::MAX - 20).wrapping_add(sent);
            let in_use = lag.max(keep).min(used.len() as u64);
            arena.release_before(sequence.wrapping_sub(in_use), sequence);
            while used.len() as u64 > in_use {
                used.pop_front();
            }
            let now = arena.longest();
            prop_assert!(now == 0 || arena.place(now).is_some());
            prop_assert!(now >= longest || arena.place(now + 1).is_none());
            let Some(place) = arena.place(len) else {
                prop_assert!(in_use > keep, "{} kept are in the way of {}", in_use, len);
                used.clear();
                arena.release_before(sequence, sequence);
                continue;
            };
            let new = span(place, len);
            prop_assert!(new.end <= arena.bytes);
            for old in &used {
                prop_assert!(
                    new.end <= old.start || old.end <= new.start,
                    "two at one place"
                );
            }
            arena.take(sequence, place, len);
            used.push_back(new);
        }
        Ok(())
    }

    proptest! {
        /// Units of islands, and of the free space before each, in any order.
        #[test]
        fn spans_go_round_all_that_is_held_and_use_the_longest_gap(
            mut held in prop::collection::vec((0_u64..4, 1_u64..4), 0..12),
            lens in prop::collection::vec(1_u64..5, 0..6),
            reversed: bool,
        ) {
            let mut arena = Arena::new(40 * UNIT, 64);
            for (sequence, len) in (0..).zip(lens) {
                let Some(place) = arena.place(len * UNIT) else { break };
                arena.take(sequence, place, len * UNIT);
            }
            let (from, mut at) = (arena.offset, arena.offset);
            held.retain_mut(|(gap, units)| {
                let start = at + *gap * UNIT;
                let end = start + *units * UNIT;
                (*gap, *units) = (start, end);
                at = end.min(arena.bytes + 1);
                end <= arena.bytes
            });
            let mut islands: Vec<_> = held.iter().map(|(start, end)| *start..*end).collect();
            if reversed {
                islands.reverse();
            }
            arena.go_round(islands.iter().cloned());
            let longest = arena.longest();
            prop_assert_eq!(longest, longest_placed(&arena));
            for len in (1..=longest / UNIT).map(|units| units * UNIT) {
                let new = span(arena.place(len).unwrap(), len);
                prop_assert!(new.end <= arena.bytes);
                for island in &islands {
                    prop_assert!(new.end <= island.start || island.end <= new.start);
                }
                prop_assert!(new.start >= from, "what lies before the head is in use");
            }
        }

        #[test]
        fn the_least_arena_always_has_room_for_the_next_message(
            keep in 1_u64..5,
            longest in 1_u64..20,
            spare in 0_u64..60,
            one_cell: bool,
            lens in prop::collection::vec((0.0_f64..=1.0, 0_u64..9), 21),
        ) {
            let longest = longest * UNIT;
            let lens: Vec<_> = lens
                .into_iter()
                .map(|(part, lag)| (((longest as f64 * part) as u64).max(1), lag))
                .collect();
            let least = longest * if one_cell { keep + 2 } else { keep + 1 };
            let arena = Arena::new(least + spare * UNIT, 64);
            let arena = if one_cell { arena } else { arena.in_cells(longest) };
            flow(arena, keep, longest, &lens)?;
        }
    }
}
