//! The subcommands, one a file.

pub mod batching;
pub mod compression;
pub mod cost;
pub mod handoff;
pub mod instructions;
mod joins;
pub mod latency;
pub mod placement;
pub mod select;
pub mod state;
pub mod stopped;
pub mod throughput;
pub mod tiers;
mod versus;
pub mod wake;

use crate::harness;
use crate::job::{Job, depth};
use crate::outcome::Outcome;
use anyhow::{Result, ensure};

/// Bytes of a ring at most.
const MOST_RING_BYTES: usize = 1 << 30;
/// Round trips of the trial that says how many fit into a round.
const TRIAL_TRIPS: u64 = 2_000;
/// Fewer make no percentile.
const FEWEST_TRIPS: u64 = 200;

/// The depth asked for, or the default one.
fn ring_depth(asked: Option<u32>, payload: usize) -> Result<usize> {
    let depth = asked.map_or_else(|| depth(payload), |depth| depth as usize);
    ensure!(
        depth.is_power_of_two() && depth >= 2,
        "--depth must be a power of two and at least 2, not {depth}"
    );
    ensure!(
        depth.saturating_mul(payload + 64) <= MOST_RING_BYTES,
        "{depth} messages of {payload} bytes need a ring of more than 1 GiB: choose a smaller --depth"
    );
    Ok(depth)
}

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
