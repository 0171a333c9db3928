//! `select`: the round trip of two processes that both wait in a selector, asleep each time, beside ever more idle subscriptions; against
//! a bare epoll with a bare eventfd, and against the selector with one subscription.

use super::fit_bounce;
use crate::brackets::{Plan, interleave};
use crate::clock::Tick;
use crate::job::Job;
use crate::report::Report;
use crate::subject::Subject;
use anyhow::Result;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Idle subscriptions beside the one that has messages, on each side
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 16, 128], value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub idle: Vec<u32>,
    /// How long to look again before sleeping, in microseconds
    #[arg(long, value_name = "US", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub spin: u64,
    /// Rounds wanted with a steady floor; others are repeated, up to three tries for each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// About how long to measure
    #[arg(long, default_value_t = 10.0, value_parser = super::super::cli::seconds)]
    pub seconds: f64,
}

/// Measures.
///
/// # Errors
/// A side failed.
pub fn run(options: &Options) -> Result<Report> {
    let tick = Tick::measure()?;
    let rounds = usize::from(options.rounds);
    let runs = options.idle.len() + 1;
    let round_ns = options.seconds * 1e9 / (rounds * 2 * runs) as f64;
    let plan = Plan {
        rounds,
        siblings_below: 0.0,
        limit: Duration::from_secs_f64(options.seconds * 2.0 / runs as f64),
    };
    let job = |subject, idle| -> Result<Job> {
        let mut job = Job {
            spin_us: Some(options.spin),
            idle,
            ..Job::bounce(subject, 8, tick, u64::MAX, 0)
        };
        fit_bounce(&mut job, round_ns)?;
        Ok(job)
    };
    let floor = job(Subject::Epoll, 0)?;
    let mut report = Report::default();
    let mut alone = None;
    for idle in [0].into_iter().chain(options.idle.iter().copied()) {
        let measured = job(Subject::Select, idle as usize)?;
        let mut part = Report::default();
        interleave(&floor, Some(&measured), &plan)?.report(Some("select"), &mut part)?;
        let key = match idle {
            0 => "alone".to_owned(),
            idle => format!("idle_{idle}"),
        };
        for figure in [
            "floor.p50_ns",
            "select.p50_ns",
            "select.p99_ns",
            "ratio.p50",
        ] {
            if let Some(value) = part.get(figure) {
                report.number(format!("{key}.{figure}"), value);
            }
        }
        // Against the selector's own figure, each by the floor that was beside it.
        let ratio = part.get("ratio.p50");
        if let (Some(alone), Some(ratio)) = (alone, ratio) {
            report.number(format!("{key}.ratio_to_alone"), ratio / alone);
        }
        alone = alone.or(ratio);
    }
    report.note(
        "Round trips in ns, both sides asleep before each message. The floor is an epoll with one eventfd on each side: a write, a wait \
         and a read for each message. `alone` is a selector with one subscription; `idle_N` has N more that are quiet.",
    );
    Ok(report)
}
