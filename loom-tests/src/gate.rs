//! Both mutation gates: each ordering and fence is weakened in turn, then each wake-up is left out in
//! turn, and each time some model must fail.
//!
//! First all models run as they are: where one fails or does not end, no kill would mean anything. Then each mutant is
//! taken through the models until one fails; mutants are spread over the processors.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use loom_tests::mutant::Mutant;
use loom_tests::{MODELS, Model};
use serde::Serialize;

use crate::child::{self, Outcome};

/// What became of a mutant.
struct Verdict {
    mutant: Mutant,
    /// The model that failed, and what it said.
    killer: Option<(&'static str, String)>,
}

#[derive(Serialize)]
struct Report {
    sites: usize,
    wake_ups: usize,
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
            "{:28} {:>8.2} s  {word}",
            model.name,
            start.elapsed().as_secs_f64()
        );
    }
    println!("{:28} {:>8.2} s", "all", began.elapsed().as_secs_f64());
    Ok(right)
}

/// Tries every mutant, or one; prints a table or JSON; whether none survived.
pub fn mutants(only: Option<&str>, json: bool, limit: Duration) -> Result<bool> {
    let mutants: Vec<Mutant> = Mutant::all()
        .filter(|mutant| only.is_none_or(|name| name == mutant.name()))
        .collect();
    if mutants.is_empty() {
        let names: Vec<_> = Mutant::all().map(Mutant::name).collect();
        bail!(
            "there is no such mutant; the mutants are {}",
            names.join(", ")
        );
    }
    let models = all_right(limit)?;
    let verdicts = spread(mutants, |mutant| judge(mutant, &models, limit))?;
    let survivors: Vec<_> = (verdicts.iter())
        .filter(|verdict| verdict.killer.is_none())
        .map(|verdict| verdict.mutant.name())
        .collect();
    let weak = |verdict: &&Verdict| matches!(verdict.mutant, Mutant::Weak(_));
    let sites = verdicts.iter().filter(weak).count();
    let report = Report {
        sites,
        wake_ups: verdicts.len() - sites,
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

/// Demands that every model passes without a mutant; the models, the quickest first.
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
        bail!("without a mutant, {}", complaints.join("; "));
    }
    Ok(models)
}

fn judge(mutant: Mutant, models: &[&'static Model], limit: Duration) -> Result<Verdict> {
    let mut killer = None;
    for model in models {
        if let Outcome::Failed(why) = child::run(model, Some(mutant), limit)? {
            killer = Some((model.name, why));
            break;
        }
    }
    Ok(Verdict { mutant, killer })
}

fn table(verdicts: &[Verdict], report: &Report) {
    println!("{:24} {:10} {:28} how", "mutant", "loses", "killed by");
    for Verdict { mutant, killer } in verdicts {
        let (model, why) = match killer {
            Some((model, why)) => (*model, why.as_str()),
            None => ("NOTHING", "no model needs it"),
        };
        let why: String = why.chars().take(60).collect();
        println!(
            "{:24} {:10} {model:28} {why}",
            mutant.name(),
            mutant.loses()
        );
    }
    println!(
        "killed {} of {}: {} orderings and {} wake-ups",
        report.killed,
        report.sites + report.wake_ups,
        report.sites,
        report.wake_ups
    );
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
