//! `cost`: what a message costs each side besides time, after warm-up; and what joining costs.
//!
//! Keys, for `floor` and for `bus`, and for each `SIDE` of `publisher` and `subscriber`:
//! `bus.SIDE.syscalls_per_msg`, `.context_switches_per_msg`, `.allocations_per_msg`,
//! `.page_faults_per_msg`, and `.resident_kib` at the end. For bus also those of
//! `joins`.

use crate::clock::Tick;
use crate::coalesced::Coalescing;
use crate::content::Content;
use crate::harness;
use crate::job::{Job, Role, Work, depth};
use crate::report::Report;
use crate::subject::Subject;
use anyhow::Result;

/// Messages while system calls are counted: each call costs two stops.
const TRACED_MESSAGES: u64 = 20_000;

/// Processes that join at the same time.
const TOGETHER: usize = 4;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 40, value_parser = clap::value_parser!(u32).range(..=1 << 26))]
    pub payload: u32,
    /// Messages that are counted, except for system calls
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub messages: u64,
    /// Topics of the second run of joins; the first has one
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(2..=2_000))]
    pub topics: u16,
    /// Subscribers that join in each run, at least; each topic gets one
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub joins: u32,
}

/// Measures.
///
/// # Errors
/// A side failed, or tracing is not allowed.
pub fn run(options: &Options, subject: Option<Subject>) -> Result<Report> {
    let payload = options.payload as usize;
    let mut report = Report::default();
    report.count("payload", u64::from(options.payload));
    let tick = Tick::measure()?;
    for (key, subject) in [("floor", Subject::Stamped)]
        .into_iter()
        .chain(subject.map(|subject| (subject.key(), subject)))
    {
        let job = Job {
            subject,
            work: Work::Stream,
            payload,
            content: Content::default(),
            depth: depth(payload),
            batch: 1,
            coalescing: Coalescing::default(),
            publishers: 1,
            subscribers: 1,
            warm_up: 2 * depth(payload) as u64,
            messages: options.messages,
            stretch: None,
            pauses: 1,
            spin_us: None,
            lossy: false,
            still: 0,
            untouched: false,
            idle: 0,
            tick,
            traced: Vec::new(),
        };
        per_message(&job, key, &mut report)?;
        if subject == Subject::Bus {
            for topics in [1, usize::from(options.topics)] {
                let job = Job {
                    work: Work::Join { topics },
                    messages: u64::from(options.joins),
                    ..job.clone()
                };
                super::joins::measure(&job, topics, key, &mut report)?;
            }
            for processes in [1, TOGETHER] {
                let job = Job {
                    work: Work::Join { topics: 1 },
                    subscribers: processes,
                    // The first one is open before the clock starts.
                    messages: u64::from(options.joins) + 1,
                    ..job.clone()
                };
                super::joins::measure_together(&job, key, &mut report)?;
            }
        }
    }
    report.note(
        "Per message and side, after warm-up. The floor is the minimal ring of stamped slots. System calls are \
         counted with ptrace in a run of their own.",
    );
    report.note(
        "Joins: one process opens a publisher on each topic, then subscribers, one after the other. KiB \
         per topic are those of its publisher, KiB per subscriber are those on top; both of the process that joins. The \
         broker's are per topic with both. Segments are what is allocated to a topic with both, touched or not. \
         Descriptors and threads are those of the process that joins, with a publisher and a subscriber on each topic. \
         Processes that join at the same time do so as fast as they can, each on a topic of its own.",
    );
    Ok(report)
}

fn per_message(job: &Job, key: &str, report: &mut Report) -> Result<()> {
    let outcomes = harness::run(job)?.outcomes;
    for (role, outcome) in job.roles().into_iter().zip(&outcomes) {
        let side = match role {
            Role::Publisher(_) => "publisher",
            _ => "subscriber",
        };
        let messages = job.messages as f64;
        let switches = outcome.usage.voluntary_switches + outcome.usage.involuntary_switches;
        report.number(
            format!("{key}.{side}.context_switches_per_msg"),
            switches as f64 / messages,
        );
        report.number(
            format!("{key}.{side}.page_faults_per_msg"),
            outcome.usage.minor_faults as f64 / messages,
        );
        report.number(
            format!("{key}.{side}.allocations_per_msg"),
            outcome.allocations as f64 / messages,
        );
        report.count(format!("{key}.{side}.resident_kib"), outcome.resident_kib);
        let traced = Job {
            traced: vec![role],
            messages: TRACED_MESSAGES.min(job.messages),
            ..job.clone()
        };
        for calls in harness::run(&traced)?.calls {
            report.number(
                format!("{key}.{side}.syscalls_per_msg"),
                calls.total() as f64 / traced.messages as f64,
            );
        }
    }
    Ok(())
}
