//! `throughput`: messages a second, lossless, every byte written and read, against the
//! faster of two minimal rings, and for large messages against copying memory.

use super::ring_depth;
use crate::brackets::{ATTEMPTS, Class, STEADY, round_trips};
use crate::clock::Tick;
use crate::coalesced::Coalescing;
use crate::content::Content;
use crate::harness;
use crate::job::{Job, Work};
use crate::report::{Report, median};
use crate::subject::Subject;
use anyhow::Result;
use std::time::Instant;

/// Messages from here on are compared with copying memory as well.
const LARGE: usize = 4096;
/// Bytes of the trial that says how many messages fit into a round.
const TRIAL_BYTES: usize = 64 << 20;
/// Messages of that trial at most.
const TRIAL_MESSAGES: u64 = 200_000;
/// Round trips that tell siblings from cores.
const PROBE_TRIPS: u64 = 20_000;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 40, value_parser = clap::value_parser!(u32).range(..=1 << 26))]
    pub payload: u32,
    /// Subscribers, each reads all messages
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub subscribers: u8,
    /// Publishers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub publishers: u8,
    /// Messages handed over at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub batch: u32,
    /// Messages that a ring holds, a power of two [default: as many as make 512 KiB, 8 to 8192]
    #[arg(long)]
    pub depth: Option<u32>,
    /// Processor pauses between two polls that found nothing, of whoever polls the floors' way
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub pauses: u16,
    /// Rounds wanted with a steady floor; each runs both floors and the subject
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// About how long to measure
    #[arg(long, default_value_t = 10.0, value_parser = super::super::cli::seconds)]
    pub seconds: f64,
    /// Floors of latency with a median below this are hyperthread siblings
    #[arg(long, value_name = "NS", default_value_t = 160.0)]
    pub siblings_below: f64,
}

/// Measures.
///
/// # Errors
/// A side failed, or the ring asked for is too large or no power of two.
pub fn run(options: &Options, subject: Option<Subject>) -> Result<Report> {
    let base = base_job(options)?;
    let rounds = usize::from(options.rounds);
    let kinds = if subject.is_some() { 3 } else { 2 };
    let round_ns = options.seconds * 0.8e9 / (kinds * rounds + 2) as f64;
    let fitted = |subject| {
        fit(
            Job {
                subject,
                ..base.clone()
            },
            round_ns,
        )
    };
    let floors = [fitted(Subject::Stamped)?, fitted(Subject::Packed)?];
    let measured = subject.map(fitted).transpose()?;

    let mut series = Series::default();
    series.add_floors(&floors)?;
    let begun = Instant::now();
    for attempt in 0..rounds * ATTEMPTS {
        let late = attempt >= rounds && begun.elapsed().as_secs_f64() > options.seconds;
        if series.steady().filter(|steady| *steady).count() >= rounds || late {
            break;
        }
        series.classes.push(probe(&base, options.siblings_below)?);
        if let Some(job) = &measured {
            series.subject.push(Rate::of(job)?);
        }
        series.add_floors(&floors)?;
    }

    let mut report = Report::default();
    report.count("payload", base.payload as u64);
    report.count("publishers", base.publishers as u64);
    report.count("subscribers", base.subscribers as u64);
    report.count("batch", base.batch as u64);
    report.count("depth", base.depth as u64);
    report.count("pauses", u64::from(base.pauses));
    series.report(subject.map(Subject::key), &base, &mut report);
    if base.payload >= LARGE {
        copying(&base, subject.map(Subject::key), round_ns, &mut report)?;
    }
    if base.publishers == 1 {
        let best = series.best_floor();
        publisher_cost(&base, floors[best].subject, "floor", &mut report)?;
        if let Some(subject) = subject {
            publisher_cost(&base, subject, subject.key(), &mut report)?;
        }
    }
    report.note(
        "Publishers share processor 0, subscribers processor 1. Every message is copied in by its publisher and \
         read to the last byte by each subscriber; none is lost. The floor is the faster of the two minimal rings.",
    );
    if base.crowded() {
        report.note("More processes than processors: whoever waits polls 64 times, then yields its processor.");
    }
    Ok(report)
}

