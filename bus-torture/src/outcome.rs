//! What came of a run: what was tried, in flat dotted keys, and every promise that did not hold.

use std::io::{Write, stdout};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::budget::Budget;

/// Violations that are kept; more are counted.
const KEPT: usize = 20;

/// The outcome of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    tried: u64,
    figures: Vec<(String, Value)>,
    violations: Vec<String>,
    violated: u64,
    notes: Vec<String>,
}

impl Outcome {
    /// So many more things were tried. A run that tried nothing has not held.
    pub fn tried(&mut self, more: u64) {
        self.tried += more;
    }

    /// Things tried so far.
    #[must_use]
    pub fn tries(&self) -> u64 {
        self.tried
    }

    /// A promise did not hold: which, where, and how to see it again.
    pub fn violation(&mut self, what: impl Into<String>) {
        self.violated += 1;
        if self.violations.len() < KEPT {
            self.violations.push(what.into());
        }
    }

    /// Promises that did not hold so far.
    #[must_use]
    pub fn violated(&self) -> u64 {
        self.violated
    }

    /// Adds a count, or adds to it.
    pub fn count(&mut self, key: impl Into<String>, more: u64) {
        let key = key.into();
        if let Some((_, value)) = self.figures.iter_mut().find(|(known, _)| *known == key) {
            *value = Value::from(value.as_u64().unwrap_or(0) + more);
        } else {
            self.figures.push((key, Value::from(more)));
        }
    }

    /// Adds a figure.
    pub fn number(&mut self, key: impl Into<String>, value: f64) {
        let rounded = (value * 1000.0).round() / 1000.0;
        self.figures.push((key.into(), Value::from(rounded)));
    }

    /// Adds a figure, or keeps the larger one of both.
    pub fn most(&mut self, key: impl Into<String>, value: f64) {
        let key = key.into();
        let known = self.figures.iter_mut().find(|(known, _)| *known == key);
        match known {
            Some((_, known)) if known.as_f64().is_some_and(|known| known >= value) => {}
            Some((_, known)) => *known = Value::from(value),
            None => self.number(key, value),
        }
    }

    /// Adds a sentence for the reader of the table. JSON leaves it out.
    pub fn note(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }

    /// Takes in what came of a part of the run: counts add up, of a figure the larger one is kept.
    pub fn absorb(&mut self, part: Self) {
        self.tried += part.tried;
        self.violated += part.violated;
        for (key, value) in part.figures {
            match value.as_u64() {
                Some(count) => self.count(key, count),
                None => self.most(key, value.as_f64().unwrap_or(0.0)),
            }
        }
        let room = KEPT - self.violations.len();
        self.violations
            .extend(part.violations.into_iter().take(room));
        self.notes.extend(part.notes);
    }

    /// Whether something was tried, and everything held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.tried > 0 && self.violated == 0
    }

    /// Writes the outcome to standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn print(&self, budget: &Budget, json: bool) -> Result<()> {
        let text = if json {
            serde_json::to_string_pretty(&self.json(budget))? + "\n"
        } else {
            self.table(budget)
        };
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("writing the outcome to standard output failed")
    }

    fn head(&self, budget: &Budget) -> [(&'static str, Value); 5] {
        [
            ("held", json!(self.held())),
            ("tried", json!(self.tried)),
            ("violated", json!(self.violated)),
            ("seed", json!(budget.seed())),
            ("seconds", json!(budget.elapsed().as_secs_f64().round())),
        ]
    }

    fn json(&self, budget: &Budget) -> Value {
        let head = self.head(budget);
        let head = head.map(|(key, value)| (key.to_owned(), value)).into_iter();
        let mut map: Map<String, Value> = head.chain(self.figures.iter().cloned()).collect();
        map.insert("violations".into(), json!(self.violations));
        Value::Object(map)
    }

    fn table(&self, budget: &Budget) -> String {
        let head = self.head(budget);
        let head = head.iter().map(|(key, value)| (*key, value));
        let figures = self.figures.iter().map(|(key, value)| (&**key, value));
        let rows: Vec<_> = head.chain(figures).collect();
        let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (key, value) in rows {
            text += &format!("{key:<width$}  {:>16}\n", value.to_string());
        }
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        for violation in &self.violations {
            text += &format!("\nVIOLATED: {violation}\n");
        }
        let more = self.violated - self.violations.len() as u64;
        if more > 0 {
            text += &format!("\nand {more} more\n");
        }
        if self.tried == 0 {
            text += "\nNothing was tried: that is a failure.\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_tried_is_a_failure_and_so_is_a_violation() {
        let mut outcome = Outcome::default();
        assert!(!outcome.held());
        outcome.tried(1);
        assert!(outcome.held());
        outcome.violation("a promise");
        assert!(!outcome.held());
    }

    #[test]
    fn parts_add_up() {
        let mut part = Outcome::default();
        part.tried(2);
        part.count("kills", 3);
        part.violation("x");
        let mut whole = part.clone();
        whole.absorb(part);
        let json = whole.json(&Budget::new(None, Some(1)));
        assert_eq!((whole.tries(), whole.violated()), (4, 2));
        assert_eq!((&json["kills"], &json["seed"]), (&json!(6), &json!(1)));
    }

    #[test]
    fn many_violations_are_counted_and_some_are_kept() {
        let mut outcome = Outcome::default();
        (0..50).for_each(|n| outcome.violation(format!("number {n}")));
        let text = outcome.table(&Budget::new(None, None));
        assert!(text.contains("and 30 more"), "{text}");
    }
}
