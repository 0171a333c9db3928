//! Settings of a topic: what an opener asks for, and what the topic then has.
//!
//! The broker's policy decides, then the first publisher. An opener that asks for something else is refused;
//! what it leaves open it takes as it is.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use crate::memory::layout::{FIRST_CURSORS, MAX_PUBLISHERS, PAGE_CURSORS};
use crate::schema::Schema;
use crate::{Delivery, Error, Overrun, Result};

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
/// Bytes of an arena for each message that a ring keeps, where the longest payload is only a default.
const TYPICAL_PAYLOAD: u64 = 256;
/// Bytes of an arena up to which all messages that a ring keeps may have the longest payload, where that is
/// only a default.
const AMPLE_ARENA: u64 = 2 << 20;
/// Publishers at a time, when the setting is left open: as many as take no further cursor page.
const DEFAULT_PUBLISHERS: u32 = FIRST_CURSORS as u32;
/// Most rings of ended publishers that the broker keeps of a topic.
const MAX_RETAIN: u32 = 60;
/// Messages kept for a subscriber that joins, when the setting is left open.
const DEFAULT_KEEP: u32 = 1;
/// Bytes of arena of a topic whose payloads all fit a slot, but whose slots may be held.
const SPARE_BYTES: u64 = 128 << 10;
/// Most messages that a subscriber may hold where it protects them one by one.
pub(crate) const MAX_HELD: u32 = 1024;
/// Messages that a subscriber protects with one store, at most.
const MAX_WINDOW: u32 = 16;

/// What an opener asks for. `None` leaves the choice to the topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Settings {
    /// Slots in each publisher's ring: a power of two, 2 to 16,777,216.
    pub depth: Option<u32>,
    /// Bytes of a slot: a multiple of 64, 64 to 65,536. Up to `stride - 16` bytes of payload lie in it.
    pub stride: Option<u32>,
    /// Longest payload in bytes, up to 1 GiB.
    pub max_payload: Option<u64>,
    /// Messages kept for subscribers that join: 1 to `depth - 1`, and to seven eighths of the depth where publishers may go past subscribers.
    pub keep: Option<u32>,
    /// Bytes of a ring's arena, where payloads lie that are longer than a slot.
    pub arena: Option<u64>,
    /// What to do about a subscriber that does not keep up.
    pub delivery: Option<Delivery>,
    /// Messages of one publisher that a subscriber may hold at a time: 1 to the depth. Where publishers may go past subscribers, 1 to
    /// 1,024, and those of its window besides, 1 to 16.
    pub held: Option<u32>,
    /// Rings of ended publishers that the broker keeps for subscribers to come: 0 to 60.
    pub retain: Option<u32>,
    /// Publishers at a time: 1 to 1,024; 60 where it is left open.
    pub publishers: Option<u32>,
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
    /// Bytes of a ring's arena, a multiple of 64; 0 where every payload fits a slot and no slot is ever passed over.
    pub arena: u64,
    /// What to do about a subscriber that does not keep up.
    pub delivery: Delivery,
    /// Messages of one publisher that a subscriber may hold at a time.
    pub held: u32,
    /// Rings of ended publishers that the broker keeps for subscribers to come.
    pub retain: u32,
    /// Publishers at a time.
    pub publishers: u32,
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

/// Messages between two steps of a floor: see `docs/protocol.md`, *Going past a subscriber*.
fn step(depth: u32) -> u32 {
    (depth / 8).max(1)
}

