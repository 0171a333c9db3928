//! Room in a ring whose publisher waits for its subscribers.
//!
//! Nothing that an adopted subscriber has not released is written over. Beside that, the ring has a *floor*, as a ring
//! has that goes past its subscribers: every message from the floor on is intact. Nobody whom this publisher waits for
//! needs the floor. It is for a reader that nobody waits for: that reader copies a message, and keeps the copy if the
//! floor is then still at or below the message.
//!
//! ```text
//!   publisher                                 a reader that nobody waits for
//!     store floor = f                           copy the message
//!     release fence (FLOOR_STEP_FENCE)          acquire fence
//!     write over messages below f               load the floor: at or below the message? the copy is whole
//! ```
//! Promises: the floor rises before a slot or a span below it is written again, also where there is no subscriber. It
//! rises by an eighth of the depth or of the arena, or by what one message needs: so it stays seven eighths of the ring
//! behind the head, and a reader that is not too slow finds what it looks for.

use super::ring::RingPublisher;
use crate::backend::{Backend, RingMemory, site};

/// How far the floor of a ring that waits has risen, and may rise.
#[derive(Debug)]
pub(super) struct Risen {
    /// The floor: every message from here on is intact.
    floor: u64,
    /// Every adopted subscriber has released what is before this, as far as was seen.
    released: u64,
}

impl Risen {
    pub(super) fn new(start: u64) -> Self {
        Self {
            floor: start,
            released: start,
        }
    }
}

impl<B: Backend> RingPublisher<B> {
    /// The set of subscribers is another one: the next message needs a look at their cursors.
    pub(super) fn forget_room(&mut self) {
        self.limit = self.head;
        self.risen.released = self.head.wrapping_sub(self.ring.depth());
    }

    /// Messages that may still be written, as far as is known of what subscribers have released.
    pub(super) fn released_room(&self) -> u64 {
        let unreleased = self.head.wrapping_sub(self.risen.released);
        self.ring.depth().saturating_sub(unreleased)
    }

    /// Looks for room for a message in the next slot.
    pub(super) fn look_for_slots(&mut self) {
        if self.released_room() == 0 {
            self.look_for_released();
        }
        let depth = self.ring.depth();
        if self.head.wrapping_sub(self.risen.floor) >= depth {
            self.rise(self.risen.floor.wrapping_add((depth / 8).max(1)));
        }
        let used = self.head.wrapping_sub(self.risen.floor);
        assert!(used <= depth, "no intact message was written over");
        let room = (depth - used).min(self.released_room());
        self.limit = self.head.wrapping_add(room);
    }

    /// A place in the arena: raises the floor as far as is needed and allowed.
    #[cold]
    pub(super) fn place_in_spans(&mut self, len: u64) -> Option<u32> {
        let place = self.arena.place(len);
        if place.is_some() {
            return place;
        }
        let mut looked = false;
        loop {
            let least = len.next_multiple_of(64).max(self.arena.bytes() / 8);
            let to = self.arena.frees(least)?;
            if self.rise(to) {
                let place = self.arena.place(len);
                if place.is_some() {
                    return place;
                }
            } else if looked {
                return None;
            } else {
                looked = true;
                self.look_for_released();
                // A cursor that moved back takes the slot away again: its owner is faulty.
                let room = self.limit.wrapping_sub(self.head);
                let room = room.min(self.released_room());
                self.limit = self.head.wrapping_add(room);
                if room == 0 {
                    return None;
                }
            }
        }
    }

    fn look_for_released(&mut self) {
        self.look_at_cursors();
        let lag = self.slowest().map_or(0, |(_, lag)| lag);
        self.risen.released = self.head.wrapping_sub(lag);
    }

    /// Raises the floor up to this sequence, or as far as subscribers and what is kept for joiners allow; whether it is
    /// higher.
    fn rise(&mut self, to: u64) -> bool {
        let ahead = |sequence: u64| sequence.wrapping_sub(self.risen.floor) as i64;
        let most = ahead(self.risen.released).min(ahead(self.intact_from()));
        let by = ahead(to).min(most);
        if by <= 0 {
            return false;
        }
        let to = self.risen.floor.wrapping_add(by as u64);
        // ORDERING: before every write below the new floor, by the fence.
        B::store64(&self.ring.header().floor.0, to, site::RELAXED);
        B::fence(site::FLOOR_STEP_FENCE);
        self.risen.floor = to;
        self.arena.release_before(to, self.head);
        true
    }
}
