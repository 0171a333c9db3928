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

use std::collections::VecDeque;

/// Bytes of a unit: what a slot's `place` counts in, so that no two spans share a cache line.
const UNIT: u64 = 64;

/// The free and the used part of an arena.
#[derive(Debug)]
pub struct Arena {
    bytes: u64,
    /// Bytes ever handed out, gaps at the wrap included.
    head: u64,
    /// Bytes ever given back.
    tail: u64,
    /// `head` within the arena.
    offset: u64,
    /// What is in use, oldest first.
    spans: VecDeque<Span>,
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
        }
    }

    fn free(&self) -> u64 {
        self.bytes - (self.head - self.tail)
    }

    /// Bytes that a span of `len` bytes takes, and how many it skips to be contiguous.
    fn cost(&self, len: u64) -> (u64, u64) {
        let taken = len.next_multiple_of(UNIT);
        let to_end = self.bytes - self.offset;
        let skipped = if taken > to_end { to_end } else { 0 };
        (taken, skipped)
    }

    /// The unit at which a span of `len` bytes may start now.
    pub fn place(&self, len: u64) -> Option<u32> {
        let (taken, skipped) = self.cost(len);
        if taken + skipped > self.free() {
            return None;
        }
        let start = if skipped > 0 { 0 } else { self.offset };
        Some((start / UNIT) as u32)
    }

    /// Bytes of the longest span that may start now.
    pub fn longest(&self) -> u64 {
        let to_end = self.bytes - self.offset;
        let here = self.free().min(to_end);
        let wrapped = self.free().saturating_sub(to_end);
        here.max(wrapped)
    }

    /// Takes `len` bytes at the unit that [`place`](Self::place) named for as many or more, for message `sequence`.
    pub fn take(&mut self, sequence: u64, place: u32, len: u64) {
        let start = u64::from(place) * UNIT;
        let skipped = if start == self.offset {
            0
        } else {
            self.bytes - self.offset
        };
        // A message that turned out empty takes a unit as well, so that no two spans end at one place.
        let taken = len.max(1).next_multiple_of(UNIT);
        self.head += taken + skipped;
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
}