fn base_job(options: &Options) -> Result<Job> {
    let payload = options.payload as usize;
    let depth = ring_depth(options.depth, payload)?;
    Ok(Job {
        subject: Subject::Stamped,
        work: Work::Stream,
        payload,
        content: Content::default(),
        depth,
        batch: options.batch as usize,
        coalescing: Coalescing::default(),
        publishers: usize::from(options.publishers),
        subscribers: usize::from(options.subscribers),
        warm_up: 2 * depth as u64,
        messages: 1,
        stretch: None,
        pauses: u32::from(options.pauses),
        spin_us: None,
        lossy: false,
        still: 0,
        untouched: false,
        idle: 0,
        tick: Tick::measure()?,
        traced: Vec::new(),
    })
}

/// Sets the number of messages so that a round takes about `round_ns`.
pub(super) fn fit(job: Job, round_ns: f64) -> Result<Job> {
    let messages =
        ((TRIAL_BYTES / job.payload.max(64)) as u64).min(TRIAL_MESSAGES) / job.publishers as u64;
    let trial = Job {
        messages: messages.max(1),
        ..job
    };
    let rate = Rate::of(&trial)?.messages_per_s;
    let messages = rate * round_ns / 1e9 / trial.publishers as f64;
    Ok(Job {
        messages: (messages as u64).max(trial.depth as u64),
        ..trial
    })
}

/// On what the two processors are just now.
pub(super) fn probe(base: &Job, siblings_below: f64) -> Result<Class> {
    let job = Job::bounce(Subject::Lines, 8, base.tick, PROBE_TRIPS, 0);
    let ns = round_trips(&job)?.p50_ns();
    Ok(Class::of(ns, ns, siblings_below))
}

/// What a round of a stream gave.
#[derive(Clone, Copy, Debug)]
struct Rate {
    messages_per_s: f64,
    publisher_cpu_ns: f64,
}

impl Rate {
    /// Runs a stream. It counts from the first publisher's first message to the last
    /// subscriber's last; a message that several subscribers read counts once.
    fn of(job: &Job) -> Result<Self> {
        let outcomes = harness::run(job)?.outcomes;
        let (publishers, subscribers) = outcomes.split_at(job.publishers);
        let start = publishers
            .iter()
            .map(|side| side.start_ns)
            .min()
            .unwrap_or(0);
        let end = subscribers
            .iter()
            .map(|side| side.end_ns)
            .max()
            .unwrap_or(0);
        let messages = (job.messages * job.publishers as u64) as f64;
        let cpu_ns: u64 = publishers.iter().map(|side| side.cpu_ns).sum();
        Ok(Self {
            messages_per_s: messages * 1e9 / end.saturating_sub(start).max(1) as f64,
            publisher_cpu_ns: cpu_ns as f64 / messages,
        })
    }
}

/// The rates of all rounds: floors before and after each subject.
#[derive(Debug, Default)]
struct Series {
    floors: [Vec<Rate>; 2],
    subject: Vec<Rate>,
    classes: Vec<Class>,
}

impl Series {
    fn add_floors(&mut self, floors: &[Job; 2]) -> Result<()> {
        for (rates, job) in self.floors.iter_mut().zip(floors) {
            rates.push(Rate::of(job)?);
        }
        Ok(())
    }

    fn best_floor(&self) -> usize {
        usize::from(middle(&self.floors[1]) > middle(&self.floors[0]))
    }

    fn report(&self, subject: Option<&str>, base: &Job, report: &mut Report) {
        let best = &self.floors[self.best_floor()];
        let bytes = base.payload as f64;
        let cpu = |rates: &[Rate]| {
            median(
                &rates
                    .iter()
                    .map(|rate| rate.publisher_cpu_ns)
                    .collect::<Vec<_>>(),
            )
        };
        report.number("floor.msgs_per_s", middle(best));
        report.number("floor.bytes_per_s", middle(best) * bytes);
        report.number("floor.publisher_cpu_ns_per_msg", cpu(best));
        report.word("floor.ring", ["stamped", "packed"][self.best_floor()]);
        report.number("floor.stamped.msgs_per_s", middle(&self.floors[0]));
        report.number("floor.packed.msgs_per_s", middle(&self.floors[1]));
        if let Some(key) = subject {
            report.number(format!("{key}.msgs_per_s"), middle(&self.subject));
            report.number(format!("{key}.bytes_per_s"), middle(&self.subject) * bytes);
            report.number(
                format!("{key}.publisher_cpu_ns_per_msg"),
                cpu(&self.subject),
            );
            let ratios = self.ratios();
            report.number("ratio", median(&ratios));
            report.number(
                "ratio.least",
                ratios.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0),
            );
            report.number(
                "ratio.most",
                ratios.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0),
            );
        }
        let siblings = self
            .classes
            .iter()
            .filter(|class| **class == Class::Siblings)
            .count();
        report.count("rounds.cores", (self.classes.len() - siblings) as u64);
        report.count("rounds.siblings", siblings as u64);
        let unsteady = self.steady().filter(|steady| !steady).count();
        report.count("rounds.unsteady", unsteady as u64);
    }

    /// Each steady round against the mean of the faster floor before and after it; all rounds,
    /// if none was steady.
    fn ratios(&self) -> Vec<f64> {
        let any_steady = self.steady().any(|steady| steady);
        let best = &self.floors[self.best_floor()];
        self.subject
            .iter()
            .zip(best.windows(2))
            .zip(self.steady())
            .filter(|(_, steady)| *steady || !any_steady)
            .map(|((rate, around), _)| {
                rate.messages_per_s * 2.0 / (around[0].messages_per_s + around[1].messages_per_s)
            })
            .collect()
    }

    /// For each round: did the faster floor stay the same around it?
    fn steady(&self) -> impl Iterator<Item = bool> {
        self.floors[self.best_floor()].windows(2).map(|around| {
            let (one, other) = (around[0].messages_per_s, around[1].messages_per_s);
            one.max(other) <= one.min(other) * STEADY
        })
    }
}

