//! What the bytes of a message are. It decides how far they can be compressed.
//!
//! The same content of the same length is the same bytes in every process.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The byte that fills a message of one pattern.
const PATTERN: u8 = 0x5a;

/// What messages are filled with, behind their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Content {
    /// One byte, over and over.
    #[default]
    #[value(skip)]
    Pattern,
    /// Lines of JSON: the same names with other figures.
    Telemetry,
    /// Quotes as binary structs: some bytes move, some do not.
    Quotes,
    /// Noise.
    Random,
}

impl Content {
    /// The name in front of its figures.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Pattern => "pattern",
            Self::Telemetry => "telemetry",
            Self::Quotes => "quotes",
            Self::Random => "random",
        }
    }

    /// `len` bytes of it.
    ///
    /// ```
    /// use bus_bench::content::Content;
    /// let bytes = Content::Telemetry.bytes(100);
    /// assert_eq!(bytes.len(), 100);
    /// assert_eq!(bytes, Content::Telemetry.bytes(100));
    /// ```
    #[must_use]
    pub fn bytes(self, len: usize) -> Vec<u8> {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mut bytes = Vec::with_capacity(len + 256);
        while bytes.len() < len {
            match self {
                Self::Pattern => bytes.resize(len, PATTERN),
                Self::Telemetry => line(&mut bytes, &mut dice),
                Self::Quotes => quote(&mut bytes, &mut dice),
                Self::Random => bytes.extend_from_slice(&dice.roll().to_le_bytes()),
            }
        }
        bytes.truncate(len);
        bytes
    }
}

/// One reading of one of 24 sensors.
fn line(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let mut text = String::new();
    let time = 1_795_000_000_000 + bytes.len() as u64 * 7;
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{{\"time\":{time},\"sensor\":\"pump-{:02}\",\"temperature\":{}.{:02},\"pressure\":{}.{:03},\"rpm\":{},\"state\":\"{}\"}}",
        dice.below(24),
        18 + dice.below(9),
        dice.below(100),
        dice.below(3),
        dice.below(1000),
        1400 + dice.below(200),
        if dice.below(50) == 0 {
            "warning"
        } else {
            "running"
        },
    );
    bytes.extend_from_slice(text.as_bytes());
}

/// 40 bytes: time, symbol, venue, bid, ask, sizes, in little-endian words as they lie in memory.
fn quote(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let time = 1_795_000_000_000_000_000 + bytes.len() as u64 * 1_009 + dice.below(900);
    let symbol = dice.below(500);
    let bid = 10_000_000_000 + symbol * 1_250_000 + dice.below(64) * 2_500;
    bytes.extend_from_slice(&time.to_le_bytes());
    bytes.extend_from_slice(&(symbol as u32).to_le_bytes());
    bytes.extend_from_slice(&(dice.below(4) as u32).to_le_bytes());
    bytes.extend_from_slice(&bid.to_le_bytes());
    bytes.extend_from_slice(&(bid + 2_500 * (1 + dice.below(3))).to_le_bytes());
    bytes.extend_from_slice(&(100 * (1 + dice.below(20)) as u32).to_le_bytes());
    bytes.extend_from_slice(&(100 * (1 + dice.below(20)) as u32).to_le_bytes());
}

/// A generator of numbers that is the same in every process (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.roll() >> 16) % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compressed::Codec;

    #[test]
    fn the_kinds_are_as_compressible_as_they_say() {
        let ratio = |content: Content| {
            let bytes = content.bytes(1 << 16);
            let mut packed = vec![0; Codec::room(bytes.len())];
            Codec::default().pack(&bytes, &mut packed) as f64 / bytes.len() as f64
        };
        assert!(ratio(Content::Pattern) < 0.02);
        assert!((0.15..0.45).contains(&ratio(Content::Telemetry)));
        assert!((0.45..0.75).contains(&ratio(Content::Quotes)));
        assert!((1.0..1.01).contains(&ratio(Content::Random)));
    }
}
