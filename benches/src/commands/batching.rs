//! `batching`: a publisher that coalesces small messages while a subscriber is behind, against bus as it is: messages a
//! second, round trips at once, single messages with an interval, and bursts of messages.
//!
//! Keys: `with`, `without` and `ratio` for each; `always` for a publisher that fills every pack, whoever waits for it.

use super::throughput::fit;
use super::{fit_bounce, ring_depth, versus};
use crate::clock::Tick;
use crate::coalesced::Coalescing;
use crate::job::{Job, POLL, Work, depth};
use crate::report::Report;
use crate::subject::Subject;
use anyhow::{Result, ensure};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub payload: u32,
    /// Bytes of a pack of messages at most
    #[arg(long, value_name = "BYTES", default_value_t = 1008, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub pack: u32,
    /// Give a pack a slot of its own length, and the ring fewer slots; else a longer pack lies beside the slots
    #[arg(long)]
    pub in_slots: bool,
    /// A subscriber is behind if there are more slots than this that it has not read
    #[arg(long, value_name = "SLOTS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub behind: u32,
    /// Look at the subscribers once in so many messages
    #[arg(long, value_name = "MESSAGES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub look: u32,
    /// Subscribers of the stream, each reads all messages
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub subscribers: u8,
    /// Messages of a burst
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub burst: u32,
    /// From one burst, or one single message, to the next
    #[arg(long, value_name = "US", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub interval: u32,
    /// Rounds; each is bracketed by bus as it is
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// About how long to measure
    #[arg(long, default_value_t = 20.0, value_parser = super::super::cli::seconds)]
    pub seconds: f64,
}

/// Measures.
///
/// # Errors
/// A side failed, or another subject than bus was asked for.
pub fn run(options: &Options, subject: Option<Subject>) -> Result<Report> {
    ensure!(
        subject == Some(Subject::Bus),
        "batching is measured on bus only: leave out --subject"
    );
    let tick = Tick::measure()?;
    let payload = options.payload as usize;
    let pack = (options.pack as usize).max(payload);
    let coalescing = Coalescing {
        pack,
        in_slots: options.in_slots,
        behind: Some(u64::from(options.behind)),
        look: options.look,
    };
    let rounds = usize::from(options.rounds);
    // A quarter for each of the four parts; each of their rounds is two or three jobs, and there is one more at the end.
    let job_ns = |jobs: usize| options.seconds * 0.25e9 / (jobs * rounds + 1) as f64;

    let slots = depth(slot(payload, coalescing)) as u32;
    ensure!(
        options.burst <= slots && options.behind < slots,
        "a ring has {slots} slots here: choose a smaller --burst, --behind, --payload, or --pack"
    );

    let mut report = Report::default();
    report.count("payload", payload as u64);
    report.count("pack", pack as u64);
    report.count("behind", u64::from(options.behind));
    report.count("look", u64::from(options.look));
    report.count("subscribers", u64::from(options.subscribers));

    let without = versus::in_stretches(&Job {
        work: Work::Stream,
        depth: ring_depth(None, payload)?,
        subscribers: usize::from(options.subscribers),
        ..Job::bounce(Subject::Bus, payload, tick, 1, 0)
    });
    let with = coalesced(&without, coalescing);
    let always = coalesced(
        &with,
        Coalescing {
            behind: None,
            ..coalescing
        },
    );
    let [without, with, always] = [without, with, always].map(|job| {
        let warm_up = 2 * job.depth as u64;
        fit(Job { warm_up, ..job }, job_ns(3))
    });
    versus::streams(
        &without?,
        &[("with", &with?), ("always", &always?)],
        rounds,
        &mut report,
    )?;

    let mut without = Job {
        spin_us: POLL,
        ..Job::bounce(Subject::Bus, payload, tick, u64::MAX, 0)
    };
    fit_bounce(&mut without, job_ns(2))?;
    let with = coalesced(&without, coalescing);
    versus::trips(&without, &with, rounds, "", &mut report)?;

    let interval_ns = f64::from(options.interval) * 1000.0;
    let bursts = ((job_ns(2) / interval_ns) as u64).max(50);
    for (kind, burst) in [("single.", 1), ("burst.", options.burst)] {
        let messages = bursts * u64::from(burst);
        let without = Job {
            batch: burst as usize,
            ..Job::bounce(
                Subject::Bus,
                payload,
                tick,
                messages,
                u64::from(options.interval),
            )
        };
        let with = coalesced(&without, coalescing);
        versus::trips(&without, &with, rounds, kind, &mut report)?;
    }
    report.note(
        "With: while a subscriber is further behind than so many slots, messages are packed and sent as one. \
         Always: every pack is filled. Round trips in ns, polling; single messages and bursts with the interval, where both \
         sides spin as long as bus does by default and then sleep. Of a burst, each message's own trip; the publisher \
         ends it with a flush. A ratio compares a round only with what is without it right before and after it.",
    );
    Ok(report)
}

/// The same, coalesced, in a ring of the default length.
fn coalesced(job: &Job, coalescing: Coalescing) -> Job {
    Job {
        subject: Subject::Coalesced,
        depth: depth(slot(job.payload, coalescing)),
        coalescing,
        ..job.clone()
    }
}

/// Bytes of payload that a slot has room for.
fn slot(payload: usize, coalescing: Coalescing) -> usize {
    if coalescing.in_slots {
        coalescing.pack
    } else {
        payload
    }
}
