//! Messages that tell whether they are right: who sent them, their number, a length that follows from both, and a
//! checksum of it all.
//!
//! ```text
//! +0 checksum u64 | +8 sequence u64 | +16 tag u32 | +20 note u32 | +24 body, 0 to 200 bytes; each 97th or so: 1 to 5 KiB
//! ```
//! With a stride of 256 the short ones lie in a slot and the long ones in the arena. A padded message has words behind it that
//! follow from it as well, and its own length at the end, so that it is as long as a test likes.

const HEAD: usize = 24;
/// Longest message, in bytes.
pub const LONGEST: usize = HEAD + 1024 + 4096;

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its number, as its publisher counts.
    pub sequence: u64,
    /// Its publisher, as the test names it.
    pub tag: u32,
    /// Whatever the test wants to say in it.
    pub note: u32,
}

impl Content {
    /// Writes the message into a buffer, which it replaces.
    pub fn write(self, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&[0; 8]);
        buffer.extend_from_slice(&self.sequence.to_le_bytes());
        buffer.extend_from_slice(&self.tag.to_le_bytes());
        buffer.extend_from_slice(&self.note.to_le_bytes());
        let mut word = self.seed();
        let end = HEAD + self.body();
        while buffer.len() + 8 <= end {
            word = mix(word);
            buffer.extend_from_slice(&word.to_le_bytes());
        }
        let rest = end - buffer.len();
        buffer.extend_from_slice(&mix(word).to_le_bytes()[..rest]);
        let sum = checksum(&buffer[8..]);
        buffer[..8].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads a message, and says what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let Some((head, _)) = bytes.split_at_checked(HEAD) else {
            return Err(format!("it has {} bytes only", bytes.len()));
        };
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let short = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let content = Self {
            sequence: long(8),
            tag: short(16),
            note: short(20),
        };
        if checksum(&bytes[8..]) != long(0) {
            return Err(format!("its checksum is wrong: {content:?}"));
        }
        let expected = HEAD + content.body();
        if bytes.len() != expected {
            return Err(format!(
                "{content:?} has {} bytes, not {expected}",
                bytes.len()
            ));
        }
        Ok(content)
    }

    /// As [`write`](Self::write), with up to `words` more words of eight bytes, and one for the length.
    pub fn write_padded(self, words: u64, buffer: &mut Vec<u8>) {
        self.write(buffer);
        let len = buffer.len() as u64;
        for word in 0..(self.seed() >> 24) % (words + 1) {
            buffer.extend_from_slice(&self.padding(word).to_le_bytes());
        }
        buffer.extend_from_slice(&len.to_le_bytes());
    }

    /// Reads what [`write_padded`](Self::write_padded) wrote, and says what is wrong with it.
    pub fn read_padded(bytes: &[u8]) -> Result<Self, String> {
        let split = bytes.split_last_chunk::<8>().and_then(|(rest, len)| {
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)
        });
        let (own, padding) =
            split.ok_or_else(|| format!("{} bytes with a wrong length at the end", bytes.len()))?;
        let content = Self::read(own)?;
        let (words, rest) = padding.as_chunks::<8>();
        let right = |(at, word): (u64, &[u8; 8])| u64::from_le_bytes(*word) == content.padding(at);
        if !rest.is_empty() || !(0..).zip(words).all(right) {
            return Err(format!("its padding is wrong: {content:?}"));
        }
        Ok(content)
    }

    fn padding(self, word: u64) -> u64 {
        self.seed().wrapping_add(word)
    }

    fn seed(self) -> u64 {
        mix(self.sequence ^ u64::from(self.tag) << 40)
    }

    fn body(self) -> usize {
        let seed = self.seed();
        let varied = (seed >> 16) as usize;
        if seed.is_multiple_of(97) {
            1024 + varied % 4097
        } else {
            varied % 201
        }
    }
}

fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ word >> 29
}

/// FNV-1a over words, then over the bytes that are left.
fn checksum(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x100_0000_01b3;
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        sum = (sum ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME);
    }
    for byte in rest {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(PRIME);
    }
    sum
}