/// Messages that a subscriber protects with one store, where payloads fit a slot or do not.
///
/// Small ones are more, so that little memory is passed over for a subscriber that stands still.
fn window(depth: u32, fits: bool) -> u32 {
    if fits {
        (depth / 16).clamp(1, MAX_WINDOW)
    } else {
        1
    }
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
        let delivery = self.delivery.unwrap_or_default();
        let fits = max_payload <= u64::from(stride).saturating_sub(SLOT_HEADER);
        let held = self.held.unwrap_or(match (delivery.overruns(), fits) {
            (false, _) => depth,
            (true, true) => 16,
            (true, false) => 4,
        });
        // Two subscribers may protect as many messages that publishers go past: those that they hold, and their windows.
        let protected = if delivery.overruns() {
            2 * (u64::from(held) + u64::from(window(depth, fits)))
        } else {
            0
        };
        TopicSettings {
            depth,
            stride,
            max_payload,
            keep,
            arena: self.arena.unwrap_or_else(|| {
                // What a joiner may need, one message in flight, and the gap where the ring of bytes wraps; and some more, so
                // that a burst fits, and two subscribers may hold all that they are allowed to.
                let longest = max_payload.min(MAX_PAYLOAD).next_multiple_of(64);
                let messages = u64::from(keep) + 2 + protected;
                match (fits, delivery.overruns()) {
                    (true, false) => 0,
                    (true, true) => SPARE_BYTES.max((protected + 4) * longest),
                    (false, _) => {
                        let all = longest.saturating_mul(messages);
                        let needed = if self.max_payload.is_some() || schema.fixed {
                            all
                        } else {
                            // Nobody said that messages are as long: see `TopicSettings::keeps_longest`.
                            let few = longest * (3 + protected);
                            let typical = u64::from(keep) * TYPICAL_PAYLOAD;
                            all.min(few.max(typical).max(AMPLE_ARENA))
                        };
                        needed.max(DEFAULT_SLOT_BYTES)
                    }
                }
            }),
            delivery,
            held,
            retain: self.retain.unwrap_or(0),
            publishers: self.publishers.unwrap_or(DEFAULT_PUBLISHERS),
        }
        .check()
    }

    /// What of these settings a topic contradicts, as `(setting, asked, has)`.
    pub fn conflict(&self, topic: &TopicSettings) -> Option<(&'static str, String, String)> {
        fn differ<T: PartialEq + fmt::Display>(
            name: &'static str,
            asked: Option<T>,
            has: T,
        ) -> Option<(&'static str, String, String)> {
            let asked = asked.filter(|asked| *asked != has)?;
            Some((name, asked.to_string(), has.to_string()))
        }
        differ("depth", self.depth, topic.depth)
            .or_else(|| differ("stride", self.stride, topic.stride))
            .or_else(|| differ("max_payload", self.max_payload, topic.max_payload))
            .or_else(|| differ("keep", self.keep, topic.keep))
            .or_else(|| differ("arena", self.arena, topic.arena))
            .or_else(|| differ("delivery", self.delivery, topic.delivery))
            .or_else(|| differ("held", self.held, topic.held))
            .or_else(|| differ("retain", self.retain, topic.retain))
            .or_else(|| differ("publishers", self.publishers, topic.publishers))
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
            delivery,
            held,
            retain,
            publishers,
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
        let overruns = delivery.overruns();
        limit(
            (1..depth).contains(&keep) && (!overruns || keep <= depth - step(depth)),
            "keep",
            keep.into(),
            "1 to depth - 1 messages, and to seven eighths of the depth on a lossy or evicting topic",
        )?;
        let longest = max_payload.next_multiple_of(64);
        let least = match (max_payload <= self.inline(), overruns) {
            (true, false) => Some(0),
            (true, true) => Some(longest),
            (false, _) => longest.checked_mul(2 + u64::from(overruns)),
        };
        limit(
            arena.is_multiple_of(64)
                && arena <= 1 << 37
                && least.is_some_and(|least| arena >= least),
            "arena",
            arena,
            "a multiple of 64 that holds 2 of the longest payloads, or 3 on a lossy or evicting topic, up to 128 GiB",
        )?;
        if let Delivery::Evict { after_us } = delivery {
            limit(
                (1..=3_600_000_000).contains(&after_us),
                "delivery (evict after)",
                after_us,
                "1 microsecond to an hour",
            )?;
        }
        let most = if overruns { MAX_HELD } else { depth };
        limit(
            (1..=most).contains(&held),
            "held",
            held.into(),
            "1 to depth messages, and to 1024 on a lossy or evicting topic",
        )?;
        limit(
            retain <= MAX_RETAIN,
            "retain",
            retain.into(),
            "0 to 60 rings",
        )?;
        limit(
            (1..=MAX_PUBLISHERS as u32).contains(&publishers),
            "publishers",
            publishers.into(),
            "1 to 1024",
        )?;
        Ok(self)
    }

    /// Whether the messages that a ring keeps always leave room for the next one, whatever their lengths.
    /// Where they do not, sending ends with [`Error::Kept`] once they take the whole arena.
    pub fn keeps_longest(&self) -> bool {
        let beside = 1 + u64::from(self.delivery.overruns());
        self.max_payload <= self.inline() || self.arena >= self.longest(beside)
    }

    /// Whether the arena has no room to spare for the gaps between messages of any lengths.
    pub fn tight_arena(&self) -> bool {
        let overruns = self.delivery.overruns();
        self.keeps_longest() && self.arena < self.longest(2) && !overruns
    }

    /// Bytes of as many of the longest payloads as are kept, and of some beside them.
    fn longest(&self, beside: u64) -> u64 {
        let longest = self.max_payload.next_multiple_of(64);
        longest.saturating_mul(u64::from(self.keep).saturating_add(beside))
    }

    /// Rings that a topic with these settings can have at a time: one more than the highest ring index.
    ///
    /// It is the number of cursors in a reader segment: 60 where up to 60 publishers are admitted, else as many more as
    /// fill pages of 64 that give each publisher a cursor. Rings of ended publishers that are still read or retained
    /// have the cursors that live publishers do not need.
    pub fn rings(&self) -> u16 {
        let further = (self.publishers as usize).saturating_sub(FIRST_CURSORS);
        // Within what a ring index can say by the limit of the setting.
        (FIRST_CURSORS + further.next_multiple_of(PAGE_CURSORS)) as u16
    }

    /// Bytes of payload that lie in the slot itself.
    pub fn inline(&self) -> u64 {
        u64::from(self.stride) - SLOT_HEADER
    }

    /// How publishers go past subscribers, if they may.
    pub fn overrun(&self) -> Option<Overrun> {
        let window = window(self.depth, self.max_payload <= self.inline());
        self.delivery.overruns().then_some(Overrun {
            step: step(self.depth).into(),
            window: window.into(),
            pins: self.held as usize,
            evicts: self.delivery != Delivery::Lossy,
        })
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
            (
                Settings {
                    depth: Some(8),
                    keep: Some(7 + 1),
                    ..Settings::default()
                },
                "keep",
            ),
            (
                Settings {
                    arena: Some(64),
                    ..Settings::default()
                },
                "arena",
            ),
            (
                Settings {
                    delivery: Some(Delivery::Evict { after_us: 0 }),
                    ..Settings::default()
                },
                "evict",
            ),
            (
                Settings {
                    held: Some(0),
                    ..Settings::default()
                },
                "held",
            ),
            (
                Settings {
                    retain: Some(61),
                    ..Settings::default()
                },
                "retain",
            ),
            (
                Settings {
                    publishers: Some(0),
                    ..Settings::default()
                },
                "publishers",
            ),
            (
                Settings {
                    publishers: Some(1025),
                    ..Settings::default()
                },
                "1 to 1024",
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
        let differs = Some(("depth", "16".into(), "8192".into()));
        assert_eq!(asked.conflict(&topic), differs);
        let asked = Settings {
            delivery: Some(Delivery::Lossy),
            ..Settings::default()
        };
        let differs = Some(("delivery", "lossy".into(), "wait".into()));
        assert_eq!(asked.conflict(&topic), differs);
        assert_eq!(Settings::default().conflict(&topic), None);
    }
}
