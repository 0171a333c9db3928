//! What becomes of a message that a subscriber has no room for: the one setting that tells kinds of topics apart.

use std::fmt;
use std::time::Duration;

use rkyv::{Archive, Deserialize, Serialize};

/// What a topic does about a subscriber that does not keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Delivery {
    /// Nothing is lost: publishers wait for it.
    #[default]
    Wait,
    /// Nothing is lost: publishers are told at once that the topic is full.
    Fail,
    /// Publishers wait for it as long as it makes progress; without any for `after_us`, it is evicted and the others go on.
    Evict {
        /// Microseconds without progress, 1 to 3,600,000,000 (an hour).
        after_us: u64,
    },
    /// Latest wins: publishers never wait. A subscriber that falls behind loses the oldest messages, and is told how many.
    Lossy,
}

impl Delivery {
    /// [`Delivery::Evict`], after `time` without progress; at least a microsecond.
    ///
    /// ```
    /// use std::time::Duration;
    /// use bus_core::Delivery;
    /// let delivery = Delivery::evict_after(Duration::from_millis(5));
    /// assert_eq!(delivery, Delivery::Evict { after_us: 5_000 });
    /// ```
    pub fn evict_after(time: Duration) -> Self {
        let after_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        Self::Evict { after_us }
    }

    /// Reads `wait`, `fail`, `lossy`, or `evict:` with a time in `us`, `ms` or `s`, as the command line and the policy write it. None
    /// where it is something else.
    ///
    /// ```
    /// use bus_core::Delivery;
    /// assert_eq!(Delivery::parse("evict:50ms"), Some(Delivery::Evict { after_us: 50_000 }));
    /// assert_eq!(Delivery::parse("evict"), None);
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "wait" => Some(Self::Wait),
            "fail" => Some(Self::Fail),
            "lossy" => Some(Self::Lossy),
            _ => {
                let time = parse_time(text.strip_prefix("evict:")?)?;
                Some(Self::evict_after(time))
            }
        }
    }

    /// Whether publishers may go past a subscriber, which therefore protects what it reads.
    pub fn overruns(self) -> bool {
        matches!(self, Self::Evict { .. } | Self::Lossy)
    }
}

fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number = number.parse().ok().filter(|number| *number > 0)?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait => f.write_str("wait"),
            Self::Fail => f.write_str("fail"),
            Self::Evict { after_us } => write!(f, "evict after {after_us} us"),
            Self::Lossy => f.write_str("lossy"),
        }
    }
}

/// How publishers go past subscribers, on a topic where they may: see `docs/protocol.md`, *Going past a subscriber*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// Messages between two steps of the floor.
    pub step: u64,
    /// Messages that a subscriber protects with its cursor, at most 64.
    pub window: u64,
    /// Messages that it protects with a word each, beside those.
    pub pins: usize,
    /// Whether publishers wait for it until it is evicted; they never wait on a lossy topic.
    pub evicts: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_read_and_nothing_else() {
        assert_eq!(Delivery::parse("lossy"), Some(Delivery::Lossy));
        let two_seconds = Delivery::evict_after(Duration::from_secs(2));
        assert_eq!(Delivery::parse("evict:2s"), Some(two_seconds));
        for bad in [
            "",
            "evict",
            "evict:",
            "evict:50",
            "evict:0ms",
            "evict:-1s",
            "evict:9x",
            "Lossy",
        ] {
            assert_eq!(Delivery::parse(bad), None, "{bad}");
        }
    }
}
