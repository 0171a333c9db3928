//! One thing with and without something, in turn: how fast it goes, and how long a trip takes.

use super::throughput::probe;
use crate::brackets::{Class, round_trips};
use crate::harness;
use crate::job::Job;
use crate::report::{Report, median};
use crate::stretches::rates;
use crate::trips::Trips;
use crate::turns::Turns;
use anyhow::Result;

/// Medians of round trips below this, in nanoseconds, are those of hyperthread siblings.
const SIBLINGS_BELOW: f64 = 160.0;

/// Messages of a stretch at most, and bytes of one that has more than two.
const STRETCH_MESSAGES: usize = 16_384;
const STRETCH_BYTES: usize = 1 << 20;
/// Runs of a stream at most until there is a stretch that counts.
const TRIES: u32 = 4;

/// `job`, timed in stretches.
pub fn in_stretches(job: &Job) -> Job {
    let messages = (STRETCH_BYTES / job.payload.max(1)).clamp(2, STRETCH_MESSAGES);
    Job {
        // With more processes than processors, somebody always stands still.
        stretch: (!job.crowded()).then_some(messages as u64),
        ..job.clone()
    }
}

/// What a stream gave.
struct Rate {
    messages_per_s: f64,
    messages_per_slot: f64,
    calm: usize,
}

impl Rate {
    /// Runs a stream, again if both sides never ran together for a stretch.
    fn of(job: &Job) -> Result<Self> {
        let mut rate = Self::of_once(job)?;
        for _ in 1..TRIES {
            if rate.calm > 0 || job.stretch.is_none() {
                break;
            }
            rate = Self::of_once(job)?;
        }
        Ok(rate)
    }

    /// Runs a stream of one publisher. Its rate is the middle one of its stretches in which both sides ran, or that of the whole
    /// where there are none.
    fn of_once(job: &Job) -> Result<Self> {
        let outcomes = harness::run(job)?.outcomes;
        let slots: u64 = outcomes.iter().map(|side| side.slots).sum();
        let calm = match outcomes.as_slice() {
            [publisher, subscriber] => rates(&publisher.stretches, &subscriber.stretches),
            _ => Vec::new(),
        };
        let messages_per_s = if calm.is_empty() {
            let start = outcomes.iter().map(|side| side.start_ns).min();
            let end = outcomes.iter().map(|side| side.end_ns).max();
            let ns = end.unwrap_or(0).saturating_sub(start.unwrap_or(0));
            job.messages as f64 * 1e9 / ns.max(1) as f64
        } else {
            median(&calm)
        };
        Ok(Self {
            messages_per_s,
            messages_per_slot: job.messages as f64 / slots.max(1) as f64,
            calm: calm.len(),
        })
    }
}

/// Streams `without` and each of `with` in turn. Keys: `without.msgs_per_s`; for each name of `with`, `NAME.msgs_per_s` and
/// `NAME.messages_per_slot`; `.calm_stretches` of each, 0 where the whole stream had to count; `ratio` and its least and most for the first of them, `ratio.NAME` for the others.
///
/// # Errors
/// A side failed.
pub fn streams(
    without: &Job,
    with: &[(&str, &Job)],
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let mut turns = vec![Turns::default(); with.len()];
    let mut per_slot = vec![Vec::new(); with.len()];
    let mut siblings = 0;
    let mut calm = vec![0; with.len()];
    let mut calm_without = 0;
    let mut add_without = |turns: &mut Vec<Turns>| -> Result<()> {
        let rate = Rate::of(without)?;
        calm_without += rate.calm;
        for turns in turns {
            turns.without.push(rate.messages_per_s);
        }
        Ok(())
    };
    add_without(&mut turns)?;
    for _ in 0..rounds {
        siblings += u64::from(probe(without, SIBLINGS_BELOW)? == Class::Siblings);
        for (at, (_, job)) in with.iter().enumerate() {
            let rate = Rate::of(job)?;
            turns[at].with.push(rate.messages_per_s);
            per_slot[at].push(rate.messages_per_slot);
            calm[at] += rate.calm;
        }
        add_without(&mut turns)?;
    }
    for (at, (name, _)) in with.iter().enumerate() {
        let turns = &turns[at];
        report.number(format!("{name}.msgs_per_s"), turns.with());
        report.number(format!("{name}.messages_per_slot"), median(&per_slot[at]));
        report.count(format!("{name}.calm_stretches"), calm[at] as u64);
        if at == 0 {
            report.number("without.msgs_per_s", turns.without());
            report.count("without.calm_stretches", calm_without as u64);
            spread("ratio", &turns.ratios(), report);
            let unsteady = turns.steady().filter(|steady| !steady).count();
            report.count("rounds.cores", rounds as u64 - siblings);
            report.count("rounds.siblings", siblings);
            report.count("rounds.unsteady", unsteady as u64);
        } else {
            report.number(format!("ratio.{name}"), median(&turns.ratios()));
        }
    }
    Ok(())
}

/// Bounces `without` and `with` in turn. Keys, with `KIND` empty or ending in a dot: `with.KINDp50_ns`, `without.KINDp50_ns`,
/// `ratio.KINDp50`, and the same for p99 and p999.
///
/// # Errors
/// A side failed.
pub fn trips(
    without: &Job,
    with: &Job,
    rounds: usize,
    kind: &str,
    report: &mut Report,
) -> Result<()> {
    let mut turns: [Turns; 3] = std::array::from_fn(|_| Turns::default());
    for round in 0..=rounds {
        if round > 0 {
            let trips = round_trips(with)?;
            for (turns, figure) in turns.iter_mut().zip(quantiles(&trips)) {
                turns.with.push(figure);
            }
        }
        let trips = round_trips(without)?;
        for (turns, figure) in turns.iter_mut().zip(quantiles(&trips)) {
            turns.without.push(figure);
        }
    }
    for (turns, name) in turns.iter().zip(["p50", "p99", "p999"]) {
        report.number(format!("with.{kind}{name}_ns"), turns.with());
        report.number(format!("without.{kind}{name}_ns"), turns.without());
        spread(&format!("ratio.{kind}{name}"), &turns.ratios(), report);
    }
    Ok(())
}

/// In nanoseconds, p50, p99 and p999.
fn quantiles(trips: &Trips) -> [f64; 3] {
    [
        trips.p50_ns(),
        trips.quantile_ns(0.99),
        trips.quantile_ns(0.999),
    ]
}

fn spread(key: &str, ratios: &[f64], report: &mut Report) {
    report.number(key, median(ratios));
    let least = ratios.iter().copied().min_by(f64::total_cmp);
    let most = ratios.iter().copied().max_by(f64::total_cmp);
    report.number(format!("{key}.least"), least.unwrap_or(0.0));
    report.number(format!("{key}.most"), most.unwrap_or(0.0));
}
