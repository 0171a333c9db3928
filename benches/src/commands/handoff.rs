//! `handoff`: what a long message costs more than a short one where both are built and read in place.
//!
//! Keys: `short.p50_ns`, `long.p50_ns`, round trips, each the median of the blocks; `ratio`, the median of those of the pairs of
//! blocks, with `ratio.p10` and `ratio.p90`. The same behind `untouched.`, where nobody touches a payload.

use crate::clock::Tick;
use crate::handoff::{BLOCK, SHORT};
use crate::harness;
use crate::job::{Job, POLL, Work};
use crate::report::{Report, median};
use crate::subject::Subject;
use anyhow::Result;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes of a long message; a short one has 8
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(16..=1 << 30))]
    pub payload: u32,
    /// Messages that a ring holds, a power of two
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1 << 16))]
    pub depth: u32,
    /// Long messages that the memory of a ring holds at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=1024))]
    pub arena: u16,
    /// Pairs of blocks, of 500 round trips each
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub pairs: u32,
}

/// Measures.
///
/// # Errors
/// A side failed.
pub fn run(options: &Options) -> Result<Report> {
    let job = Job {
        work: Work::HandOver,
        payload: options.payload as usize,
        depth: options.depth as usize,
        batch: usize::from(options.arena),
        spin_us: POLL,
        warm_up: 10,
        messages: u64::from(options.pairs),
        ..Job::bounce(Subject::Bus, 0, Tick::measure()?, 1, 0)
    };
    let mut report = Report::default();
    report.count("short.bytes", SHORT as u64);
    report.count("long.bytes", u64::from(options.payload));
    report.count("long.arena", u64::from(options.arena));
    measure(&job, "", &mut report)?;
    let untouched = Job {
        untouched: true,
        ..job
    };
    measure(&untouched, "untouched.", &mut report)?;
    report.note(format!(
        "Round trips in ns, both sides polling. Each message is built in place (`loan`) and read in place; both sides touch its first \
         and its last word only, and none of it where it is `untouched`. Blocks of {BLOCK} short and {BLOCK} long ones take turns; a ratio is that of two \
         neighbouring blocks."
    ));
    Ok(report)
}

/// Runs a job and reports it, each key behind `prefix`.
fn measure(job: &Job, prefix: &str, report: &mut Report) -> Result<()> {
    let outcomes = harness::run(job)?.outcomes;
    let pairs = outcomes.into_iter().flat_map(|outcome| outcome.pairs);
    let pairs: Vec<[f64; 2]> = pairs.filter(|[short, _]| *short > 0.0).collect();
    let of = |which: usize| -> Vec<f64> { pairs.iter().map(|pair| pair[which]).collect() };
    let mut ratios: Vec<f64> = pairs.iter().map(|[short, long]| long / short).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let at = (ratios.len() as f64 * part) as usize;
        ratios.get(at).copied().unwrap_or(0.0)
    };
    report.count(format!("{prefix}pairs"), pairs.len() as u64);
    report.number(format!("{prefix}short.p50_ns"), median(&of(0)));
    report.number(format!("{prefix}long.p50_ns"), median(&of(1)));
    report.number(format!("{prefix}ratio"), median(&ratios));
    report.number(format!("{prefix}ratio.p10"), at(0.1));
    report.number(format!("{prefix}ratio.p90"), at(0.9));
    Ok(())
}
