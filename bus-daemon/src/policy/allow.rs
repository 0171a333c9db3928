//! `[[allow]]`: who may do what on which topics.

use std::fmt;

use bus_core::control::{Role, Trust};
use bus_core::{Pattern, TopicName};
use toml::de::DeValue;

use super::reader::{Reader, Table, closest, shown};
use super::users::Who;

/// What somebody may do on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Write a ring of its own.
    Publish,
    /// Read what is published.
    Subscribe,
    /// Look at a topic's figures without taking part.
    Observe,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Publish, Self::Subscribe, Self::Observe];

    const NAMES: [&str; 3] = ["publish", "subscribe", "observe"];

    fn from_name(name: &str) -> Option<Self> {
        let at = Self::NAMES.iter().position(|known| *known == name)?;
        Some(Self::ALL[at])
    }
}

impl From<Role> for Right {
    fn from(role: Role) -> Self {
        match role {
            Role::Publisher => Self::Publish,
            Role::Subscriber => Self::Subscribe,
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[*self as usize])
    }
}

/// A rule that allows something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// The line at which it starts, from 1.
    pub line: usize,
    /// Which topics it is about.
    pub topics: Vec<Pattern>,
    /// Who it is for.
    pub who: Who,
    /// What it allows.
    pub may: Vec<Right>,
    /// How subscribers of other users read the publishers that it allows.
    pub trust: Trust,
    /// Whether the subscribers that it allows may hold up publishers of other users, where a topic loses nothing.
    pub stall: bool,
}

impl AllowRule {
    const KEYS: [&str; 6] = [
        "topics",
        Who::KEYS[0],
        Who::KEYS[1],
        "may",
        "trust",
        "stall",
    ];

    pub(super) fn read_all(reader: &mut Reader<'_>, file: &Table<'_, '_>) -> Vec<Self> {
        let tables = reader.tables(file, "allow", "[[allow]]", &Self::KEYS);
        tables.iter().map(|t| Self::read(reader, t)).collect()
    }

    fn read(reader: &mut Reader<'_>, table: &Table<'_, '_>) -> Self {
        let mut good = true;
        let may = reader.list(table, "may", |reader, value| {
            let right = match value.get_ref() {
                DeValue::String(name) => Right::from_name(name),
                _ => None,
            };
            if right.is_none() {
                let mut what = format!("{} is nothing that can be allowed", shown(value.get_ref()));
                if let DeValue::String(name) = value.get_ref()
                    && let Some(known) = closest(name, &Right::NAMES)
                {
                    what.push_str(&format!("; did you mean \"{known}\"?"));
                }
                what.push_str("; allowed here: \"publish\", \"subscribe\", \"observe\"");
                reader.wrong(value.span().start, what);
                good = false;
            }
            right
        });
        if may.is_none() {
            reader.missing(
                table,
                "`may`: say what it allows, such as may = [\"publish\", \"subscribe\"]",
            );
        }
        let trust = reader.value(table, "trust", "\"copy\" or \"in-place\"", |value| {
            [Trust::Copy, Trust::InPlace]
                .into_iter()
                .find(|trust| matches!(value, DeValue::String(text) if *text == trust.to_string()))
        });
        let stall = reader.value(table, "stall", "true or false", |value| match value {
            DeValue::Boolean(stall) => Some(*stall),
            _ => None,
        });
        let rule = Self {
            line: reader.line(table.at),
            topics: patterns(reader, table),
            who: Who::read(reader, table),
            may: may.unwrap_or_default(),
            trust: trust.unwrap_or(Trust::Copy),
            stall: stall.unwrap_or(false),
        };
        // Said of nobody, it would be taken for something that it does not do.
        let lacks = |right| good && !rule.may.is_empty() && !rule.may.contains(&right);
        for (key, right) in [("trust", Right::Publish), ("stall", Right::Subscribe)] {
            if let Some(value) = table.get(key)
                && lacks(right)
            {
                let what = format!(
                    "`{key}` is about who may {right}, and this rule allows nobody to; move it to a rule whose `may` has \"{right}\""
                );
                reader.wrong(value.span().start, what);
            }
        }
        rule
    }

    /// Whether it is about this topic.
    pub fn matches(&self, topic: &TopicName) -> bool {
        self.topics.iter().any(|pattern| pattern.matches(topic))
    }
}

/// Reads `topics`, which every rule must have.
pub(super) fn patterns(reader: &mut Reader<'_>, table: &Table<'_, '_>) -> Vec<Pattern> {
    let patterns = reader.list(table, "topics", |reader, value| {
        let at = value.span().start;
        let DeValue::String(pattern) = value.get_ref() else {
            let what = format!(
                "{} is no pattern of topics; write it as \"market/*\"",
                shown(value.get_ref())
            );
            reader.wrong(at, what);
            return None;
        };
        match Pattern::new(pattern.as_ref()) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                reader.wrong(at, error.to_string());
                None
            }
        }
    });
    if patterns.is_none() {
        reader.missing(
            table,
            "`topics`: say which, such as topics = [\"market/**\"], or [\"**\"] for all",
        );
    }
    patterns.unwrap_or_default()
}
