//! The part of `cost` about joining.
//!
//! Keys, with `N` the number of topics: `bus.topics_N.joins_per_s` (subscribers, one process, one after the
//! other), `.join_p50_us` and `.join_p99_us` (a subscriber's), `.publisher_join_p50_us` and `.publisher_join_p99_us`,
//! `.rss_kib_per_topic`, `.pss_kib_per_topic`, `.rss_kib_per_subscriber`, `.pss_kib_per_subscriber`,
//! `.broker_rss_kib_per_topic`, `.segment_kib_per_topic`.

use crate::counters::memory::{Resident, segment_bytes};
use crate::harness::{Moment, run_watched};
use crate::job::Job;
use crate::report::Report;
use crate::trips::Trips;
use anyhow::{Context, Result};

/// Runs a job of joins, and adds its figures.
///
/// # Errors
/// The side failed, or `/proc` does not tell.
pub fn measure(job: &Job, topics: usize, key: &str, report: &mut Report) -> Result<()> {
    let mut broker = [Resident::default(); 2];
    let mut segments = 0;
    let results = run_watched(job, |moment, sides| {
        broker[usize::from(moment == Moment::Ready)] = Resident::now()?;
        if moment == Moment::Ready {
            let all = [&[std::process::id()], sides].concat();
            segments = segment_bytes(&all)?;
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
    let [before, after] = broker;
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
