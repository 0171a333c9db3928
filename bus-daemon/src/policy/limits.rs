//! `[limits]`: how much of the broker one user may take.

use std::fmt;
use std::ops::Index;

use crate::limits::{MAX_HANDLES, MAX_SESSIONS, MAX_TOPICS};

use super::reader::{Reader, Table, number, size};
use super::users::read_users;

/// Something of which a user has only so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quota {
    /// Connections to the broker: one for each `Bus` of each process.
    Connections,
    /// Publishers that have a topic open.
    Publishers,
    /// Subscribers that have a topic open, and watches.
    Subscriptions,
    /// Topics that are there because of the user.
    Topics,
    /// Segments of shared memory that the broker holds for the user.
    Segments,
    /// Bytes of those segments.
    Bytes,
    /// Descriptors that the broker holds for the user.
    Descriptors,
    /// Publishers, subscribers and watches that ask to be taken in, each second; as many may come at once.
    Registrations,
}

impl Quota {
    /// How many there are.
    pub const COUNT: usize = 8;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Connections,
        Self::Publishers,
        Self::Subscriptions,
        Self::Topics,
        Self::Segments,
        Self::Bytes,
        Self::Descriptors,
        Self::Registrations,
    ];

    const NAMES: [&str; Self::COUNT] = [
        "connections",
        "publishers",
        "subscriptions",
        "topics",
        "segments",
        "bytes",
        "descriptors",
        "registrations",
    ];

    /// As the policy writes it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of each a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits([u64; Quota::COUNT]);

impl Limits {
    /// What a user may have where the policy says nothing: enough for a large program, and little enough for seven others.
    pub const DEFAULT: Self = Self([512, 512, 512, 256, 1024, 4 << 30, 4096, 500]);

    /// What the broker's own user may have where the policy does not name it: all that the broker has.
    pub const OWN: Self = Self([
        MAX_SESSIONS as u64,
        MAX_HANDLES as u64,
        MAX_HANDLES as u64,
        MAX_TOPICS as u64,
        1 << 20,
        1 << 50,
        1 << 20,
        1 << 20,
    ]);

    /// These, but for what a table says; and at which lines it does.
    fn read(self, reader: &mut Reader<'_>, table: &Table<'_, '_>) -> (Self, Lines) {
        let (mut limits, mut lines) = (self, Lines::default());
        for quota in Quota::ALL {
            let read = match quota {
                Quota::Bytes => reader.value(
                    table,
                    quota.name(),
                    "a number of bytes, such as 1048576 or \"1G\"",
                    size,
                ),
                Quota::Registrations => reader.value(
                    table,
                    quota.name(),
                    "a number from 1 a second on",
                    |value| number(value).filter(|rate| *rate > 0),
                ),
                _ => reader.value(table, quota.name(), "a number from 0 on", number),
            };
            if let Some(limit) = read {
                limits.0[quota as usize] = limit;
                let at = table
                    .get(quota.name())
                    .map_or(0, |value| value.span().start);
                lines[quota as usize] = Some(reader.line(at));
            }
        }
        (limits, lines)
    }
}

/// The line at which each limit is set, where it is.
type Lines = [Option<usize>; Quota::COUNT];

impl Index<Quota> for Limits {
    type Output = u64;

    fn index(&self, quota: Quota) -> &u64 {
        &self.0[quota as usize]
    }
}

/// Limits of some users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserLimits {
    /// The line at which it starts, from 1.
    pub line: usize,
    /// Whom it is about.
    pub users: Vec<u32>,
    /// What each of them may have.
    pub limits: Limits,
    lines: Lines,
}

/// All limits of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllLimits {
    /// Of every user that is not named, but the broker's own.
    pub default: Limits,
    /// Of those who are named; the first that matches decides.
    pub users: Vec<UserLimits>,
    lines: Lines,
}

impl Default for AllLimits {
    fn default() -> Self {
        Self {
            default: Limits::DEFAULT,
            users: Vec::new(),
            lines: Lines::default(),
        }
    }
}

impl AllLimits {
    pub(super) fn read(reader: &mut Reader<'_>, file: &Table<'_, '_>) -> Self {
        let Some(table) = file.get("limits") else {
            return Self::default();
        };
        let at = table.span().start;
        let toml::de::DeValue::Table(entries) = table.get_ref() else {
            reader.wrong(at, "`limits` is a table: write [limits] above it");
            return Self::default();
        };
        let mut keys: Vec<&str> = Quota::NAMES.to_vec();
        keys.push("user");
        let table = reader.table("[limits]", at, entries, &keys);
        let (default, lines) = Limits::DEFAULT.read(reader, &table);
        let mut keys = vec!["users"];
        keys.extend(Quota::NAMES);
        let tables = reader.tables(&table, "user", "[[limits.user]]", &keys);
        let mut users = Vec::new();
        for table in &tables {
            let named = read_users(reader, table);
            if named.is_none() {
                reader.missing(table, "`users`: name whom it is about");
            }
            let (limits, lines) = default.read(reader, table);
            users.push(UserLimits {
                line: reader.line(table.at),
                users: named.unwrap_or_default(),
                limits,
                lines,
            });
        }
        Self {
            users,
            default,
            lines,
        }
    }

    /// The rule that decides the limits of a user, if one names it.
    pub fn rule(&self, uid: u32) -> Option<&UserLimits> {
        self.users.iter().find(|rule| rule.users.contains(&uid))
    }

    /// The line that decides a limit of a user which is not the broker's own; none where the broker has it built in.
    pub fn line(&self, uid: u32, quota: Quota) -> Option<usize> {
        let named = self.rule(uid).and_then(|rule| rule.lines[quota as usize]);
        named.or(self.lines[quota as usize])
    }
}
