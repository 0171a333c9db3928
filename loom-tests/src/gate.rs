//! The mutation gate: each ordering and fence is weakened in turn, and some model must fail.
//!
//! First all models run as they are: where one fails or does not end, no kill would mean anything. Then each site is taken
//! through the models until one fails; sites are spread over the processors.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bus_core::backend::{Site, site};
use loom_tests::{MODELS, Model};
use serde::Serialize;

use crate::child::{self, Outcome};

/// What became of a weakened site.
struct Verdict {
    site: Site,
    /// The model that failed, and what it said.
    killer: Option<(&'static str, String)>,
}

#[derive(Serialize)]
struct Report {
    sites: usize,
    killed: usize,
    survivors: Vec<&'static str>,
}

/// Runs every model as it is, and prints how long each took; whether all passed.
pub fn models(limit: Duration) -> Result<bool> {
    let began = Instant::now();
    let mut right = true;
    for model in MODELS {
        let start = Instant::now();
        let word = match child::run(model, None, limit)? {
            Outcome::Passed => "passed".into(),
            Outcome::Failed(why) => format!("FAILED: {why}"),
            Outcome::Unfinished(why) => format!("UNFINISHED: {why}"),
        };
        right &= word == "passed";
        println!(
            "{:24} {:>8.2} s  {word}",
            model.name,
            start.elapsed().as_secs_f64()
        );
    }
    println!("{:24} {:>8.2} s", "all", began.elapsed().as_secs_f64());
    Ok(right)
}

/// Weakens every site, or one; prints a table or JSON; whether none survived.
pub fn mutants(only: Option<&str>, json: bool, limit: Duration) -> Result<bool> {
    let sites: Vec<Site> = (site::ALL.iter().copied())
        .filter(|site| only.is_none_or(|name| name == site.name))
        .collect();
    if sites.is_empty() {
        let names: Vec<_> = site::ALL.iter().map(|site| site.name).collect();
        bail!("there is no such site; the sites are {}", names.join(", "));
    }
    let models = all_right(limit)?;
    let verdicts = spread(sites, |site| judge(site, &models, limit))?;
    let survivors: Vec<_> = (verdicts.iter())
        .filter(|verdict| verdict.killer.is_none())
        .map(|verdict| verdict.site.name)
        .collect();
    let report = Report {
        sites: verdicts.len(),
        killed: verdicts.len() - survivors.len(),
        survivors,
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        table(&verdicts, &report);
    }
    Ok(report.survivors.is_empty())
}

/// Demands that every model passes while nothing is weakened; the models, the quickest first.
fn all_right(limit: Duration) -> Result<Vec<&'static Model>> {
    let mut outcomes = spread(MODELS.iter().collect(), |model: &'static Model| {
        let start = Instant::now();
        let outcome = child::run(model, None, limit)?;
        Ok((start.elapsed(), model, outcome))
    })?;
    outcomes.sort_by_key(|(time, ..)| *time);
    let models = outcomes.iter().map(|(_, model, _)| *model).collect();
    let complaints: Vec<_> = (outcomes.into_iter())
        .filter_map(|(_, Model { name, .. }, outcome)| match outcome {
            Outcome::Passed => None,
            Outcome::Failed(why) => Some(format!("{name} fails: {why}")),
            Outcome::Unfinished(why) => Some(format!("{name} does not end: {why}")),
        })
        .collect();
    if !complaints.is_empty() {
        bail!("with nothing weakened, {}", complaints.join("; "));
    }
    Ok(models)
}

fn judge(site: Site, models: &[&'static Model], limit: Duration) -> Result<Verdict> {
    let mut killer = None;
    for model in models {
        if let Outcome::Failed(why) = child::run(model, Some(site.name), limit)? {
            killer = Some((model.name, why));
            break;
        }
    }
    Ok(Verdict { site, killer })
}

fn table(verdicts: &[Verdict], report: &Report) {
    println!("{:24} {:10} {:24} how", "site", "ordering", "killed by");
    for Verdict { site, killer } in verdicts {
        let (model, why) = match killer {
            Some((model, why)) => (*model, why.as_str()),
            None => ("NOTHING", "no model needs it"),
        };
        let why: String = why.chars().take(60).collect();
        let ordering = format!("{:?}", site.ordering);
        println!("{:24} {ordering:10} {model:24} {why}", site.name);
    }
    println!("{} of {} sites killed", report.killed, report.sites);
}

/// Does the work on every item, on all processors; the results in the items' order.
fn spread<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(items.into_iter().enumerate());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // The lock is let go of before the work begins.
                while let Some((index, item)) = next(&queue) {
                    let result = work(item);
                    locked(&results).push((index, result));
                }
            });
        }
    });
    let mut results = std::mem::take(&mut *locked(&results));
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn next<T>(queue: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    locked(queue).next()
}

/// A worker that panicked leaves the queue and the results whole.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
