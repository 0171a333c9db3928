//! The minimal ring of packed messages: one publisher, any number of subscribers, lossless.
//!
//! Messages stand one behind the other, each an 8-byte length and the payload in
//! whole words. The publisher's `front` and each subscriber's cursor are byte
//! positions on lines of their own, and each side caches the other's: it looks
//! again only when the cached one says full or empty. A message never wraps: what
//! is left at the end is skipped.

use super::layout;
use super::memory::Block;
use crate::patience::Patience;
use crate::payload::{Payload, Tally};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Result, bail};
use std::sync::atomic::{AtomicU64, Ordering};

/// A length that says: go on at the start of the ring.
const SKIP: u64 = u64::MAX;

/// The packed ring as a transport.
#[derive(Debug)]
pub enum Packed {}

impl Transport for Packed {
    type Publisher = PackedPublisher;
    type Subscriber = PackedSubscriber;

    fn publisher(place: &Place<'_>) -> Result<PackedPublisher> {
        let ring = layout::ring(place.job, place.link, place.index);
        let bytes = Bytes::new(place, place.index);
        Ok(PackedPublisher {
            limit: bytes.capacity(),
            bytes,
            front: place.memory.word(ring),
            cursors: (0..place.job.subscribers)
                .map(|subscriber| place.memory.word(ring + layout::cursor(subscriber)))
                .collect(),
            head: 0,
            need: layout::packed(place.job.payload) as u64,
            patience: place.patience(),
        })
    }

    fn subscriber(place: &Place<'_>) -> Result<PackedSubscriber> {
        let rings = (0..place.job.publishers)
            .map(|publisher| {
                let ring = layout::ring(place.job, place.link, publisher);
                Source {
                    bytes: Bytes::new(place, publisher),
                    front: place.memory.word(ring),
                    cursor: place.memory.word(ring + layout::cursor(place.index)),
                    next: 0,
                    seen: 0,
                    need: layout::packed(place.job.payload) as u64,
                }
            })
            .collect();
        Ok(PackedSubscriber {
            rings,
            turn: 0,
            patience: place.patience(),
        })
    }
}

/// The data of one ring.
#[derive(Debug)]
struct Bytes {
    block: Block,
    mask: u64,
}

impl Bytes {
    fn new(place: &Place<'_>, publisher: usize) -> Self {
        let capacity = layout::packed_capacity(place.job);
        let at = layout::ring(place.job, place.link, publisher) + layout::data(place.job);
        Self {
            block: place.memory.block(at, capacity),
            mask: capacity as u64 - 1,
        }
    }

    fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// The bytes from `position` to the end of the ring.
    #[inline]
    fn rest(&self, position: u64) -> u64 {
        self.capacity() - (position & self.mask)
    }
}

/// The publisher's end.
#[derive(Debug)]
pub struct PackedPublisher {
    bytes: Bytes,
    front: &'static AtomicU64,
    cursors: Vec<&'static AtomicU64>,
    head: u64,
    limit: u64,
    need: u64,
    patience: Patience,
}

impl PackedPublisher {
    #[cold]
    fn wait_for_room(&mut self, bytes: u64) {
        // What a batch has written so far must be seen, or nobody makes room.
        // ORDERING: Release pairs with the Acquire load of `front` in `Source::take`.
        self.front.store(self.head, Ordering::Release);
        loop {
            let slowest = self
                .cursors
                .iter()
                // ORDERING: Acquire pairs with the Release store of the cursor in
                // `Source::take`: the bytes below it are read before they are rewritten.
                .map(|cursor| cursor.load(Ordering::Acquire))
                .min()
                .unwrap_or(self.head);
            self.limit = slowest + self.bytes.capacity();
            if self.limit - self.head >= bytes {
                return;
            }
            self.patience.pause();
        }
    }
}

impl Publish for PackedPublisher {
    #[inline]
    #[allow(unsafe_code)]
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        for _ in 0..batch {
            let rest = self.bytes.rest(self.head);
            let skip = if rest < self.need { rest } else { 0 };
            if self.limit - self.head < skip + self.need {
                self.wait_for_room(skip + self.need);
            }
            if skip > 0 {
                // ORDERING: Relaxed: `front` below hands it over.
                self.bytes
                    .block
                    .word((self.head & self.bytes.mask) as usize)
                    .store(SKIP, Ordering::Relaxed);
                self.head += skip;
            }
            let at = (self.head & self.bytes.mask) as usize;
            let message = payload.next_message();
            // ORDERING: Relaxed: `front` below hands it over.
            self.bytes
                .block
                .word(at)
                .store(message.len() as u64, Ordering::Relaxed);
            // SAFETY: every subscriber's cursor has passed these bytes, and `front`, which hands
            // them over, is stored below.
            unsafe { self.bytes.block.write(at + 8, message) };
            self.head += self.need;
        }
        // ORDERING: Release pairs with the Acquire load of `front` in `Source::take`.
        self.front.store(self.head, Ordering::Release);
        Ok(())
    }
}

/// One ring, as its subscriber sees it.
#[derive(Debug)]
struct Source {
    bytes: Bytes,
    front: &'static AtomicU64,
    cursor: &'static AtomicU64,
    next: u64,
    seen: u64,
    need: u64,
}

impl Source {
    /// Takes up to `limit` messages; says whether there was any.
    #[inline]
    #[allow(unsafe_code)]
    fn take(&mut self, limit: usize, tally: &mut Tally) -> Result<bool> {
        let mut taken = 0;
        while taken < limit {
            if self.next == self.seen {
                // ORDERING: Acquire pairs with the Release store of `front` in `publish`.
                self.seen = self.front.load(Ordering::Acquire);
                if self.next == self.seen {
                    break;
                }
            }
            let at = (self.next & self.bytes.mask) as usize;
            // ORDERING: Relaxed: the Acquire load of `front` has handed it over.
            let len = self.bytes.block.word(at).load(Ordering::Relaxed);
            if len == SKIP {
                self.next += self.bytes.rest(self.next);
                continue;
            }
            if len > self.need - 8 {
                bail!(
                    "the packed ring holds a length of {len} bytes at {at}, {} at most",
                    self.need - 8
                );
            }
            // SAFETY: `front` says that the message is written, and the publisher leaves it alone
            // until the cursor below passes it.
            tally.take(unsafe { self.bytes.block.read(at + 8, len as usize) });
            self.next += self.need;
            taken += 1;
        }
        if taken > 0 {
            // ORDERING: Release pairs with the Acquire load of the cursors in `wait_for_room`.
            self.cursor.store(self.next, Ordering::Release);
        }
        Ok(taken > 0)
    }
}

/// A subscriber's end.
#[derive(Debug)]
pub struct PackedSubscriber {
    rings: Vec<Source>,
    turn: usize,
    patience: Patience,
}

impl Receive for PackedSubscriber {
    #[inline]
    fn receive(&mut self, limit: usize, tally: &mut Tally) -> Result<()> {
        loop {
            for _ in 0..self.rings.len() {
                let turn = self.turn;
                self.turn = if turn + 1 == self.rings.len() {
                    0
                } else {
                    turn + 1
                };
                if self.rings[turn].take(limit, tally)? {
                    return Ok(());
                }
            }
            self.patience.pause();
        }
    }
}
