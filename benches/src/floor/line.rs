//! The floor of latency: a cache line bounced in each direction.
//!
//! A link is one word on a line of its own. The publisher stores the sequence, the
//! subscriber polls until it changes. Nothing faster can pass from one processor
//! to another. There is no room to wait for: a sender must hear back before it
//! sends again, which a bounce does.

use super::layout;
use crate::payload::{Payload, Tally, digest};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Result, ensure};
use std::sync::atomic::{AtomicU64, Ordering};

/// The bounced line as a transport. Payload: 8 bytes, always.
#[derive(Debug)]
pub enum Lines {}

impl Transport for Lines {
    type Publisher = LinePublisher;
    type Subscriber = LineSubscriber;

    fn publisher(place: &Place<'_>) -> Result<LinePublisher> {
        Ok(LinePublisher { line: line(place)? })
    }

    fn subscriber(place: &Place<'_>) -> Result<LineSubscriber> {
        Ok(LineSubscriber {
            line: line(place)?,
            seen: 0,
        })
    }
}

fn line(place: &Place<'_>) -> Result<&'static AtomicU64> {
    ensure!(
        place.job.payload == 8,
        "a line carries 8 bytes, not {}",
        place.job.payload
    );
    Ok(place.memory.word(layout::ring(place.job, place.link, 0)))
}

/// Writes the line.
#[derive(Debug)]
pub struct LinePublisher {
    line: &'static AtomicU64,
}

impl Publish for LinePublisher {
    #[inline]
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        for _ in 0..batch {
            let value = digest(payload.next_message()).wrapping_add(1);
            // ORDERING: Release pairs with the Acquire poll of `LineSubscriber::receive`.
            self.line.store(value, Ordering::Release);
        }
        Ok(())
    }
}

/// Polls the line.
#[derive(Debug)]
pub struct LineSubscriber {
    line: &'static AtomicU64,
    seen: u64,
}

impl Receive for LineSubscriber {
    #[inline]
    fn receive(&mut self, _limit: usize, tally: &mut Tally) -> Result<()> {
        loop {
            // ORDERING: Acquire pairs with the Release store of `LinePublisher::publish`.
            let value = self.line.load(Ordering::Acquire);
            if value != self.seen {
                self.seen = value;
                tally.take(&value.wrapping_sub(1).to_le_bytes());
                return Ok(());
            }
            std::hint::spin_loop();
        }
    }
}
