//! The control plane, simulated: the broker's engine as it is, with many honest clients, over a world in memory.
//!
//! There are no processes here, and no kernel: see `bus_daemon::simulator`. The same seed takes the same steps.

use anyhow::Result;
use bus_daemon::simulator::{Plan, Planted, run as simulate};
use clap::Args;

use crate::budget::Budget;
use crate::outcome::Outcome;
use crate::progress::Progress;

/// What `bus-torture simulate` is asked to do.
#[derive(Clone, Copy, Debug, Args)]
pub struct Options {
    /// Steps to take, at most
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    steps: u64,
    /// The engine plays this fault: the run must notice
    #[arg(long, hide = true, value_parser = planted)]
    lie: Option<Planted>,
}

/// A fault by its name.
fn planted(name: &str) -> Result<Planted, String> {
    let mut all = Planted::ALL.into_iter();
    all.find(|planted| format!("{planted:?}") == name)
        .ok_or_else(|| format!("there are {:?}", Planted::ALL))
}

/// Simulates until the steps are taken, the time is over, or a promise does not hold.
///
/// # Errors
/// None.
pub fn run(options: &Options, budget: &Budget) -> Result<Outcome> {
    let progress = Progress::new("steps", Some(options.steps));
    let plan = Plan {
        seed: budget.seed(),
        steps: options.steps,
        planted: options.lie,
    };
    let simulated = simulate(plan, |steps| {
        progress.done(steps);
        !budget.over()
    });
    drop(progress);
    let mut outcome = Outcome::default();
    outcome.tried(simulated.steps);
    outcome.count("simulate.steps", simulated.steps);
    outcome.count("simulate.episodes", simulated.episodes);
    for (what, count) in simulated.counts.all() {
        outcome.count(format!("simulate.{what}"), count);
    }
    outcome.note(format!("trace of all messages: {:016x}", simulated.trace));
    if let Some(failure) = simulated.failure {
        outcome.violation(format!(
            "{} (step {} of an episode with seed {}; play it alone with --seed {} --steps 3000)\n{}\n  {}",
            failure.what,
            failure.step,
            failure.seed,
            failure.seed,
            failure.setup,
            failure.script.join("\n  ")
        ));
    }
    Ok(outcome)
}
