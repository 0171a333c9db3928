//! Spare descriptors, given up where this process has no room for those of a message.
//!
//! Promises: while it is full, a message that was lost for want of descriptors can be told again and arrives.

use std::fs::File;

/// As many as a control message carries at most.
const SPARE: usize = bus_core::control::MAX_DESCRIPTORS;

/// The descriptors.
#[derive(Debug, Default)]
pub(super) struct Reserve(Vec<File>);

impl Reserve {
    /// Takes what is missing, as far as there is some.
    pub(super) fn refill(&mut self) {
        while self.0.len() < SPARE {
            match File::open("/dev/null") {
                Ok(file) => self.0.push(file),
                Err(_) => return,
            }
        }
        debug_assert!(self.is_full());
    }

    /// Closes all of them.
    pub(super) fn give_up(&mut self) {
        self.0.clear();
    }

    /// Whether none is missing.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() == SPARE
    }
}
