//! `compression`: payloads compressed with lz4, against bus as it is: bytes a second, round trips, and how much shorter the
//! payloads become.
//!
//! Keys: `with`, `without` and `ratio` for each; `size_ratio` is compressed to plain.

use super::throughput::fit;
use super::{fit_bounce, ring_depth, versus};
use crate::clock::Tick;
use crate::compressed::Codec;
use crate::content::Content;
use crate::job::{Job, POLL, Work};
use crate::report::Report;
use crate::subject::Subject;
use anyhow::{Result, ensure};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(64..=1 << 26))]
    pub payload: u32,
    /// What the bytes are
    #[arg(long, value_enum, default_value_t = Content::Telemetry)]
    pub content: Content,
    /// Rounds; each is bracketed by bus as it is
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// About how long to measure
    #[arg(long, default_value_t = 10.0, value_parser = super::super::cli::seconds)]
    pub seconds: f64,
}

/// Measures.
///
/// # Errors
/// A side failed, or another subject than bus was asked for.
pub fn run(options: &Options, subject: Option<Subject>) -> Result<Report> {
    ensure!(
        subject == Some(Subject::Bus),
        "compression is measured on bus only: leave out --subject"
    );
    let tick = Tick::measure()?;
    let payload = options.payload as usize;
    let rounds = usize::from(options.rounds);
    // Half of the time for each of the two parts; a round is two jobs, and there is one more at the end.
    let job_ns = options.seconds * 0.5e9 / (2 * rounds + 1) as f64;

    let mut report = Report::default();
    report.count("payload", payload as u64);
    report.word("content", options.content.key());
    report.number("size_ratio", size_ratio(options.content, payload));

    let without = versus::in_stretches(&Job {
        work: Work::Stream,
        content: options.content,
        depth: ring_depth(None, payload)?,
        ..Job::bounce(Subject::Bus, payload, tick, 1, 0)
    });
    let with = compressed(&without);
    let [without, with] = [without, with].map(|job| {
        let warm_up = 2 * job.depth as u64;
        fit(Job { warm_up, ..job }, job_ns)
    });
    versus::streams(&without?, &[("with", &with?)], rounds, &mut report)?;
    for name in ["with", "without"] {
        let messages_per_s = report.get(&format!("{name}.msgs_per_s")).unwrap_or(0.0);
        report.number(
            format!("{name}.bytes_per_s"),
            messages_per_s * payload as f64,
        );
    }

    let bounce = |subject| -> Result<Job> {
        let mut job = Job {
            content: options.content,
            spin_us: POLL,
            ..Job::bounce(subject, payload, tick, u64::MAX, 0)
        };
        fit_bounce(&mut job, job_ns)?;
        Ok(job)
    };
    let without = bounce(Subject::Bus)?;
    let with = bounce(Subject::Compressed)?;
    versus::trips(&without, &with, rounds, "", &mut report)?;
    report.note(
        "With: the publisher compresses each payload into the ring with lz4, the subscriber decompresses it into a buffer of \
         its own. Both read every byte. Round trips in ns, polling, with the payload in both directions. `size_ratio` is \
         bytes in the ring, compressed to plain.",
    );
    Ok(report)
}

/// The same, compressed.
fn compressed(job: &Job) -> Job {
    Job {
        subject: Subject::Compressed,
        ..job.clone()
    }
}

fn size_ratio(content: Content, payload: usize) -> f64 {
    let bytes = content.bytes(payload);
    let mut packed = vec![0; Codec::room(payload)];
    Codec::default().pack(&bytes, &mut packed) as f64 / payload as f64
}
