//! The figures of a run: flat dotted keys, as JSON or as a table.

use crate::trips::Trips;
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use std::io::{Write, stdout};

/// Figures in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Report {
    figures: Vec<(String, Value)>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a figure, kept to four significant digits after the point.
    pub fn number(&mut self, key: impl Into<String>, value: f64) {
        let rounded = (value * 10_000.0).round() / 10_000.0;
        self.figures.push((key.into(), Value::from(rounded)));
    }

    /// Adds a count.
    pub fn count(&mut self, key: impl Into<String>, value: u64) {
        self.figures.push((key.into(), Value::from(value)));
    }

    /// Adds a word.
    pub fn word(&mut self, key: impl Into<String>, value: &str) {
        self.figures.push((key.into(), Value::from(value)));
    }

    /// Adds a sentence for the reader of the table. JSON leaves it out.
    pub fn note(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }

    /// Adds the percentiles of `trips` under `key`, in nanoseconds.
    pub fn percentiles(&mut self, key: &str, trips: &Trips) {
        self.number(format!("{key}.p50_ns"), trips.p50_ns());
        self.number(format!("{key}.p99_ns"), trips.quantile_ns(0.99));
        self.number(format!("{key}.p999_ns"), trips.quantile_ns(0.999));
    }

    /// The figure named `key`, if it is there and a number.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<f64> {
        self.figures
            .iter()
            .find(|(name, _)| name == key)?
            .1
            .as_f64()
    }

    /// Writes the report to standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn print(&self, json: bool) -> Result<()> {
        let text = if json { self.json()? } else { self.table() };
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("writing the figures to standard output failed")
    }

    fn json(&self) -> Result<String> {
        let map: Map<String, Value> = self.figures.iter().cloned().collect();
        Ok(serde_json::to_string_pretty(&map)? + "\n")
    }

    fn table(&self) -> String {
        let width = self
            .figures
            .iter()
            .map(|(key, _)| key.len())
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        for (key, value) in &self.figures {
            let value = match value {
                Value::String(word) => word.clone(),
                value => value.as_f64().map_or_else(|| value.to_string(), grouped),
            };
            text += &format!("{key:<width$}  {value:>20}\n");
        }
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        text
    }
}

/// A number with its thousands apart.
fn grouped(value: f64) -> String {
    let text = if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    };
    let digits = text.find('.').unwrap_or(text.len());
    let mut grouped = String::new();
    for (at, digit) in text.char_indices() {
        if at > 0 && at < digits && (digits - at).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// The middle of `values`; 0 if there are none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len(), sorted.get(middle)) {
        (_, None) => 0.0,
        (len, Some(upper)) if len % 2 == 1 => *upper,
        (_, Some(upper)) => (sorted[middle - 1] + upper) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(grouped(-123_456.0), "-123,456");
        assert_eq!(grouped(12.5), "12.500");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn json_is_flat() {
        let mut report = Report::default();
        report.number("floor.p50_ns", 250.123_456);
        report.word("class", "cores");
        let value: Value = serde_json::from_str(&report.json().expect("json")).expect("json");
        assert_eq!(value["floor.p50_ns"], 250.1235);
        assert_eq!(value["class"], "cores");
    }
}