fn middle(rates: &[Rate]) -> f64 {
    median(
        &rates
            .iter()
            .map(|rate| rate.messages_per_s)
            .collect::<Vec<_>>(),
    )
}

/// What a publish costs while there is room, with these subscribers and with one.
fn publisher_cost(base: &Job, subject: Subject, key: &str, report: &mut Report) -> Result<()> {
    let burst = |subscribers| -> Result<f64> {
        let messages =
            (base.depth as u64 * 64).min(((TRIAL_BYTES * 4) / base.payload.max(64)) as u64);
        let job = Job {
            subject,
            work: Work::Burst,
            subscribers,
            messages: messages.max(1),
            ..base.clone()
        };
        let outcomes = harness::run(&job)?.outcomes;
        let cpu_ns = outcomes
            .first()
            .map_or(0, |publisher| publisher.burst_cpu_ns);
        Ok(cpu_ns as f64 / job.messages as f64)
    };
    // Three in turn: one alone may fall on a busy moment.
    let mut here = Vec::new();
    let mut alone = Vec::new();
    for _ in 0..3 {
        here.push(burst(base.subscribers)?);
        if base.subscribers > 1 {
            alone.push(burst(1)?);
        }
    }
    report.number(format!("{key}.publish_cpu_ns"), median(&here));
    if base.subscribers > 1 {
        report.number(format!("{key}.publish_cpu_ns_with_1"), median(&alone));
        report.number(
            format!("{key}.publish_cpu_ratio"),
            median(&here) / median(&alone).max(f64::MIN_POSITIVE),
        );
    }
    Ok(())
}

/// Memory bandwidth for payloads of this size, on one processor.
fn copying(base: &Job, key: Option<&str>, round_ns: f64, report: &mut Report) -> Result<()> {
    let rate = |messages: u64| -> Result<f64> {
        let job = Job {
            work: Work::Copy,
            messages: messages.max(1),
            ..base.clone()
        };
        let outcomes = harness::run(&job)?.outcomes;
        let ns = outcomes.first().map_or(1, |copier| copier.wall_ns()).max(1);
        Ok(job.messages as f64 * 1e9 / ns as f64)
    };
    let trial = rate((TRIAL_BYTES / base.payload) as u64)?;
    let mut rates = Vec::new();
    for _ in 0..3 {
        rates.push(rate((trial * round_ns / 1e9) as u64)?);
    }
    let bytes_per_s = median(&rates) * base.payload as f64;
    report.number("floor.memcpy_bytes_per_s", bytes_per_s);
    if let Some(measured) = key.and_then(|key| report.get(&format!("{key}.bytes_per_s"))) {
        report.number("ratio.memcpy", measured / bytes_per_s);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(values: &[f64]) -> Vec<Rate> {
        values
            .iter()
            .map(|value| Rate {
                messages_per_s: *value,
                publisher_cpu_ns: 1.0,
            })
            .collect()
    }

    #[test]
    fn a_steady_round_is_compared_with_the_faster_floor_around_it() {
        let series = Series {
            floors: [rates(&[10.0, 10.0, 10.0]), rates(&[28.0, 32.0, 100.0])],
            subject: rates(&[27.0, 28.0]),
            classes: Vec::new(),
        };
        assert_eq!(series.best_floor(), 1);
        assert_eq!(series.ratios(), [0.9]);
    }
}
