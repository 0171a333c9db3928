//! The part of `cost` about joining.
//!
//! Keys, with `N` the number of topics: `bus.topics_N.joins_per_s` (subscribers, one process, one after the
//! other), `.join_p50_us` and `.join_p99_us` (a subscriber's), `.publisher_join_p50_us` and `.publisher_join_p99_us`,
//! `.rss_kib_per_topic`, `.pss_kib_per_topic`, `.rss_kib_per_subscriber`, `.pss_kib_per_subscriber`,
//! `.broker_rss_kib_per_topic`, `.segment_kib_per_topic`; with all handles open, `.descriptors` and `.threads` of the
//! process that joins, and `.broker_rss_kib` of the one that runs the broker. With `P` processes that join at the
//! same time: `bus.processes_P.joins_per_s` of all of them, and `.join_p50_us` of one join.

use crate::counters::memory::{Resident, descriptors, segment_bytes, threads};
use crate::harness::{Moment, run_watched};
use crate::job::Job;
use crate::report::Report;
use crate::trips::Trips;
use anyhow::{Context, Result, bail};

/// Runs a job of joins, and adds its figures.
///
/// # Errors
/// The side failed, or `/proc` does not tell.
pub fn measure(job: &Job, topics: usize, key: &str, report: &mut Report) -> Result<()> {
    let mut broker = [Resident::default(); 2];
    let mut segments = 0;
    let (mut open, mut running) = (0, 0);
    let results = run_watched(job, |moment, sides| {
        broker[usize::from(moment == Moment::Ready)] = Resident::now()?;
        if moment == Moment::Ready {
            let all = [&[std::process::id()], sides].concat();
            segments = segment_bytes(&all)?;
            let side = *sides.first().context("there is no joining side")?;
            (open, running) = (descriptors(side)?, threads(side)?);
        }
        Ok(())
    })?;
    let joins = results
        .outcomes
        .into_iter()
        .find_map(|outcome| outcome.joins)
        .context("the joining side has nothing to tell")?;

    let key = format!("{key}.topics_{topics}");
    let total: u64 = joins.subscriber_ns.iter().sum();
    report.number(
        format!("{key}.joins_per_s"),
        joins.subscriber_ns.len() as f64 * 1e9 / total.max(1) as f64,
    );
    for (name, times) in [
        ("join", &joins.subscriber_ns),
        ("publisher_join", &joins.publisher_ns),
    ] {
        let mut spread = Trips::new(job.tick)?;
        for ns in times {
            spread.add(ns.saturating_mul(1000), 1)?;
        }
        for (quantile, value) in [("p50", 0.5), ("p99", 0.99)] {
            report.number(
                format!("{key}.{name}_{quantile}_us"),
                spread.quantile_ns(value) / 1000.0,
            );
        }
    }
    let per_topic = |from: u64, to: u64| (to as f64 - from as f64) / topics as f64;
    let [none, publishers, both] = joins.resident;
    for (name, from, to) in [
        ("topic", none, publishers),
        ("subscriber", publishers, both),
    ] {
        report.number(
            format!("{key}.rss_kib_per_{name}"),
            per_topic(from.rss_kib, to.rss_kib),
        );
        report.number(
            format!("{key}.pss_kib_per_{name}"),
            per_topic(from.pss_kib, to.pss_kib),
        );
    }
    report.count(format!("{key}.descriptors"), open);
    report.count(format!("{key}.threads"), running);
    let [before, after] = broker;
    report.count(format!("{key}.broker_rss_kib"), after.rss_kib);
    report.number(
        format!("{key}.broker_rss_kib_per_topic"),
        per_topic(before.rss_kib, after.rss_kib),
    );
    report.number(
        format!("{key}.segment_kib_per_topic"),
        segments as f64 / 1024.0 / topics as f64,
    );
    Ok(())
}

/// Runs a job of joins by several processes at the same time, and adds how fast all of them are together.
///
/// # Errors
/// As [`measure`].
pub fn measure_together(job: &Job, key: &str, report: &mut Report) -> Result<()> {
    let outcomes = run_watched(job, |_, _| Ok(()))?.outcomes;
    let begun = outcomes.iter().map(|outcome| outcome.start_ns).min();
    let ended = outcomes.iter().map(|outcome| outcome.end_ns).max();
    let (Some(begun), Some(ended)) = (begun, ended) else {
        bail!("nobody has joined");
    };
    let mut spread = Trips::new(job.tick)?;
    let mut joins = 0_u32;
    for outcome in outcomes {
        let own = outcome
            .joins
            .context("a joining side has nothing to tell")?;
        // The first one of each topic was open before the clock started.
        for ns in own.subscriber_ns.iter().skip(own.publisher_ns.len()) {
            spread.add(ns.saturating_mul(1000), 1)?;
            joins += 1;
        }
    }
    let key = format!("{key}.processes_{}", job.subscribers);
    let seconds = ended.saturating_sub(begun).max(1) as f64 / 1e9;
    report.number(format!("{key}.joins_per_s"), f64::from(joins) / seconds);
    let p50 = spread.quantile_ns(0.5) / 1000.0;
    report.number(format!("{key}.join_p50_us"), p50);
    Ok(())
}
