//! `stopped`: what subscribers that stand still cost the publisher of a lossy topic.
//!
//! The publisher sends bursts that one subscriber reads, with and without others that have joined and never look: what they protect is
//! passed over, again in each lap of the ring.

use super::ring_depth;
use crate::clock::Tick;
use crate::coalesced::Coalescing;
use crate::content::Content;
use crate::harness;
use crate::job::{Job, Work};
use crate::report::{Report, median};
use crate::subject::Subject;
use anyhow::Result;
use std::time::Instant;

/// Messages of a burst run.
const MESSAGES: u64 = 2_000_000;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 40, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub payload: u32,
    /// Subscribers that stand still
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub stopped: u8,
    /// Messages that a ring holds, a power of two [default: as many as make 512 KiB, 8 to 8192]
    #[arg(long)]
    pub depth: Option<u32>,
    /// Rounds, each without and with them
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// About how long to measure
    #[arg(long, default_value_t = 10.0, value_parser = super::super::cli::seconds)]
    pub seconds: f64,
}

/// Measures.
///
/// # Errors
/// A side failed, or the ring asked for is too large or no power of two.
pub fn run(options: &Options) -> Result<Report> {
    let payload = options.payload as usize;
    let depth = ring_depth(options.depth, payload)?;
    let job = |still| -> Result<Job> {
        Ok(Job {
            subject: Subject::Bus,
            work: Work::Burst,
            payload,
            content: Content::default(),
            depth,
            batch: 1,
            coalescing: Coalescing::default(),
            publishers: 1,
            subscribers: 1,
            warm_up: 2 * depth as u64,
            messages: MESSAGES.max(8 * depth as u64),
            stretch: None,
            pauses: 1,
            spin_us: None,
            lossy: true,
            still,
            untouched: false,
            idle: 0,
            tick: Tick::measure()?,
            traced: Vec::new(),
        })
    };
    let (alone, beside) = (job(0)?, job(options.stopped.into())?);
    let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let begun = Instant::now();
    for round in 0..options.rounds {
        if round > 0 && begun.elapsed().as_secs_f64() > options.seconds {
            break;
        }
        without.push(publish_ns(&alone)?);
        with.push(publish_ns(&beside)?);
        ratios.push(without[without.len() - 1] / with[with.len() - 1]);
    }
    let mut report = Report::default();
    report.count("payload", payload as u64);
    report.count("depth", depth as u64);
    report.count("stopped", u64::from(options.stopped));
    report.count("rounds", ratios.len() as u64);
    report.number("without.publish_cpu_ns", median(&without));
    report.number("with.publish_cpu_ns", median(&with));
    report.number("ratio", median(&ratios));
    report.note(
        "Processor time of the publisher for a message of a lossy topic, without and with subscribers that have joined and never look. \
         The ratio is that of the messages that it can send in the same time, median of the rounds.",
    );
    Ok(report)
}

/// Processor time of the publisher for each message.
fn publish_ns(job: &Job) -> Result<f64> {
    let outcomes = harness::run(job)?.outcomes;
    let cpu_ns = outcomes
        .first()
        .map_or(0, |publisher| publisher.burst_cpu_ns);
    Ok(cpu_ns as f64 / job.messages as f64)
}
