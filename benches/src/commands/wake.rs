//! `wake`: the round trip with both sides asleep, against a bare futex; then a message
//! every 5, 50 and 500 us: its round trip and what the answering side pays for it.

use super::fit_bounce;
use crate::brackets::{Plan, interleave};
use crate::clock::Tick;
use crate::harness;
use crate::job::{Job, Role};
use crate::report::Report;
use crate::subject::Subject;
use crate::trips::Trips;
use anyhow::Result;
use std::time::Duration;

/// From one message to the next, in microseconds.
const INTERVALS_US: [u64; 3] = [5, 50, 500];
/// The spin budget of a side that sleeps as soon as it finds nothing.
const AT_ONCE: Option<u64> = Some(0);
/// Round trips while system calls are counted.
const TRACED_TRIPS: u64 = 500;
/// From one of them to the next: long enough for a traced side to have fallen asleep.
const TRACED_INTERVAL_US: u64 = 1_000;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes of a message; the futex of the floor always carries 8
    #[arg(long, value_name = "BYTES", default_value_t = 8, value_parser = clap::value_parser!(u32).range(..=1 << 26))]
    pub payload: u32,
    /// Rounds wanted with a steady floor; others are repeated, up to three tries for each
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// About how long to measure
    #[arg(long, default_value_t = 10.0, value_parser = super::super::cli::seconds)]
    pub seconds: f64,
    /// Spin budgets to try beside the default one, in microseconds, as in 0,5,10,20,50,100; each
    /// takes a quarter of the time on top
    #[arg(long, value_name = "US", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub spins: Vec<u32>,
}

/// Measures.
///
/// # Errors
/// A side failed.
pub fn run(options: &Options, subject: Option<Subject>) -> Result<Report> {
    let tick = Tick::measure()?;
    let rounds = usize::from(options.rounds);
    let subjects: Vec<(&str, Subject)> = [("floor", Subject::Futex)]
        .into_iter()
        .chain(subject.map(|subject| (subject.key(), subject)))
        .collect();
    // Half of the time for the rounds, half for the intervals.
    let round_ns = options.seconds * 0.5e9 / (rounds * subjects.len() + 1) as f64;
    let interval_ns = options.seconds * 0.5e9 / (INTERVALS_US.len() * subjects.len()) as f64;
    let payload = options.payload as usize;
    let job = |subject| -> Result<Job> {
        let mut job = Job {
            spin_us: AT_ONCE,
            ..Job::bounce(subject, payload, tick, u64::MAX, 0)
        };
        fit_bounce(&mut job, round_ns)?;
        Ok(job)
    };
    let floor = job(Subject::Futex)?;
    let measured = subject.map(job).transpose()?;
    let limit = Duration::from_secs_f64(options.seconds * 2.0);
    let plan = Plan {
        rounds,
        siblings_below: 0.0,
        limit,
    };
    let comparison = interleave(&floor, measured.as_ref(), &plan)?;

    let mut report = Report::default();
    report.count("payload", u64::from(options.payload));
    comparison.report(subject.map(Subject::key), &mut report)?;
    for (key, subject) in &subjects {
        let job = Job {
            spin_us: AT_ONCE,
            ..Job::bounce(*subject, payload, tick, TRACED_TRIPS, TRACED_INTERVAL_US)
        };
        count_calls(&job, key, &mut report)?;
    }
    let paced = |subject, interval_us: u64| {
        let messages = (interval_ns / (interval_us as f64 * 1000.0)) as u64;
        Job::bounce(subject, payload, tick, messages.max(50), interval_us)
    };
    for interval_us in INTERVALS_US {
        for (key, subject) in &subjects {
            let job = paced(*subject, interval_us);
            pace(&job, &format!("{key}.every_{interval_us}us"), &mut report)?;
        }
    }
    if let Some(subject) = subject {
        for spin_us in &options.spins {
            for interval_us in INTERVALS_US {
                let job = Job {
                    spin_us: Some(u64::from(*spin_us)),
                    ..paced(subject, interval_us)
                };
                let key = format!("{}.spin_{spin_us}us.every_{interval_us}us", subject.key());
                pace(&job, &key, &mut report)?;
            }
        }
    }
    report.note(
        "Round trips in ns. The floor is a bare futex: one wake and one wait for each message, no spin. \
         Bus does not spin either, but in the figures with an interval: there it spins as it does by default, or \
         as the key says. \
         `cpu` is the share of a processor that the answering side used. Sleep calls are \
         those of the answering side, wake calls those of the other, with a message every millisecond. A sleep is \
         announced before the last look, which may find a message: then there is a wake and no sleep call.",
    );
    Ok(report)
}

/// How often the answering side sleeps, and how often it is called to wake.
fn count_calls(job: &Job, key: &str, report: &mut Report) -> Result<()> {
    let job = Job {
        traced: vec![Role::Ping, Role::Pong],
        ..job.clone()
    };
    if let [ping, pong] = harness::run(&job)?.calls.as_slice() {
        let (wakes, sleeps) = (ping.wakes(), pong.sleeps());
        report.count(format!("{key}.sleep_calls"), sleeps);
        report.count(format!("{key}.wake_calls"), wakes);
        report.number(
            format!("{key}.wake_calls_per_sleep"),
            wakes as f64 / sleeps.max(1) as f64,
        );
        if pong.fences() > 0 {
            report.number(
                format!("{key}.wake_calls_per_announced_sleep"),
                wakes as f64 / pong.fences() as f64,
            );
        }
    }
    Ok(())
}

fn pace(job: &Job, key: &str, report: &mut Report) -> Result<()> {
    let results = harness::run(job)?;
    let mut trips = Trips::new(job.tick)?;
    let mut cpu = 0.0;
    for (role, outcome) in job.roles().into_iter().zip(&results.outcomes) {
        for (picoseconds, count) in &outcome.trips {
            trips.add(*picoseconds, *count)?;
        }
        if role == Role::Pong {
            cpu = outcome.cpu_ns as f64 / outcome.wall_ns().max(1) as f64;
        }
    }
    report.percentiles(key, &trips);
    report.number(format!("{key}.cpu"), cpu);
    Ok(())
}
