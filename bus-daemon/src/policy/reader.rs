//! Reading tables: each value with its place, every mistake noted, none of them the end of it.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems};

/// A value with its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A word is suggested for one that differs from it in one of so many letters, at most.
const LETTERS: usize = 3;

/// The text that is read, and what is wrong with it so far.
pub(super) struct Reader<'t> {
    file: &'t Path,
    text: &'t str,
    problems: Vec<Problem>,
}

/// A table of the text.
pub(super) struct Table<'t, 'i> {
    /// How the file writes it, such as `[[allow]]`.
    name: &'static str,
    /// The byte at which it starts.
    pub(super) at: usize,
    entries: &'t DeTable<'i>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        Self {
            file,
            text,
            problems: Vec::new(),
        }
    }

    /// Notes what is wrong at a byte of the text.
    pub(super) fn wrong(&mut self, at: usize, what: impl Into<String>) {
        let problem = Problem::at(self.file, self.text, at, what.into());
        self.problems.push(problem);
    }

    pub(super) fn line(&self, at: usize) -> usize {
        super::problem::place(self.text, at).0
    }

    /// What was read, if nothing is wrong with any of it.
    pub(super) fn finish<T>(self, read: T) -> Result<T, Problems> {
        if self.problems.is_empty() {
            Ok(read)
        } else {
            Err(Problems::new(self.problems))
        }
    }

    /// A table in which no other keys are allowed than these.
    pub(super) fn table<'v, 'i>(
        &mut self,
        name: &'static str,
        at: usize,
        entries: &'v DeTable<'i>,
        allowed: &[&str],
    ) -> Table<'v, 'i> {
        for key in entries.keys() {
            let unknown = key.get_ref().as_ref();
            if allowed.contains(&unknown) {
                continue;
            }
            let suggestion = match closest(unknown, allowed) {
                Some(known) => format!("; did you mean `{known}`?"),
                None => String::new(),
            };
            let what = format!(
                "unknown key `{unknown}` in {name}{suggestion}; allowed here: {}",
                allowed.join(", ")
            );
            self.wrong(key.span().start, what);
        }
        Table { name, at, entries }
    }

    /// The tables of a list of tables.
    pub(super) fn tables<'v, 'i>(
        &mut self,
        of: &Table<'v, 'i>,
        key: &str,
        name: &'static str,
        allowed: &[&str],
    ) -> Vec<Table<'v, 'i>> {
        let Some(value) = of.get(key) else {
            return Vec::new();
        };
        let DeValue::Array(list) = value.get_ref() else {
            let what = format!("`{key}` is a list of tables: write {name} above each");
            self.wrong(value.span().start, what);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for one in list.iter() {
            match one.get_ref() {
                DeValue::Table(entries) => {
                    tables.push(self.table(name, one.span().start, entries, allowed));
                }
                _ => self.wrong(
                    one.span().start,
                    format!("`{key}` is a list of tables: write {name} above each"),
                ),
            }
        }
        tables
    }

    /// A list, each entry of which `read` takes or calls wrong. A single entry may stand without its brackets.
    pub(super) fn list<T>(
        &mut self,
        of: &Table<'_, '_>,
        key: &str,
        mut read: impl FnMut(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = of.get(key)?;
        let entries = match value.get_ref() {
            DeValue::Array(entries) => entries.as_ref(),
            _ => std::slice::from_ref(value),
        };
        if entries.is_empty() {
            let what = format!("`{key}` is empty: leave it out, or name at least one");
            self.wrong(value.span().start, what);
        }
        let read = entries.iter().filter_map(|entry| read(self, entry));
        Some(read.collect())
    }

    /// One value, which `read` takes or says what is allowed.
    pub(super) fn value<T>(
        &mut self,
        of: &Table<'_, '_>,
        key: &str,
        allowed: &str,
        read: impl FnOnce(&DeValue<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = of.get(key)?;
        let taken = read(value.get_ref());
        if taken.is_none() {
            let what = format!(
                "`{key}` is {}; it must be {allowed}",
                shown(value.get_ref())
            );
            self.wrong(value.span().start, what);
        }
        taken
    }

    /// Notes that a key is missing.
    pub(super) fn missing(&mut self, of: &Table<'_, '_>, what: &str) {
        self.wrong(of.at, format!("{} has no {what}", of.name));
    }
}

impl<'t, 'i> Table<'t, 'i> {
    pub(super) fn get(&self, key: &str) -> Option<&'t Value<'i>> {
        self.entries.get(key)
    }
}

/// A number that is not negative.
pub(super) fn number(value: &DeValue<'_>) -> Option<u64> {
    match value {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

/// A number of bytes, or a text such as "64K".
pub(super) fn size(value: &DeValue<'_>) -> Option<u64> {
    match value {
        DeValue::String(text) => bus_core::parse_size(text),
        other => number(other),
    }
}

/// A value as a message shows it, cut where it is long.
pub(super) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let short: String = text.chars().take(40).collect();
            format!("{short:?}")
        }
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// The allowed word that somebody most likely meant.
pub(super) fn closest<'a>(word: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let alike = allowed
        .iter()
        .map(|known| (edits(word, known), *known))
        .filter(|(edits, known)| edits * LETTERS <= known.len());
    Some(alike.min_by_key(|(edits, _)| *edits)?.1)
}

/// How many letters have to be inserted, left out, or replaced to make one word of the other.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (above, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for (place, other) in to.chars().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[row.len() - 1]
}
