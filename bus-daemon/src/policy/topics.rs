//! `[[topic]]`: what topics are like, whoever opens them first.

use std::fmt;

use bus_core::memory::layout;
use bus_core::schema::Schema;
use bus_core::{Delivery, Pattern, Settings, TopicName};
use toml::de::DeValue;

use super::allow::patterns;
use super::reader::{Reader, Table, number, size};

/// Deepest ring, in slots.
const MAX_DEPTH: u64 = 1 << 24;
/// Most rings of ended publishers that a topic keeps.
const MAX_RETAIN: u64 = 60;
/// Most publishers of a topic at a time.
const MAX_PUBLISHERS: u64 = layout::MAX_PUBLISHERS as u64;

/// A rule that decides settings of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRule {
    /// The line at which it starts, from 1.
    pub line: usize,
    /// Which topics it is about.
    pub topics: Vec<Pattern>,
    /// What it decides. What it leaves open is for whoever opens the topic first.
    pub settings: Settings,
}

/// A client asks for something else than the policy decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The setting.
    pub setting: &'static str,
    /// What the policy has.
    pub decided: String,
    /// What the client asks for.
    pub asked: String,
}

impl TopicRule {
    const KEYS: [&str; 10] = [
        "topics",
        "depth",
        "stride",
        "max_payload",
        "keep",
        "arena",
        "delivery",
        "held",
        "retain",
        "publishers",
    ];

    pub(super) fn read_all(reader: &mut Reader<'_>, file: &Table<'_, '_>) -> Vec<Self> {
        let tables = reader.tables(file, "topic", "[[topic]]", &Self::KEYS);
        tables.iter().map(|t| Self::read(reader, t)).collect()
    }

    fn read(reader: &mut Reader<'_>, table: &Table<'_, '_>) -> Self {
        let small = |value: u64| u32::try_from(value).ok();
        let count = |value: &DeValue<'_>| number(value).and_then(small);
        let depth = reader.value(
            table,
            "depth",
            "a power of two from 2 to 16777216",
            |value| {
                count(value)
                    .filter(|d| d.is_power_of_two() && (2..=MAX_DEPTH).contains(&(*d).into()))
            },
        );
        let stride = reader.value(
            table,
            "stride",
            "a multiple of 64 from 64 to 65536",
            |value| count(value).filter(|s| s.is_multiple_of(64) && (64..=65_536).contains(s)),
        );
        let max_payload = reader.value(
            table,
            "max_payload",
            "a number of bytes up to 1 GiB, such as 65536 or \"64K\"",
            |value| size(value).filter(|bytes| *bytes <= bus_core::MAX_PAYLOAD),
        );
        let messages = "a number of messages from 1 to 16777216";
        let some =
            |value: &DeValue<'_>| count(value).filter(|n| (1..=MAX_DEPTH).contains(&(*n).into()));
        let keep = reader.value(table, "keep", messages, some);
        let held = reader.value(table, "held", messages, some);
        let arena = reader.value(
            table,
            "arena",
            "a number of bytes that is a multiple of 64, such as \"1M\"",
            |value| size(value).filter(|bytes| bytes.is_multiple_of(64)),
        );
        let delivery = reader.value(
            table,
            "delivery",
            "\"wait\", \"fail\", \"lossy\", or \"evict:\" with a time of up to an hour as in \"evict:50ms\" (us, ms or s)",
            |value| match value {
                DeValue::String(text) => Delivery::parse(text),
                _ => None,
            },
        );
        let retain = reader.value(table, "retain", "a number of rings from 0 to 60", |value| {
            count(value).filter(|n| u64::from(*n) <= MAX_RETAIN)
        });
        let publishers = reader.value(
            table,
            "publishers",
            "a number of publishers from 1 to 1024",
            |value| count(value).filter(|n| (1..=MAX_PUBLISHERS).contains(&(*n).into())),
        );
        let settings = Settings {
            depth,
            stride,
            max_payload,
            keep,
            arena,
            delivery,
            held,
            retain,
            publishers,
        };
        if let Err(error) = possible(&settings) {
            let what = format!("no topic can have all of these settings: {error}");
            reader.wrong(table.at, what);
        }
        let decides = |key: &&str| table.get(key).is_some();
        if !Self::KEYS[1..].iter().any(decides) {
            reader.missing(table, "setting: name at least one, or leave the rule out");
        }
        Self {
            line: reader.line(table.at),
            topics: patterns(reader, table),
            settings,
        }
    }

    /// Whether it is about this topic.
    pub fn matches(&self, topic: &TopicName) -> bool {
        self.topics.iter().any(|pattern| pattern.matches(topic))
    }

    /// The settings of a new topic, from what the rule decides and what a client asks for.
    ///
    /// # Errors
    /// The first [`Conflict`] between the two.
    pub fn decide(&self, asked: &Settings) -> Result<Settings, Conflict> {
        fn one<T: PartialEq + fmt::Display>(
            setting: &'static str,
            decided: Option<T>,
            asked: Option<T>,
        ) -> Result<Option<T>, Conflict> {
            match (decided, asked) {
                (Some(decided), Some(asked)) if decided != asked => Err(Conflict {
                    setting,
                    decided: decided.to_string(),
                    asked: asked.to_string(),
                }),
                (decided, asked) => Ok(decided.or(asked)),
            }
        }
        let rule = &self.settings;
        Ok(Settings {
            depth: one("depth", rule.depth, asked.depth)?,
            stride: one("stride", rule.stride, asked.stride)?,
            max_payload: one("max_payload", rule.max_payload, asked.max_payload)?,
            keep: one("keep", rule.keep, asked.keep)?,
            arena: one("arena", rule.arena, asked.arena)?,
            delivery: one("delivery", rule.delivery, asked.delivery)?,
            held: one("held", rule.held, asked.held)?,
            retain: one("retain", rule.retain, asked.retain)?,
            publishers: one("publishers", rule.publishers, asked.publishers)?,
        })
    }
}

/// What a rule decides, as `name value`, one after the other.
pub fn list_settings(settings: &Settings) -> Vec<(&'static str, String)> {
    fn one<T: fmt::Display>(
        name: &'static str,
        value: Option<T>,
    ) -> Option<(&'static str, String)> {
        value.map(|value| (name, value.to_string()))
    }
    let all = [
        one("depth", settings.depth),
        one("stride", settings.stride),
        one("max_payload", settings.max_payload),
        one("keep", settings.keep),
        one("arena", settings.arena),
        one("delivery", settings.delivery),
        one("held", settings.held),
        one("retain", settings.retain),
        one("publishers", settings.publishers),
    ];
    all.into_iter().flatten().collect()
}

/// Whether some topic can have these settings: one whose type and other settings make it as easy as possible.
fn possible(settings: &Settings) -> bus_core::Result<()> {
    let easiest = Settings {
        depth: settings.depth.or(Some(1 << 24)),
        max_payload: settings.max_payload.or(Some(0)),
        ..settings.clone()
    };
    easiest.decide(&Schema::bytes()).map(drop)
}
