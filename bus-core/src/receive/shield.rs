//! What a subscriber protects from a publisher that may go past it: a window that moves with it, and a pin for each message that it holds
//! behind that.
//!
//! ```text
//!      pinned      cursor            next          publisher's floor <= cursor, when the window was put there:
//!   -----o-----------+----------------+----+       everything in the window stays until the window moves on
//!                    |<---- window ------->|
//! ```
//! The window costs one store and one fence for as many messages as it is wide; a message that is released inside it costs nothing, but where the
//! window is one message wide: then it rests, with a store, and who stands still protects no large message for nothing. Before the
//! window leaves a message that is not released, that one gets a pin.
//!
//! Promises: what was handed out stays as it is until it is released. A publisher that went past this subscriber is noticed before
//! anything that it wrote over is read, and the messages lost are counted exactly. It believes the floor: a false one costs its
//! subscriber messages, and nobody anything else.

use std::cell::Cell;

use super::Refused;
use crate::Overrun;
use crate::backend::{Backend, ReaderMemory, RingMemory, site};
use crate::memory::layout::{IDLE, REPLACED};

/// Attempts to get in front of a publisher that moves on meanwhile. Each costs it a step of its floor.
const ATTEMPTS: usize = 16;

/// A subscriber's protection on one ring.
pub(super) struct Shield {
    rules: Overrun,
    /// Where the window starts: the shared cursor.
    start: Cell<u64>,
    /// Where what is protected ends; at `start` until the floor was looked at.
    end: Cell<u64>,
    /// Messages of the window that were handed out and are not released: a bit for each.
    live: Cell<u64>,
    /// What each pin holds.
    pins: Box<[Cell<Option<u64>>]>,
    pinned: Cell<usize>,
    /// Messages lost since one was last received.
    lost: Cell<u64>,
    lost_in_all: Cell<u64>,
    /// The publisher has gone past since a message was last received.
    passed: Cell<bool>,
    evicted: Cell<bool>,
    /// Its ring has contradicted itself: stamps of later messages say nothing.
    disbelieved: Cell<bool>,
}

impl Shield {
    /// Protects nothing yet.
    pub(super) fn new(rules: Overrun, start: u64) -> Self {
        assert!((1..=64).contains(&rules.window), "a bit for each message");
        Self {
            rules,
            start: Cell::new(start),
            end: Cell::new(start),
            live: Cell::new(0),
            pins: vec![Cell::new(None); rules.pins].into(),
            pinned: Cell::new(0),
            lost: Cell::new(0),
            lost_in_all: Cell::new(0),
            passed: Cell::new(false),
            evicted: Cell::new(false),
            disbelieved: Cell::new(false),
        }
    }

    /// Whether the publisher waits for this subscriber.
    pub(super) fn gates(&self) -> bool {
        self.rules.evicts
    }

    /// Whether this message is protected.
    #[inline(always)]
    pub(super) fn covers(&self, sequence: u64) -> bool {
        // The end moves with what comes next, so nothing behind the window is asked for.
        sequence != self.end.get()
    }

    /// Whether a slot whose stamp is not `next` holds a later message than the one that was looked for, or is about to.
    #[inline(always)]
    pub(super) fn is_passed(&self, stamp: u64, next: u64) -> bool {
        (stamp & !REPLACED).wrapping_sub(next) <= i64::MAX as u64 && !self.disbelieved.get()
    }

    /// The ring has contradicted itself.
    pub(super) fn disbelieve(&self) {
        self.disbelieved.set(true);
    }

    /// Messages are lost.
    pub(super) fn lose(&self, count: u64) {
        self.lost.set(self.lost.get().wrapping_add(count));
        self.lost_in_all
            .set(self.lost_in_all.get().wrapping_add(count));
    }

    /// Whether the publisher has gone past since this was last asked.
    #[inline(always)]
    pub(super) fn take_passed(&self) -> bool {
        self.passed.replace(false)
    }

