//! The floor of large payloads: one processor copies the payload from a private
//! buffer into one as large as the ring, slot after slot.

use std::hint::black_box;

/// Copies a payload again and again into a buffer of `slots` times its size.
#[derive(Debug)]
pub struct Copier {
    from: Vec<u8>,
    to: Vec<u8>,
    at: usize,
}

impl Copier {
    /// `payload` must not be 0.
    #[must_use]
    pub fn new(payload: usize, slots: usize) -> Self {
        Self {
            from: vec![1; payload],
            to: vec![2; payload * slots.max(1)],
            at: 0,
        }
    }

    /// Copies one payload.
    #[inline]
    pub fn copy(&mut self) {
        let end = self.at + self.from.len();
        self.to[self.at..end].copy_from_slice(black_box(&self.from));
        black_box(&self.to[self.at]);
        self.at = if end == self.to.len() { 0 } else { end };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_written_once_a_lap() {
        let mut copier = Copier::new(16, 3);
        for _ in 0..2 {
            copier.copy();
        }
        assert_eq!(copier.to[..32], [1; 32]);
        assert_eq!(copier.to[32..], [2; 16]);
        copier.copy();
        assert_eq!(copier.to, [1; 48]);
        assert_eq!(copier.at, 0);
    }
}
