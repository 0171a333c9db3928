//! What a subscriber that publishers may go past has received and lost: together, what was published.

use crate::actors::{Held, Subscriber};

/// The count of one ring, from some message on.
#[derive(Default)]
pub(super) struct Tally {
    /// The sequence after the last one that was received.
    next: u64,
    received: u64,
    lost: u64,
    start: u64,
}

impl Tally {
    /// Counts from the message with this sequence on.
    pub(super) fn from(start: u64) -> Self {
        Self {
            next: start,
            start,
            ..Self::default()
        }
    }

    /// Counts a message: what was lost before it is the gap in the sequence.
    pub(super) fn count(&mut self, held: &Held<'_>) {
        assert_eq!(
            held.sequence(),
            self.next + held.lost(),
            "a loss is a difference"
        );
        self.next = held.sequence() + 1;
        self.received += 1;
        self.lost += held.lost();
    }

    /// Receives a message, if there is one.
    pub(super) fn take<'a>(&mut self, subscriber: &'a Subscriber) -> Option<Held<'a>> {
        let held = subscriber.take()?;
        self.count(&held);
        Some(held)
    }

    /// Receives and releases a message, if there is one.
    pub(super) fn poll(&mut self, subscriber: &Subscriber) {
        if let Some(held) = self.take(subscriber) {
            held.release();
        }
    }

    /// Receives and releases a message, asleep for as long as there is none; false when the ring has ended.
    pub(super) fn receive(&mut self, subscriber: &Subscriber) -> bool {
        let Some(held) = subscriber.wait() else {
            return false;
        };
        self.count(&held);
        held.release();
        true
    }

    /// Receives what is left, when its publisher has published `head` messages and is done: nothing is unaccounted for.
    pub(super) fn drain(mut self, subscriber: &Subscriber, head: u64) {
        while let Some(held) = self.take(subscriber) {
            held.release();
        }
        assert_eq!(subscriber.next(0), head, "there is no gap");
        assert_eq!(
            self.received + subscriber.lost(),
            head - self.start,
            "what was published is received or lost"
        );
        assert!(self.lost <= subscriber.lost(), "a loss is told once");
    }
}
