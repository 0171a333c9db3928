//! The minimal ring of stamped slots: one publisher, any number of subscribers, lossless.
//!
//! A slot is a stamp (the sequence plus one) and the payload, in whole cache
//! lines; a short message crosses as one line. The publisher honours the smallest
//! cursor and looks at the cursors only when its cached limit is used up. A
//! subscriber of several publishers takes their rings in turn.

use super::layout;
use super::memory::Block;
use crate::patience::Patience;
use crate::payload::{Payload, Tally};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Result, ensure};
use std::sync::atomic::{AtomicU64, Ordering};

/// The stamped ring as a transport.
#[derive(Debug)]
pub enum Stamped {}

impl Transport for Stamped {
    type Publisher = StampedPublisher;
    type Subscriber = StampedSubscriber;

    fn publisher(place: &Place<'_>) -> Result<StampedPublisher> {
        let ring = layout::ring(place.job, place.link, place.index);
        Ok(StampedPublisher {
            slots: Slots::new(place, place.index)?,
            cursors: (0..place.job.subscribers)
                .map(|subscriber| place.memory.word(ring + layout::cursor(subscriber)))
                .collect(),
            head: 0,
            limit: place.job.depth as u64,
            patience: place.patience(),
        })
    }

    fn subscriber(place: &Place<'_>) -> Result<StampedSubscriber> {
        let rings = (0..place.job.publishers)
            .map(|publisher| {
                let ring = layout::ring(place.job, place.link, publisher);
                Ok(Source {
                    slots: Slots::new(place, publisher)?,
                    cursor: place.memory.word(ring + layout::cursor(place.index)),
                    next: 0,
                })
            })
            .collect::<Result<_>>()?;
        Ok(StampedSubscriber {
            rings,
            turn: 0,
            patience: place.patience(),
        })
    }
}

/// The slots of one ring.
#[derive(Debug)]
struct Slots {
    block: Block,
    mask: u64,
    stride: usize,
    payload: usize,
}

impl Slots {
    fn new(place: &Place<'_>, publisher: usize) -> Result<Self> {
        let job = place.job;
        ensure!(
            job.depth.is_power_of_two(),
            "the depth must be a power of two, not {}",
            job.depth
        );
        let stride = layout::stride(job.payload);
        let at = layout::ring(job, place.link, publisher) + layout::data(job);
        Ok(Self {
            block: place.memory.block(at, job.depth * stride),
            mask: job.depth as u64 - 1,
            stride,
            payload: job.payload,
        })
    }

    #[inline]
    fn at(&self, sequence: u64) -> usize {
        (sequence & self.mask) as usize * self.stride
    }
}

/// The publisher's end.
#[derive(Debug)]
pub struct StampedPublisher {
    slots: Slots,
    cursors: Vec<&'static AtomicU64>,
    head: u64,
    limit: u64,
    patience: Patience,
}

impl StampedPublisher {
    #[cold]
    fn wait_for_room(&mut self) {
        loop {
            let slowest = self
                .cursors
                .iter()
                // ORDERING: Acquire pairs with the Release store of the cursor in
                // `Source::take`: the slots below it are read before they are rewritten.
                .map(|cursor| cursor.load(Ordering::Acquire))
                .min()
                .unwrap_or(self.head);
            self.limit = slowest + self.slots.mask + 1;
            if self.limit != self.head {
                return;
            }
            self.patience.pause();
        }
    }
}

impl Publish for StampedPublisher {
    #[inline]
    #[allow(unsafe_code)]
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        for _ in 0..batch {
            if self.head == self.limit {
                self.wait_for_room();
            }
            let at = self.slots.at(self.head);
            // SAFETY: every subscriber's cursor has passed the slot's former message, and the
            // stamp that hands the new one over is stored below.
            unsafe { self.slots.block.write(at + 8, payload.next_message()) };
            self.head += 1;
            // ORDERING: Release pairs with the Acquire load of the stamp in `Source::take`.
            self.slots
                .block
                .word(at)
                .store(self.head, Ordering::Release);
        }
        Ok(())
    }
}

/// One ring, as its subscriber sees it.
#[derive(Debug)]
struct Source {
    slots: Slots,
    cursor: &'static AtomicU64,
    next: u64,
}

impl Source {
    /// Takes up to `limit` messages; says whether there was any.
    #[inline]
    #[allow(unsafe_code)]
    fn take(&mut self, limit: usize, tally: &mut Tally) -> bool {
        let mut taken = 0;
        while taken < limit {
            let at = self.slots.at(self.next);
            // ORDERING: Acquire pairs with the Release store of the stamp in `publish`.
            if self.slots.block.word(at).load(Ordering::Acquire) != self.next + 1 {
                break;
            }
            // SAFETY: the stamp says that the slot is written, and the publisher leaves it alone
            // until the cursor below passes it.
            tally.take(unsafe { self.slots.block.read(at + 8, self.slots.payload) });
            self.next += 1;
            taken += 1;
        }
        if taken > 0 {
            // ORDERING: Release pairs with the Acquire load of the cursors in `wait_for_room`.
            self.cursor.store(self.next, Ordering::Release);
        }
        taken > 0
    }
}

/// A subscriber's end.
#[derive(Debug)]
pub struct StampedSubscriber {
    rings: Vec<Source>,
    turn: usize,
    patience: Patience,
}

impl Receive for StampedSubscriber {
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
                if self.rings[turn].take(limit, tally) {
                    return Ok(());
                }
            }
            self.patience.pause();
        }
    }
}
