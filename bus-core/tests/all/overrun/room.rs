//! A naive map of an arena: what is in use, byte for byte in units, and whether a span fits what is left.

use std::ops::Range;

const UNIT: u64 = 64;

/// Which units are in use.
pub struct Map {
    units: Vec<bool>,
}

impl Map {
    pub fn new(bytes: u64) -> Self {
        Self {
            units: vec![false; (bytes / UNIT) as usize],
        }
    }

    /// Marks these units.
    pub fn take(&mut self, span: &Range<u64>) {
        self.units[(span.start / UNIT) as usize..(span.end / UNIT) as usize].fill(true);
    }

    /// Marks the units from `start` on to `end`, over the end of the arena if need be; all of them where the two are the same.
    pub fn take_round(&mut self, start: u64, end: u64) {
        let count = self.units.len() as u64;
        let (mut at, end) = (start / UNIT % count, end / UNIT % count);
        loop {
            self.units[at as usize] = true;
            at = (at + 1) % count;
            if at == end {
                return;
            }
        }
    }

    /// Whether a span of `len` bytes fits somewhere.
    pub fn fits(&self, len: u64) -> bool {
        let wanted = len.max(1).div_ceil(UNIT) as usize;
        let runs = self.units.split(|taken| *taken);
        runs.map(<[bool]>::len).max().unwrap_or(0) >= wanted
    }
}
