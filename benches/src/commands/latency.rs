//! `latency`: the round trip of a message, both sides polling, against a bounced line.

use super::{fit_bounce, ring_depth};
use crate::brackets::{Plan, interleave};
use crate::clock::Tick;
use crate::job::{Job, POLL};
use crate::report::Report;
use crate::subject::Subject;
use anyhow::Result;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes of a message; the line of the floor always carries 8
    #[arg(long, value_name = "BYTES", default_value_t = 8, value_parser = clap::value_parser!(u32).range(..=1 << 26))]
    pub payload: u32,
    /// Messages that a ring holds, a power of two [default: as many as make 512 KiB, 8 to 8192]
    ///
    /// Two rings of up to 64 short messages stay in the first cache of a core, which shortens the trip.
    #[arg(long)]
    pub depth: Option<u32>,
    /// Bus's topics are lossy: latest wins
    #[arg(long)]
    pub lossy: bool,
    /// Rounds wanted on separate cores; others are repeated, up to three tries for each
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// About how long to measure
    #[arg(long, default_value_t = 10.0, value_parser = super::super::cli::seconds)]
    pub seconds: f64,
    /// Floors with a median below this are hyperthread siblings
    #[arg(long, value_name = "NS", default_value_t = 160.0)]
    pub siblings_below: f64,
}

/// Measures.
///
/// # Errors
/// A side failed.
pub fn run(options: &Options, subject: Option<Subject>) -> Result<Report> {
    let tick = Tick::measure()?;
    let rounds = usize::from(options.rounds);
    let steps = rounds * if subject.is_some() { 2 } else { 1 } + 1;
    let round_ns = options.seconds * 1e9 / steps as f64;
    let payload = options.payload as usize;
    let depth = ring_depth(options.depth, payload)?;
    let job = |subject| -> Result<Job> {
        let mut job = Job {
            spin_us: POLL,
            lossy: options.lossy,
            depth,
            ..Job::bounce(subject, payload, tick, u64::MAX, 0)
        };
        fit_bounce(&mut job, round_ns)?;
        Ok(job)
    };
    let floor = job(Subject::Lines)?;
    let measured = subject.map(job).transpose()?;
    let plan = Plan {
        rounds,
        siblings_below: options.siblings_below,
        limit: Duration::from_secs_f64(options.seconds * 2.0),
    };
    let comparison = interleave(&floor, measured.as_ref(), &plan)?;

    let mut report = Report::default();
    report.count("payload", u64::from(options.payload));
    report.count("depth", depth as u64);
    report.number("timer.cost_ns", tick.cost_ns());
    report.number("timer.step_ns", tick.step_picoseconds() as f64 / 1000.0);
    comparison.report(subject.map(Subject::key), &mut report)?;
    report.note(
        "Round trips in ns. The floor is a cache line bounced in each direction between processors 0 and 1. \
         The clock is read once a round trip, while the message is in the air. A ratio compares a round \
         only with the floor right before and after it; the plain keys are those of the class named.",
    );
    Ok(report)
}
