//! Settings of a topic: what an opener asks for, and what the topic then has.
//!
//! Whoever names a topic first decides. A later opener that asks for something else is refused;
//! what it leaves open it takes as it is.

use rkyv::{Archive, Deserialize, Serialize};

use crate::schema::Schema;
use crate::{Error, Result};

/// Largest payload of any topic, in bytes.
pub const MAX_PAYLOAD: u64 = 1 << 30;
/// Bytes of slots that a ring gets when its depth is left open.
const DEFAULT_SLOT_BYTES: u64 = 512 << 10;
/// Largest payload when a type has no fixed size and the setting is left open, in bytes.
const DEFAULT_MAX_PAYLOAD: u64 = 64 << 10;
/// Slots are not chosen longer than this by themselves; longer payloads go to the arena.
const MAX_CHOSEN_STRIDE: u64 = 1024;
/// Bytes of a slot ahead of its payload.
pub const SLOT_HEADER: u64 = 16;
/// Messages kept for a subscriber that joins, when the setting is left open.
const DEFAULT_KEEP: u32 = 1;

/// What an opener asks for. `None` leaves the choice to the topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Settings {
    /// Slots in each publisher's ring: a power of two, 2 to 16,777,216.
    pub depth: Option<u32>,
    /// Bytes of a slot: a multiple of 64, 64 to 65,536. Up to `stride - 16` bytes of payload lie in it.
    pub stride: Option<u32>,
    /// Longest payload in bytes, up to 1 GiB.
    pub max_payload: Option<u64>,
    /// Messages kept for subscribers that join: 1 to `depth - 1`.
    pub keep: Option<u32>,
}

/// What a topic has: every setting decided and within its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TopicSettings {
    /// Slots in each publisher's ring, a power of two.
    pub depth: u32,
    /// Bytes of a slot, a multiple of 64.
    pub stride: u32,
    /// Longest payload in bytes.
    pub max_payload: u64,
    /// Messages kept for subscribers that join.
    pub keep: u32,
    /// Bytes of a ring's arena, a multiple of 64; 0 where every payload fits a slot.
    pub arena: u64,
}

fn limit(ok: bool, setting: &'static str, value: u64, allowed: &'static str) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::Setting {
        setting,
        value,
        allowed,
    })
}

impl Settings {
    /// Decides what is left open from the message type, and checks the whole.
    ///
    /// # Errors
    /// [`Error::Setting`] names the setting and its limits.
    ///
    /// ```
    /// use bus_core::{Settings, schema::Schema};
    /// let topic = Settings::default().decide(&Schema::bytes())?;
    /// assert_eq!((topic.stride, topic.max_payload), (64, 65_536));
    /// # Ok::<(), bus_core::Error>(())
    /// ```
    pub fn decide(&self, schema: &Schema) -> Result<TopicSettings> {
        let root = u64::from(schema.size);
        let max_payload = self.max_payload.unwrap_or(if schema.fixed {
            root
        } else {
            DEFAULT_MAX_PAYLOAD
        });
        limit(
            max_payload <= MAX_PAYLOAD,
            "max_payload",
            max_payload,
            "up to 1073741824 bytes (1 GiB)",
        )?;
        let stride = self.stride.unwrap_or_else(|| {
            let wanted = root.min(max_payload).saturating_add(SLOT_HEADER);
            wanted.next_multiple_of(64).min(MAX_CHOSEN_STRIDE) as u32
        });
        let depth = self.depth.unwrap_or_else(|| {
            let slots = DEFAULT_SLOT_BYTES / u64::from(stride.max(64));
            (slots.max(2) as u32 + 1).next_power_of_two() / 2
        });
        let keep = self.keep.unwrap_or(DEFAULT_KEEP);
        TopicSettings {
            depth,
            stride,
            max_payload,
            keep,
            arena: self.arena(stride, max_payload, keep),
        }
        .check()
    }

    /// The arena holds what a joiner may need, one message in flight, and the gap where the ring
    /// of bytes wraps; and some more, so that a burst fits.
    fn arena(&self, stride: u32, max_payload: u64, keep: u32) -> u64 {
        if max_payload <= u64::from(stride).saturating_sub(SLOT_HEADER) {
            return 0;
        }
        let longest = max_payload.min(MAX_PAYLOAD).next_multiple_of(64);
        let least = longest.saturating_mul(u64::from(keep) + 2);
        least.max(DEFAULT_SLOT_BYTES)
    }

