//! Bus with a publisher that coalesces messages, as a user could put it on top of the public handles.
//!
//! While a subscriber is behind, messages are taken into a pack, which is sent as one message when it is full or nobody is
//! behind any more; while nobody is, each is sent at once. All messages are of one length and stand side by side without a
//! header: less than any real protocol could do with.
//!
//! How far behind a subscriber is, the handles tell only of the last time that room was looked for, once a lap of the ring.
//! So each subscriber stores the number of slots that it has read in a word of the harness, on a line of its own, as it
//! does its cursor in its own segment. The publisher looks there once in a few messages: each look may fetch the line from
//! the other processor.
// The word is the harness's and hands nothing over; those of the bus stay behind its backend.
#![allow(clippy::disallowed_types)]

use crate::bus::topic_for;
use crate::floor::layout;
use crate::payload::{Payload, Tally};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Result, ensure};
use bus_client::{BytesPublisher, BytesSubscriber, TopicBuilder};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// How messages are coalesced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coalescing {
    /// Bytes of a pack at most.
    pub pack: usize,
    /// A pack has a slot as long as itself; else slots are as long as a message needs, and a longer pack lies beside them.
    pub in_slots: bool,
    /// A subscriber is behind if it has not read more slots than this; none: all are, always.
    pub behind: Option<u64>,
    /// The subscribers are looked at once in so many messages, at least one.
    pub look: u32,
}

/// Coalescing bus as a transport.
#[derive(Debug)]
pub enum Coalesced {}

impl Transport for Coalesced {
    type Publisher = Coalescer;
    type Subscriber = Unpacker;

    fn publisher(place: &Place<'_>) -> Result<Coalescer> {
        let job = place.job;
        let pack = longest(place);
        Ok(Coalescer {
            out: link(place)?.bytes_publisher()?,
            pack: Vec::with_capacity(pack),
            full: pack - pack % job.payload.max(1),
            behind: job.coalescing.behind,
            look: job.coalescing.look,
            unlooked: 0,
            cursors: (0..job.subscribers)
                .map(|subscriber| cursor(place, subscriber))
                .collect(),
            head: 0,
            packing: job.coalescing.behind.is_none(),
        })
    }

    fn subscriber(place: &Place<'_>) -> Result<Unpacker> {
        ensure!(
            place.job.payload > 0 && place.job.publishers == 1,
            "only messages of one publisher, of at least one byte, are coalesced"
        );
        Ok(Unpacker {
            from: link(place)?.bytes_subscriber()?,
            payload: place.job.payload,
            cursor: cursor(place, place.index),
            next: 0,
        })
    }
}

/// Bytes of a pack at most: one message always goes into it.
fn longest(place: &Place<'_>) -> usize {
    place.job.coalescing.pack.max(place.job.payload)
}

fn link(place: &Place<'_>) -> Result<TopicBuilder> {
    let usual = if place.job.coalescing.in_slots {
        longest(place)
    } else {
        place.job.payload
    };
    topic_for(place, usual, longest(place))
}

/// Where `subscriber` says how many slots it has read.
fn cursor(place: &Place<'_>, subscriber: usize) -> &'static AtomicU64 {
    let ring = layout::ring(place.job, place.link, 0);
    place.memory.word(ring + layout::cursor(subscriber))
}

/// A publisher's end.
pub struct Coalescer {
    out: BytesPublisher,
    /// Messages taken and not yet sent.
    pack: Vec<u8>,
    full: usize,
    behind: Option<u64>,
    look: u32,
    /// Messages since the last look.
    unlooked: u32,
    cursors: Vec<&'static AtomicU64>,
    /// Slots sent.
    head: u64,
    /// Somebody was behind at the last look.
    packing: bool,
}

impl Coalescer {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.unlooked += 1;
        if self.unlooked >= self.look {
            self.look();
        }
        if !self.packing && self.pack.is_empty() {
            self.out.send(message)?;
            self.head += 1;
            return Ok(());
        }
        self.pack.extend_from_slice(message);
        if self.pack.len() >= self.full || !self.packing {
            self.flush()?;
        }
        Ok(())
    }

    #[inline]
    fn look(&mut self) {
        self.unlooked = 0;
        let Some(behind) = self.behind else {
            return;
        };
        let read = self.cursors.iter().map(|cursor| {
            // ORDERING: Relaxed: only the number counts; bus itself hands the slots over.
            cursor.load(Ordering::Relaxed)
        });
        self.packing = self.head - read.min().unwrap_or(self.head) > behind;
    }
}

impl Publish for Coalescer {
    #[inline]
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        for _ in 0..batch {
            self.send(payload.next_message())?;
        }
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        if !self.pack.is_empty() {
            self.out.send(&self.pack)?;
            self.head += 1;
            self.pack.clear();
        }
        Ok(())
    }

    fn slots(&self) -> Option<u64> {
        Some(self.head)
    }
}

/// A subscriber's end.
pub struct Unpacker {
    from: BytesSubscriber,
    payload: usize,
    cursor: &'static AtomicU64,
    next: u64,
}

impl Receive for Unpacker {
    #[inline]
    fn receive(&mut self, _limit: usize, tally: &mut Tally) -> Result<()> {
        let pack = self.from.recv()?;
        for message in pack.bytes().chunks_exact(self.payload) {
            tally.take(message);
        }
        drop(pack);
        self.next += 1;
        // ORDERING: Relaxed: as for the load in `Coalescer::look`.
        self.cursor.store(self.next, Ordering::Relaxed);
        Ok(())
    }
}
