//! Messages that tell whether they are right: whose they are, their number, when they and the one before were sent, and a checksum of it all.
//!
//! ```text
//! +0 checksum u64 | +8 sequence u64 | +16 tag u32 | +20 len u32 | +24 began u64 | +32 before u64 | +40 body: words that follow from tag and sequence
//! ```

/// Bytes before the body.
const HEAD: usize = 40;
/// One in so many messages is as long as it likes; the others are short.
const LONG: u64 = 16;
/// Longest body of the others, in bytes.
const SHORT: u64 = 200;

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its number, as its publisher counts.
    pub sequence: u64,
    /// Its publisher, as the run numbers it.
    pub tag: u32,
    /// When its publisher began to send it, by the common [clock](super::clock).
    pub began: u64,
    /// When it began to send the one before; 0 of the first.
    pub before: u64,
}

impl Content {
    /// Writes the message into a buffer, which it replaces. It has at most `longest` bytes, but always its head.
    pub fn write(self, longest: usize, buffer: &mut Vec<u8>) {
        let seed = self.seed();
        let range = if seed.is_multiple_of(LONG) {
            longest.saturating_sub(HEAD) as u64
        } else {
            SHORT.min(longest.saturating_sub(HEAD) as u64)
        };
        let end = HEAD + ((seed >> 16) % (range + 1)) as usize;
        buffer.clear();
        buffer.extend_from_slice(&[0; 8]);
        buffer.extend_from_slice(&self.sequence.to_le_bytes());
        buffer.extend_from_slice(&self.tag.to_le_bytes());
        buffer.extend_from_slice(&(end as u32).to_le_bytes());
        buffer.extend_from_slice(&self.began.to_le_bytes());
        buffer.extend_from_slice(&self.before.to_le_bytes());
        let mut word = seed;
        while buffer.len() + 8 <= end {
            word = mix(word);
            buffer.extend_from_slice(&word.to_le_bytes());
        }
        let rest = end - buffer.len();
        buffer.extend_from_slice(&mix(word).to_le_bytes()[..rest]);
        let sum = checksum(&buffer[8..]);
        buffer[..8].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let Some((head, _)) = bytes.split_first_chunk::<HEAD>() else {
            return Err(format!("it has {} bytes only", bytes.len()));
        };
        let content = Self {
            sequence: long(head, 8),
            tag: short(head, 16),
            began: long(head, 24),
            before: long(head, 32),
        };
        if checksum(&bytes[8..]) != long(head, 0) {
            return Err(format!("its checksum is wrong: {content:?}"));
        }
        if short(head, 20) as usize != bytes.len() {
            return Err(format!("{content:?} has {} bytes", bytes.len()));
        }
        Ok(content)
    }

    fn seed(self) -> u64 {
        mix(mix(self.sequence ^ u64::from(self.tag) << 40))
    }
}

fn long(head: &[u8; HEAD], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(word)
}

fn short(head: &[u8; HEAD], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&head[at..at + 4]);
    u32::from_le_bytes(word)
}

fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ word >> 29
}

/// FNV-1a over words, then over the bytes that are left.
fn checksum(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x100_0000_01b3;
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let all = words.chain(rest.iter().map(|byte| u64::from(*byte)));
    all.fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        (sum ^ word).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_shows() {
        let mut bytes = Vec::new();
        for sequence in 0..200 {
            let content = Content {
                sequence,
                tag: 7,
                began: 5,
                before: 4,
            };
            content.write(1000, &mut bytes);
            assert!(bytes.len() <= 1000);
            assert_eq!(Content::read(&bytes), Ok(content));
            for at in 0..bytes.len() {
                bytes[at] ^= 1;
                assert!(Content::read(&bytes).is_err(), "byte {at}");
                bytes[at] ^= 1;
            }
            assert!(Content::read(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
