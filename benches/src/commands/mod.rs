//! The subcommands, one a file.

pub mod cost;
mod joins;
pub mod latency;
pub mod throughput;
pub mod wake;

use crate::harness;
use crate::job::Job;
use crate::outcome::Outcome;
use anyhow::Result;

/// Round trips of the trial that says how many fit into a round.
const TRIAL_TRIPS: u64 = 2_000;
/// Fewer make no percentile.
const FEWEST_TRIPS: u64 = 200;

/// Sets the number of round trips so that a round of `job` takes about `round_ns`.
fn fit_bounce(job: &mut Job, round_ns: f64) -> Result<()> {
    let trial = Job {
        messages: TRIAL_TRIPS,
        warm_up: TRIAL_TRIPS / 10,
        ..job.clone()
    };
    let wall_ns = harness::run(&trial)?
        .outcomes
        .first()
        .map_or(0, Outcome::wall_ns);
    let trip = (wall_ns as f64 / trial.messages as f64).max(1.0);
    job.messages = ((round_ns / trip) as u64).max(FEWEST_TRIPS);
    job.warm_up = (job.messages / 10).min(10_000);
    Ok(())
}
