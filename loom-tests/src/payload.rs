//! Payload that the model checker watches: whoever reads or writes it must be ordered against everyone else who does.
//!
//! Two words, so that a message of which one half is another's would be seen; a write beside a read, or beside another write,
//! stops the model whatever the values.

use std::cell::Cell;

use loom::cell::UnsafeCell;

/// The payload of a slot, or of a unit in the arena.
pub struct Payload {
    halves: [Watched; 2],
}

struct Watched {
    /// loom's record of who touched it.
    record: UnsafeCell<()>,
    value: Cell<u64>,
}

impl Payload {
    /// Holds no message.
    pub fn new() -> Self {
        let watched = || Watched {
            record: UnsafeCell::new(()),
            value: Cell::new(u64::MAX),
        };
        Self {
            halves: [watched(), watched()],
        }
    }

    /// Writes the message of this sequence number of this publisher.
    pub fn write(&self, publisher: u64, sequence: u64) {
        for (half, watched) in (0..).zip(&self.halves) {
            let value = content(publisher, sequence, half);
            watched.record.with_mut(|_| watched.value.set(value));
        }
    }

    /// Reads it, and demands that it is the message of this sequence number of this publisher.
    pub fn expect(&self, publisher: u64, sequence: u64) {
        for (half, watched) in (0..).zip(&self.halves) {
            let found = watched.record.with(|_| watched.value.get());
            let wanted = content(publisher, sequence, half);
            assert_eq!(
                found, wanted,
                "half {half} of message {sequence} of publisher {publisher}"
            );
        }
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::new()
    }
}

fn content(publisher: u64, sequence: u64, half: u64) -> u64 {
    publisher << 32 | sequence << 1 | half
}
