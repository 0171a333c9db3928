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

use std::collections::VecDeque;
use std::ops::Range;

/// Bytes of a unit: what a slot's `place` counts in, so that no two spans share a cache line.
const UNIT: u64 = 64;

/// The free and the used part of an arena.
#[derive(Debug)]
pub struct Arena {
    bytes: u64,
    /// Bytes ever handed out, those passed over included.
    head: u64,
    /// Bytes ever given back.
    tail: u64,
    /// `head` within the arena.
    offset: u64,
    /// What is in use, oldest first.
    spans: VecDeque<Span>,
    /// Bytes in the free part that are held, in any order.
    islands: Vec<Range<u64>>,
}

#[derive(Debug)]
struct Span {
    sequence: u64,
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
            head: 0,
            tail: 0,
            offset: 0,
            spans: VecDeque::with_capacity(spans as usize),
            islands: Vec::new(),
        }
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
        let mut start = self.offset;
        let mut wrapped = false;
        loop {
            let end = start + taken;
            if end > self.bytes {
                if wrapped {
                    return None;
                }
                (start, wrapped) = (0, true);
                continue;
            }
            if wrapped && end > self.offset {
                return None;
            }
            let mut islands = self.islands.iter();
            match islands.find(|island| island.start < end && island.end > start) {
                Some(island) => start = island.end,
                None => return (self.way_to(start) + taken <= self.free()).then_some(start),
            }
        }
    }

    /// The unit at which a span of `len` bytes may start now; an empty one takes a unit as well.
    pub fn place(&self, len: u64) -> Option<u32> {
        let start = self.fit(len.max(1).next_multiple_of(UNIT))?;
        Some((start / UNIT) as u32)
    }

    /// Bytes of the longest span that may start now.
    pub fn longest(&self) -> u64 {
        let behind = self.islands.iter().map(|island| island.end);
        let starts = behind.chain([self.offset, 0]);
        starts.map(|start| self.run(start)).max().unwrap_or(0)
    }

    /// Bytes from this place on that are free now and in one piece.
    fn run(&self, start: u64) -> u64 {
        let on = self.islands.iter().filter(|island| island.end > start);
        let end = on.map(|island| island.start.max(start)).min();
        let run = end.unwrap_or(self.bytes) - start;
        // At the head itself, all round is as near as nothing: what starts there is counted from the head.
        run.min(self.free().saturating_sub(self.way_to(start)))
    }

    /// Takes `len` bytes at the unit that [`place`](Self::place) named for as many or more, for message `sequence`.
    pub fn take(&mut self, sequence: u64, place: u32, len: u64) {
        let start = u64::from(place) * UNIT;
        // A message that turned out empty takes a unit as well, so that no two spans end at one place.
        let taken = len.max(1).next_multiple_of(UNIT);
        self.head += self.way_to(start) + taken;
        self.offset = start + taken;
        if self.offset == self.bytes {
            self.offset = 0;
        }
        self.spans.push_back(Span {
            sequence,
            end: self.head,
        });
    }

    /// Gives back the spans of all messages before `floor`; `next` is the sequence after the newest message.
    pub fn release_before(&mut self, floor: u64, next: u64) {
        let kept = next.wrapping_sub(floor);
        while let Some(span) = self.spans.front() {
            if next.wrapping_sub(span.sequence) <= kept {
                return;
            }
            self.tail = span.end;
            self.spans.pop_front();
        }
        self.tail = self.head;
        self.offset = 0;
    }

    /// From now on new spans go round these bytes, and round no others.
    pub fn go_round(&mut self, islands: impl Iterator<Item = Range<u64>>) {
        self.islands.clear();
        self.islands.extend(islands);
    }

    /// The message before which all must go so that at least this many bytes more are free, or that every span is given back.
    pub fn frees(&self, bytes: u64) -> Option<u64> {
        let enough = self.tail + bytes;
        let span = self.spans.iter().find(|span| span.end >= enough);
        Some(span.or(self.spans.back())?.sequence.wrapping_add(1))
    }
}

/// The bytes of a span of `len` bytes at this unit.
pub(super) fn span(place: u32, len: u64) -> Range<u64> {
    let start = u64::from(place) * UNIT;
    start..start + len.max(1).next_multiple_of(UNIT)
}

#[cfg(test)]
mod tests {
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
}
