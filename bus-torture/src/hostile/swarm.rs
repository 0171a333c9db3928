//! Processes of the fast lane: what each of them found, and that each came to its end.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::fast::{self, Plan, Tally};
use super::{MUTATIONS, Options};
use crate::budget::Budget;
use crate::outcome::Outcome;
use crate::process::{Worker, say, settings};
use crate::progress::Progress;

/// How long a process that has ended may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// The role of one process.
///
/// # Errors
/// The run is gone.
pub fn play(plan: Value) -> Result<()> {
    let plan: Plan = settings(plan)?;
    let mut lost = Ok(());
    let tally = fast::run(&plan, |tally| {
        if lost.is_ok() {
            lost = serde_json::to_string(&tally)
                .context("a tally")
                .and_then(|tally| say(&format!("tally {tally}")));
        }
    });
    lost?;
    match tally {
        Ok(tally) => say(&format!("done {}", serde_json::to_string(&tally)?)),
        Err(error) => say(&format!("violated {error:#}")),
    }
}

/// Runs the fast lane.
///
/// # Errors
/// A process cannot be started.
pub fn run(options: &Options, budget: &Budget) -> Result<Outcome> {
    let jobs = options.jobs.max(1);
    let wanted = options.mutations.unwrap_or(MUTATIONS);
    let seconds = budget
        .time()
        .map(|time| time.saturating_sub(budget.elapsed()));
    let one = options.episode;
    let plan = Plan {
        seed: budget.seed(),
        first: one.unwrap_or(0),
        step: jobs,
        // Whoever gives time has all of it used.
        mutations: (seconds.is_none() && one.is_none()).then(|| wanted.div_ceil(jobs)),
        episodes: one.map(|_| 1),
        seconds: seconds.map(|seconds| seconds.as_secs_f64()),
        broken: options.broken,
    };
    let jobs = if one.is_some() { 1 } else { jobs };
    let mut workers = Vec::new();
    for number in 0..jobs {
        let plan = Plan {
            first: plan.first + number,
            ..plan.clone()
        };
        workers.push((Worker::start("hostile-fast", &plan)?, plan));
    }
    let progress = Progress::new("mutations", plan.mutations.map(|each| each * jobs));
    let mut outcome = Outcome::default();
    let mut whole = Tally::default();
    for (worker, plan) in &mut workers {
        whole.add(listen(worker, plan, options, &progress, &mut outcome));
    }
    outcome.tried(whole.mutations);
    outcome.count("fast.mutations", whole.mutations);
    outcome.count("fast.looks", whole.looks);
    outcome.count("fast.episodes", whole.episodes);
    outcome.count("fast.rests", whole.rests);
    outcome.count("fast.honest_right", whole.right);
    outcome.count("fast.hostile_messages", whole.hostile);
    outcome.count("fast.hostile_values_valid", whole.valid);
    let whole_run = one.is_none() && outcome.violated() == 0;
    let asked = options.mutations.filter(|_| whole_run);
    if let Some(asked) = asked.filter(|asked| whole.mutations < *asked) {
        outcome.violation(format!(
            "{} mutations in the time given, and {asked} were asked for",
            whole.mutations
        ));
    }
    Ok(outcome)
}

/// Hears one process to its end.
fn listen(
    worker: &mut Worker,
    plan: &Plan,
    options: &Options,
    progress: &Progress,
    outcome: &mut Outcome,
) -> Tally {
    let mut tally = Tally::default();
    let patience = Duration::from_secs_f64(options.patience);
    let at = |tally: Tally| {
        let episode = plan.first + tally.episodes * plan.step;
        format!(
            "in episode {episode} of seed {}; again: bus-torture hostile --lane fast --seed {} --episode {episode}",
            plan.seed, plan.seed
        )
    };
    loop {
        let line = match worker.hear(patience) {
            Ok(Some(line)) => line,
            Ok(None) => {
                let end = worker.end(GONE);
                let end = end.map_or_else(|e| e.to_string(), |status| status.to_string());
                outcome.violation(format!("an honest process crashed ({end}) {}", at(tally)));
                return tally;
            }
            Err(error) => {
                outcome.violation(format!("an honest process hangs ({error:#}) {}", at(tally)));
                return tally;
            }
        };
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match (word, serde_json::from_str::<Tally>(rest)) {
            ("tally", Ok(now)) => {
                progress.done(now.mutations - tally.mutations);
                tally = now;
            }
            ("done", Ok(now)) => return now,
            ("violated", _) => {
                outcome.violation(rest);
                return tally;
            }
            _ => outcome.violation(format!("a process of the fast lane says {line:?}")),
        }
    }
}
