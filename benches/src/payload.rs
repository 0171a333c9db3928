//! What is sent and how it is checked: both the floors and bus send the same
//! bytes and read every one of them.
//!
//! A message carries a number in its first eight bytes (fewer, if it is shorter)
//! and its content after them. A reader adds up all words of all
//! messages; the sum is compared at the end of a run, so that a lost, doubled
//! or torn message fails the run.

use crate::content::Content;
use anyhow::{Result, ensure};

/// Adds up a message's bytes as little-endian words, the last one short.
///
/// ```
/// assert_eq!(bus_bench::payload::digest(&[1, 0, 0, 0, 0, 0, 0, 0, 2]), 3);
/// ```
#[inline]
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = 0_u64;
    for word in words {
        sum = sum.wrapping_add(u64::from_le_bytes(*word));
    }
    if rest.is_empty() {
        return sum;
    }
    let mut last = [0_u8; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum.wrapping_add(u64::from_le_bytes(last))
}

/// Bytes of prepared messages: a small part of a core's first cache.
const PREPARED_BYTES: usize = 8192;
/// Prepared messages at most.
const MOST_PREPARED: usize = 64;

/// The messages of one publisher, one after the other.
///
/// Short messages are prepared and handed out in a circle. Stamping one right
/// before it is copied would make the copy wait until the stamp has left the
/// store buffer, behind every slot written before: the run would then measure that
/// stall and not the transport. A long message is stamped each time, where the stall
/// no longer shows.
#[derive(Debug)]
pub struct Payload {
    bytes: Vec<u8>,
    len: usize,
    at: usize,
    /// The next sequence, if messages are stamped one by one.
    sequence: Option<u64>,
}

impl Payload {
    /// Messages of `len` bytes, numbered from 0, in a circle of up to 65.
    #[must_use]
    pub fn new(content: Content, len: usize) -> Self {
        let prepared = match (PREPARED_BYTES / len.max(1)).min(MOST_PREPARED) {
            0 | 1 => 1,
            // Odd, while a ring's depth is a power of two: what a slot held a lap ago is
            // another message, so reading it again changes the sum.
            several => several | 1,
        };
        let mut bytes = content.bytes(len * prepared);
        for (message, sequence) in bytes.chunks_mut(len.max(1)).zip(0..) {
            stamp(message, sequence);
        }
        let sequence = (prepared == 1).then_some(0);
        Self {
            bytes,
            len,
            at: 0,
            sequence,
        }
    }

    /// Hands out the next message.
    #[inline]
    pub fn next_message(&mut self) -> &[u8] {
        if let Some(sequence) = &mut self.sequence {
            stamp(&mut self.bytes, *sequence);
            *sequence = sequence.wrapping_add(1);
        }
        let at = self.at;
        let end = at + self.len;
        self.at = if end == self.bytes.len() { 0 } else { end };
        &self.bytes[at..end]
    }

    /// Are messages prepared, so that several can be handed out at a time?
    #[inline]
    #[must_use]
    pub fn prepared(&self) -> bool {
        self.sequence.is_none()
    }

    /// Hands out the next `count` messages at a time. They must be [`prepared`](Self::prepared).
    #[inline]
    pub fn next_messages(&mut self, count: usize) -> impl Iterator<Item = &[u8]> {
        debug_assert!(self.prepared());
        let (bytes, len, at) = (&self.bytes, self.len, &mut self.at);
        (0..count).map(move |_| {
            let end = *at + len;
            let message = &bytes[*at..end];
            *at = if end == bytes.len() { 0 } else { end };
            message
        })
    }
}

/// Writes as much of `sequence` as fits at the start of `message`.
fn stamp(message: &mut [u8], sequence: u64) {
    for (to, from) in message.iter_mut().zip(sequence.to_le_bytes()) {
        *to = from;
    }
}

/// What a subscriber has read so far.
#[derive(Debug, Default)]
pub struct Tally {
    count: u64,
    sum: u64,
}

impl Tally {
    /// Reads one message, all of it.
    #[inline]
    pub fn take(&mut self, message: &[u8]) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(digest(message));
    }

    /// The number of messages read.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Checks that exactly the first `messages` of `payload` came from each of `publishers`.
    ///
    /// # Errors
    /// The count or the sum differs: the transport lost, doubled or tore a message.
    pub fn check(&self, mut payload: Payload, messages: u64, publishers: u64) -> Result<()> {
        let mut sum = 0_u64;
        for _ in 0..messages {
            sum = sum.wrapping_add(digest(payload.next_message()));
        }
        let sum = sum.wrapping_mul(publishers);
        let count = messages.wrapping_mul(publishers);
        ensure!(
            self.count == count && self.sum == sum,
            "the subscriber read {} messages with digest {:#x}, expected {count} with {sum:#x}: \
             messages were lost, doubled or changed on the way",
            self.count,
            self.sum,
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(len: usize) -> Payload {
        Payload::new(Content::Pattern, len)
    }

    #[test]
    fn a_changed_lost_or_doubled_message_is_noticed() {
        for len in [1, 7, 8, 9, 40, 4096, 20_000] {
            let mut payload = of(len);
            let mut tally = Tally::default();
            for _ in 0..100 {
                tally.take(payload.next_message());
            }
            tally.check(of(len), 100, 1).expect("all there");
            assert!(tally.check(of(len), 101, 1).is_err());
            assert!(tally.check(of(len), 50, 1).is_err());
            let mut torn = Tally {
                count: 100,
                sum: tally.sum,
            };
            torn.sum = torn.sum.wrapping_add(1);
            assert!(torn.check(of(len), 100, 1).is_err());
        }
    }

    #[test]
    fn a_slot_read_a_lap_late_is_noticed() {
        for (len, depth) in [
            (1, 8192),
            (40, 8192),
            (40, 64),
            (512, 1024),
            (4096, 64),
            (65_536, 8),
        ] {
            let mut payload = of(len);
            let late = digest(payload.next_message());
            for _ in 1..depth {
                payload.next_message();
            }
            assert_ne!(
                late,
                digest(payload.next_message()),
                "{len} bytes, depth {depth}"
            );
        }
    }

    #[test]
    fn messages_handed_out_together_are_the_same() {
        for len in [0, 1, 40, 4000] {
            let (mut single, mut several) = (of(len), of(len));
            assert!(several.prepared());
            for count in [1, 7, 200] {
                for message in several.next_messages(count) {
                    assert_eq!(message, single.next_message());
                }
            }
        }
        assert!(!of(20_000).prepared());
    }

    #[test]
    fn several_publishers_send_the_same() {
        let mut tally = Tally::default();
        for _ in 0..3 {
            let mut payload = of(12);
            for _ in 0..10 {
                tally.take(payload.next_message());
            }
        }
        tally.check(of(12), 10, 3).expect("three times ten");
    }
}
