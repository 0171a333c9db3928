//! What the demo found, for people and for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::links::Kind;
use super::machine::Machine;
use super::meter::Measured;

/// The figures of one link.
pub struct Figures {
    pub kind: Kind,
    pub paced: Measured,
    pub flat_out: Measured,
}

/// All figures, and what they mean.
pub struct Report {
    machine: Machine,
    seconds: u32,
    pace: u64,
    figures: Vec<Figures>,
}

/// The live line of a run.
pub fn live(kind: Kind, rate: u64, measured: &Measured) -> String {
    let how = if rate == 0 { "flat out" } else { "paced" };
    format!(
        "{}, {how}: {} msg/s, p50 {}, p99 {}, p99.9 {}",
        name(kind),
        count(measured.msgs_per_s),
        time(measured.p50_ns),
        time(measured.p99_ns),
        time(measured.p999_ns)
    )
}

impl Report {
    /// A report of this machine.
    pub fn new(seconds: u32, pace: u64, figures: Vec<Figures>) -> Self {
        Self {
            machine: Machine::this(),
            seconds,
            pace,
            figures,
        }
    }

    /// Prints it. That nobody reads it is no error.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = if json {
            format!("{:#}\n", self.json())
        } else {
            self.text()
        };
        match io::stdout().write_all(text.as_bytes()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.context("cannot write to standard output"),
        }
    }

    fn json(&self) -> Value {
        let mut root = Map::new();
        root.insert("machine".into(), json!(self.machine));
        root.insert("seconds".into(), json!(self.seconds));
        root.insert("pace_msgs_per_s".into(), json!(self.pace));
        for one in &self.figures {
            let key = name(one.kind).replace(' ', "_").to_lowercase();
            let figures = json!({ "paced": one.paced, "flat_out": one.flat_out });
            root.insert(key, figures);
        }
        root.insert("notes".into(), json!(self.notes()));
        Value::Object(root)
    }

    fn text(&self) -> String {
        let mut text = format!(
            "source -> stage -> sink, end to end\n\n{:14}{:^34}{:^32}\n{:14}{:>10}{:>12}{:>12}{:>18}{:>14}\n",
            "",
            format!("paced, {} msg/s", count(self.pace as f64)),
            "flat out",
            "",
            "p50",
            "p99",
            "p99.9",
            "msg/s",
            "p50 queued"
        );
        for Figures {
            kind,
            paced,
            flat_out,
        } in &self.figures
        {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:14}{:>10}{:>12}{:>12}{:>18}{:>14}",
                name(*kind),
                time(paced.p50_ns),
                time(paced.p99_ns),
                time(paced.p999_ns),
                count(flat_out.msgs_per_s),
                time(flat_out.p50_ns)
            );
        }
        for note in self.notes() {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }

    /// What the figures say, and what they do not.
    fn notes(&self) -> Vec<String> {
        let Machine {
            cpus,
            processor,
            kernel,
        } = &self.machine;
        let mut notes = Vec::new();
        notes.extend(self.comparison());
        notes.push(
            "Compared: the same three processes, message types and work; over sockets (SOCK_SEQPACKET) and pipes the same rkyv bytes, \
             one message a write, validated and read in place. Everything arrived, in order: the sink checks each message. Latency is \
             from when a message was due to when the sink has it: two hops and the stage's work."
                .into(),
        );
        notes.push(
            "Flat out, every queue is full and latency is the time spent queueing, which grows with the queue: read the rate there, \
             and the latency where paced."
                .into(),
        );
        for Figures { kind, paced, .. } in &self.figures {
            if paced.msgs_per_s < 0.95 * self.pace as f64 {
                notes.push(format!(
                    "{} did not keep the pace: {} msg/s, so its paced latency is queueing too.",
                    name(*kind),
                    count(paced.msgs_per_s)
                ));
            }
        }
        let few = if *cpus < 3 {
            " Three processes share fewer processors than they are, so these figures contain the scheduler: a message \
             waits whenever the process that it is for does not run. The source keeps a processor busy where it is paced."
        } else {
            ""
        };
        notes.push(format!(
            "Machine: {cpus} CPUs ({processor}), Linux {kernel}.{few} Other load shows; run it again to see how much it varies."
        ));
        notes
    }

    fn comparison(&self) -> Option<String> {
        let (bus, others) = self.figures.split_first()?;
        let latency = others.iter().min_by_key(|one| one.paced.p50_ns)?;
        let rate = others
            .iter()
            .max_by(|a, b| a.flat_out.msgs_per_s.total_cmp(&b.flat_out.msgs_per_s))?;
        let shorter = latency.paced.p50_ns as f64 / bus.paced.p50_ns.max(1) as f64;
        let more = bus.flat_out.msgs_per_s / rate.flat_out.msgs_per_s.max(1.0);
        Some(format!(
            "Against the better of the two: paced, the median latency over {} is {shorter:.1} times that over the bus; flat out, the bus carries \
             {more:.1} times the messages of {}.",
            name(latency.kind).to_lowercase(),
            name(rate.kind).to_lowercase()
        ))
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bus => "bus",
        Kind::Sockets => "Unix sockets",
        Kind::Pipes => "pipes",
    }
}

/// A time with three digits.
fn time(ns: u64) -> String {
    let ns = ns as f64;
    let (value, unit) = match ns {
        ..1e3 => return format!("{ns} ns"),
        ..1e6 => (ns / 1e3, "us"),
        ..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    match value {
        ..10.0 => format!("{value:.2} {unit}"),
        ..100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// A number with its thousands apart.
fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut apart = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(count(1_234_567.4), "1,234,567");
        assert_eq!(count(999.0), "999");
        assert_eq!(time(999), "999 ns");
        assert_eq!(time(1_234), "1.23 us");
        assert_eq!(time(123_456_789), "123 ms");
    }
}
