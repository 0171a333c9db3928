//! `placement`: what each setting of memory and threads does on this machine.
//!
//! Keys, each the median of the rounds: `WISH.publisher_open_us`, `.subscriber_open_us`, `.first_touch_us_per_mib`,
//! `.first_touch_faults_per_mib`, `.touch_us_per_mib`, `.copy_and_read_gb_per_s`, `.report`; for those of threads `.p50_ns`, `.p99_ns`,
//! `.p999_ns`.

use crate::clock::Tick;
use crate::harness;
use crate::job::{Job, Work};
use crate::placed::{MESSAGE, MESSAGES, Placed, Wish};
use crate::report::{Report, median};
use crate::subject::Subject;
use anyhow::{Context, Result};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds; in each, every setting has its turn
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Round trips of two threads in a round
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..))]
    pub trips: u32,
}

/// Measures.
///
/// # Errors
/// A side failed.
pub fn run(options: &Options) -> Result<Report> {
    let base = Job {
        messages: u64::from(options.trips),
        ..Job::bounce(Subject::Bus, 8, Tick::measure()?, 1, 0)
    };
    let mut found: Vec<Vec<Placed>> = vec![Vec::new(); Wish::ALL.len()];
    for _ in 0..options.rounds {
        for ((wish, _), found) in Wish::ALL.into_iter().zip(&mut found) {
            let job = Job {
                work: Work::Place { wish },
                ..base.clone()
            };
            let outcomes = harness::run(&job)?.outcomes;
            let placed = outcomes.into_iter().find_map(|outcome| outcome.placed);
            found.push(placed.context("the side has nothing to tell")?);
        }
    }
    let mut report = Report::default();
    for ((_, key), rounds) in Wish::ALL.into_iter().zip(&found) {
        let Some(first) = rounds.first() else {
            continue;
        };
        for (at, (name, _)) in first.figures.iter().enumerate() {
            let values: Vec<f64> = rounds.iter().map(|round| round.figures[at].1).collect();
            report.number(format!("{key}.{name}"), median(&values));
        }
        if let Some(text) = &first.report {
            report.word(format!("{key}.report"), text);
        }
    }
    report.note(format!(
        "Memory: one thread with both ends of a topic, {MESSAGES} messages of {} MiB. A touch writes and reads one byte in each 4 KiB; \
         a copy is sent and read whole. All of it in processor time, the kernel's included. Threads: round trips of 8 bytes with the default spin. Medians of {} rounds in turns.",
        MESSAGE >> 20,
        options.rounds
    ));
    Ok(report)
}
