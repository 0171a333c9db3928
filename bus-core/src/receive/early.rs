//! Messages released before older ones: a bit for each slot, private to the subscriber.
//!
//! Promises: no allocation but once, at the first early release. At most `depth` consecutive sequences are marked at a
//! time, so a slot's number names its sequence.

use std::cell::{Cell, OnceCell};

/// The set of messages released early.
#[derive(Debug)]
pub(super) struct Early {
    depth: u64,
    count: Cell<u64>,
    bits: OnceCell<Box<[Cell<u64>]>>,
}

impl Early {
    /// None yet, in a ring of `depth` slots.
    pub(super) fn new(depth: u64) -> Self {
        Self {
            depth,
            count: Cell::new(0),
            bits: OnceCell::new(),
        }
    }

    /// How many are marked.
    #[inline(always)]
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    fn word(&self, sequence: u64) -> (&Cell<u64>, u64) {
        let words = || vec![Cell::new(0); self.depth.div_ceil(64) as usize].into();
        let slot = sequence & (self.depth - 1);
        let word = &self.bits.get_or_init(words)[(slot / 64) as usize];
        (word, 1 << (slot % 64))
    }

    /// Marks the messages from `first` up to but not including `end`, none of which was marked.
    pub(super) fn mark_range(&self, first: u64, end: u64) {
        let mut sequence = first;
        while sequence != end {
            let (word, bit) = self.word(sequence);
            debug_assert!(word.get() & bit == 0, "a slot is released once");
            word.set(word.get() | bit);
            self.count.set(self.count.get() + 1);
            sequence = sequence.wrapping_add(1);
        }
    }

    /// Unmarks those that follow each other from `first` on; the first that was not marked.
    pub(super) fn take_from(&self, first: u64) -> u64 {
        let mut sequence = first;
        while self.take(sequence) {
            sequence = sequence.wrapping_add(1);
        }
        sequence
    }

    /// Unmarks a message; whether it was marked.
    fn take(&self, sequence: u64) -> bool {
        let (word, bit) = self.word(sequence);
        let marked = self.count.get() > 0 && word.get() & bit != 0;
        if marked {
            word.set(word.get() & !bit);
            self.count.set(self.count.get() - 1);
        }
        marked
    }
}