    /// Whether its subscriber was told that it is evicted.
    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.get()
    }

    /// Messages lost so far.
    pub(super) fn lost_in_all(&self) -> u64 {
        self.lost_in_all.get()
    }

    /// Messages lost since this was last asked.
    #[inline(always)]
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.replace(0)
    }

    /// A message of the window is handed out.
    #[inline(always)]
    pub(super) fn hand_out(&self, sequence: u64) {
        debug_assert!(
            sequence.wrapping_sub(self.start.get()) < self.rules.window,
            "what is handed out is protected"
        );
        debug_assert!(
            self.live.get() & self.bit(sequence) == 0,
            "a message is handed out once"
        );
        self.live.set(self.live.get() | self.bit(sequence));
    }

    /// A message that was handed out last was not taken: it is as before.
    pub(super) fn take_back(&self, sequence: u64) {
        self.live.set(self.live.get() & !self.bit(sequence));
    }

    fn bit(&self, sequence: u64) -> u64 {
        1 << (sequence.wrapping_sub(self.start.get()) & 63)
    }

    /// Messages handed out and not released.
    pub(super) fn outstanding(&self) -> u64 {
        u64::from(self.live.get().count_ones()) + self.pinned.get() as u64
    }

    /// Moves the window so that it starts at `next`, or at the oldest intact message where that is later; says where.
    ///
    /// # Errors
    /// [`Refused::Held`] where messages that the window would leave find no pin; [`Refused::Evicted`] where the publisher has gone
    /// past a subscriber for which it waits.
    #[inline(never)]
    pub(super) fn slide<B: Backend>(
        &self,
        ring: &B::Ring,
        reader: &B::Reader,
        index: usize,
        next: u64,
    ) -> Result<u64, Refused> {
        if self.evicted.get() {
            return Err(Refused::Evicted);
        }
        self.pin_live::<B>(reader, index)?;
        let start = self.protect::<B>(ring, reader, index, next);
        if start == next {
            return Ok(next);
        }
        if self.rules.evicts {
            // ORDERING: release pairs with the publisher's `PUBLISH_CURSOR`: reads of the old window are over. It protects nothing more.
            B::store64(reader.cursor(index), next | IDLE, site::RELEASE_CURSOR);
            self.evicted.set(true);
            // Nothing of the new window is ever handed out, nor what its publisher has not yet written over.
            self.end.set(next);
            return Err(Refused::Evicted);
        }
        self.passed.set(true);
        self.lose(start.wrapping_sub(next));
        Ok(start)
    }

    /// Puts the window at `next`, or at the oldest intact message where that is later. Nothing of the old window may be live.
    pub(super) fn protect<B: Backend>(
        &self,
        ring: &B::Ring,
        reader: &B::Reader,
        index: usize,
        next: u64,
    ) -> u64 {
        debug_assert!(
            self.live.get() == 0,
            "the window leaves nothing that is read"
        );
        let mut start = next;
        let mut protects = false;
        for _ in 0..ATTEMPTS {
            // ORDERING: release pairs with the publisher's `PUBLISH_CURSOR`: reads of what the window leaves are over, and the pins
            // of what it leaves behind are seen.
            B::store64(reader.cursor(index), start, site::RELEASE_CURSOR);
            B::fence(site::PROTECT_FENCE);
            // ORDERING: after the fence, which pairs with the publisher's `FLOOR_FENCE`.
            let floor = B::load64(&ring.header().floor.0, site::RELAXED);
            let behind = floor.wrapping_sub(start);
            protects = behind == 0 || behind > i64::MAX as u64;
            if protects {
                break;
            }
            start = floor;
        }
        let width = if protects { self.rules.window } else { 0 };
        self.start.set(start);
        self.end.set(start.wrapping_add(width));
        self.live.set(0);
        start
    }

    /// Pins what the window is about to leave behind. A pin is seen before the window is seen to move.
    fn pin_live<B: Backend>(&self, reader: &B::Reader, index: usize) -> Result<(), Refused> {
        while self.live.get() != 0 {
            let ahead = self.live.get().trailing_zeros();
            let sequence = self.start.get().wrapping_add(ahead.into());
            let free = self.pins.iter().position(|pin| pin.get().is_none());
            let number = free.ok_or(Refused::Held)?;
            self.pins[number].set(Some(sequence));
            self.pinned.set(self.pinned.get() + 1);
            // ORDERING: before the cursor, by that one's release. Of its own it pairs with the publisher's `FLOOR_PIN` as giving back
            // does: who finds this message here, and no longer the pin's last one, has seen the reads of that one end.
            B::store64(
                reader.pin(index, number),
                sequence.wrapping_add(1),
                site::RELEASE_PIN,
            );
            self.live.set(self.live.get() & !(1 << ahead));
        }
        Ok(())
    }

    /// Releases a message that was handed out; whether that may have made room now.
    #[inline(always)]
    pub(super) fn release<B: Backend>(
        &self,
        reader: &B::Reader,
        index: usize,
        sequence: u64,
    ) -> bool {
        let ahead = sequence.wrapping_sub(self.start.get());
        if ahead < self.rules.window && self.live.get() & (1 << ahead) != 0 {
            self.live.set(self.live.get() & !(1 << ahead));
            return self.rules.window == 1 && self.rest::<B>(reader, index, sequence);
        }
        self.unpin::<B>(reader, index, sequence)
    }

    /// A window of one message, which is released, protects nothing until it moves: what lies there may be large. Whether that may have
    /// made room.
    fn rest<B: Backend>(&self, reader: &B::Reader, index: usize, sequence: u64) -> bool {
        let cursor = sequence.wrapping_add(1) | IDLE;
        // ORDERING: release pairs with the publisher's `PUBLISH_CURSOR`: reads of the message are over.
        B::store64(reader.cursor(index), cursor, site::RELEASE_CURSOR);
        self.rules.evicts
    }

    #[cold]
    fn unpin<B: Backend>(&self, reader: &B::Reader, index: usize, sequence: u64) -> bool {
        let Some(number) = self.pins.iter().position(|p| p.get() == Some(sequence)) else {
            return false;
        };
        self.pins[number].set(None);
        self.pinned.set(self.pinned.get() - 1);
        debug_assert_eq!(
            self.pins.iter().filter(|pin| pin.get().is_some()).count(),
            self.pinned.get(),
            "each pin is counted"
        );
        // ORDERING: release pairs with the publisher's `FLOOR_PIN`: reads of the message are over.
        B::store64(reader.pin(index, number), 0, site::RELEASE_PIN);
        self.rules.evicts
    }
}
