//! Peers that lie: once they have joined they write what they like into every word that they may, and say to the broker what they like.
//! Nobody else may crash, hang, spin, read out of bounds, take a wrong message for right, or grow.

mod attack;
mod content;
mod control;
pub mod fast;
mod ground;
mod honest;
mod liar;
mod live;
pub mod member;
mod swarm;
mod users;
mod witness;
mod words;
pub mod zoo;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::budget::Budget;
use crate::outcome::Outcome;
use crate::process::Role;

/// Mutations of a run that is not told otherwise.
const MUTATIONS: u64 = 10_000_000;

/// What `bus-torture hostile` is asked to do.
#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Only this part
    #[arg(long, value_enum)]
    lane: Option<Lane>,
    /// Write at least so many words; fewer is a failure [default: 10000000]
    #[arg(long, value_name = "N")]
    mutations: Option<u64>,
    /// Processes of the fast lane at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: u64,
    /// Only this episode of the fast lane
    #[arg(long, value_name = "N")]
    episode: Option<u64>,
    /// What an honest side does wrong, to see that it is noticed
    #[arg(long, hide = true, value_enum)]
    broken: Option<fast::Broken>,
    /// Seconds without a sign of life that count as a hang
    #[arg(long, hide = true, default_value_t = 30.0)]
    patience: f64,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lane {
    /// Words of shared memory, millions a second, against the library in one process
    Fast,
    /// Control messages: malformed, out of order, with wrong descriptors, without end
    Control,
    /// Words of shared memory, written by a process among honest ones at work
    Live,
    /// Another user of the machine, where this is root
    Users,
}

/// The processes that this command starts.
pub const ROLES: &[Role] = &[
    ("hostile-fast", swarm::play),
    (attack::ROLE, attack::play),
    (honest::SENDER, honest::send),
    (honest::READER, honest::read),
    (liar::ROLE, liar::play),
    (users::ROLE, users::play),
];

/// Tries it all, as far as the budget goes.
///
/// # Errors
/// The run itself cannot go on.
pub fn run(options: &Options, budget: &Budget) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    // Whoever asks for one part gives it all the time.
    let share = |share| budget.part(if options.lane.is_some() { 1.0 } else { share });
    let does = |lane| options.lane.is_none_or(|only| only == lane);
    if does(Lane::Users) {
        outcome.absorb(users::run(budget)?);
    }
    if does(Lane::Control) {
        outcome.absorb(control::run(&share(0.3))?);
    }
    if does(Lane::Live) {
        let broken = options.broken == Some(fast::Broken::Content);
        outcome.absorb(live::run(&share(0.5), broken)?);
    }
    if does(Lane::Fast) {
        outcome.absorb(swarm::run(options, budget)?);
    }
    Ok(outcome)
}