    /// What of these settings a topic contradicts, as `(setting, asked, has)`.
    pub fn conflict(&self, topic: &TopicSettings) -> Option<(&'static str, u64, u64)> {
        let asked = [
            ("depth", self.depth.map(u64::from), u64::from(topic.depth)),
            (
                "stride",
                self.stride.map(u64::from),
                u64::from(topic.stride),
            ),
            ("max_payload", self.max_payload, topic.max_payload),
            ("keep", self.keep.map(u64::from), u64::from(topic.keep)),
        ];
        asked
            .into_iter()
            .find_map(|(name, asked, has)| asked.filter(|a| *a != has).map(|a| (name, a, has)))
    }
}

impl TopicSettings {
    /// Checks every limit. What came from a peer passes here before it is used.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first setting outside its limits.
    pub fn check(self) -> Result<Self> {
        let Self {
            depth,
            stride,
            max_payload,
            keep,
            arena,
        } = self;
        limit(
            depth.is_power_of_two() && (2..=1 << 24).contains(&depth),
            "depth",
            depth.into(),
            "a power of two from 2 to 16777216",
        )?;
        limit(
            stride.is_multiple_of(64) && (64..=65_536).contains(&stride),
            "stride",
            stride.into(),
            "a multiple of 64 from 64 to 65536",
        )?;
        limit(
            max_payload <= MAX_PAYLOAD,
            "max_payload",
            max_payload,
            "up to 1073741824 bytes (1 GiB)",
        )?;
        limit(
            (1..depth).contains(&keep),
            "keep",
            keep.into(),
            "1 to depth - 1 messages",
        )?;
        let longest = max_payload.next_multiple_of(64);
        let enough = max_payload <= self.inline()
            || longest
                .checked_mul(u64::from(keep) + 2)
                .is_some_and(|least| arena >= least);
        limit(
            arena.is_multiple_of(64) && arena <= 1 << 37 && enough,
            "arena",
            arena,
            "a multiple of 64 that holds keep + 2 of the longest payloads, up to 128 GiB",
        )?;
        Ok(self)
    }

    /// Bytes of payload that lie in the slot itself.
    pub fn inline(&self) -> u64 {
        u64::from(self.stride) - SLOT_HEADER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_own_limits() {
        let topic = Settings::default().decide(&Schema::bytes()).unwrap();
        assert_eq!(topic.depth, 8192);
        assert_eq!(topic.keep, 1);
        assert!(topic.arena >= 3 * 65_536);
    }

    #[test]
    fn every_setting_outside_its_limits_is_named() {
        let bad = [
            (
                Settings {
                    depth: Some(3),
                    ..Settings::default()
                },
                "depth",
            ),
            (
                Settings {
                    depth: Some(0),
                    ..Settings::default()
                },
                "depth",
            ),
            (
                Settings {
                    stride: Some(65),
                    ..Settings::default()
                },
                "stride",
            ),
            (
                Settings {
                    stride: Some(0),
                    ..Settings::default()
                },
                "stride",
            ),
            (
                Settings {
                    max_payload: Some(u64::MAX),
                    ..Settings::default()
                },
                "max_payload",
            ),
            (
                Settings {
                    keep: Some(0),
                    ..Settings::default()
                },
                "keep",
            ),
            (
                Settings {
                    depth: Some(2),
                    keep: Some(2),
                    ..Settings::default()
                },
                "keep",
            ),
        ];
        for (settings, name) in bad {
            let error = settings.decide(&Schema::bytes()).unwrap_err().to_string();
            assert!(error.contains(name), "{settings:?}: {error}");
        }
    }

    #[test]
    fn a_conflict_names_both_sides() {
        let topic = Settings::default().decide(&Schema::bytes()).unwrap();
        let asked = Settings {
            depth: Some(16),
            ..Settings::default()
        };
        assert_eq!(asked.conflict(&topic), Some(("depth", 16, 8192)));
        assert_eq!(Settings::default().conflict(&topic), None);
    }
}
