//! Messages that tell whether they are right: who sent them, which one it is, how long it is, and a checksum of it all.
//!
//! ```text
//! +0 checksum u64 | +8 tag u64 | +16 sequence u64 | +24 length u64 | +32 words that follow from tag and sequence
//! ```

/// Shortest message, in bytes.
pub const SHORTEST: usize = 32;

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its publisher, as the run names it.
    pub tag: u64,
    /// Its number, as its publisher counts.
    pub sequence: u64,
}

impl Content {
    /// The message, `len` bytes long, rounded up to whole words.
    #[must_use]
    pub fn bytes(self, len: usize) -> Vec<u8> {
        let words = len.max(SHORTEST).div_ceil(8);
        let mut message = vec![0, self.tag, self.sequence, words as u64 * 8];
        message.extend((4..words as u64).map(|at| self.word(at)));
        message[0] = checksum(&message[1..]);
        message.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads a message, and says what is wrong with it.
    ///
    /// # Errors
    /// It is not as it was written.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: Vec<_> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let [sum, tag, sequence, len, ..] = words[..] else {
            return Err(format!("it has {} bytes only", bytes.len()));
        };
        let content = Self { tag, sequence };
        if checksum(&words[1..]) != sum {
            return Err(format!("its checksum is wrong: {content:?}"));
        }
        if len != bytes.len() as u64 || !rest.is_empty() {
            return Err(format!("it has {} bytes, and says {len}", bytes.len()));
        }
        let body = (4..).zip(&words[4..]);
        match body
            .into_iter()
            .find(|(at, word)| content.word(*at) != **word)
        {
            Some((at, _)) => Err(format!("word {at} of {content:?} is wrong")),
            None => Ok(content),
        }
    }

    fn word(self, at: u64) -> u64 {
        mix(self.tag ^ self.sequence.rotate_left(24) ^ at.rotate_left(48))
    }
}

fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ word >> 29
}

fn checksum(words: &[u64]) -> u64 {
    words.iter().fold(0x243f_6a88_85a3_08d3, |sum, word| {
        mix(sum ^ word).rotate_left(7)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let content = Content {
            tag: 3,
            sequence: 9,
        };
        for len in [0, 32, 33, 300] {
            assert_eq!(Content::read(&content.bytes(len)), Ok(content));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let content = Content {
            tag: 1,
            sequence: 2,
        };
        let bytes = content.bytes(48);
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(Content::read(&wrong).is_err(), "bit {bit}");
        }
        assert!(Content::read(&bytes[..40]).is_err());
    }
}
