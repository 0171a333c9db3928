//! `kill-points`: a victim is killed after each instruction of what it does, and everybody else goes on as if nothing had happened.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `operation` | what a victim does when it is killed |
//! | `victim`, `mutant` | the process that does it, rightly or wrongly |
//! | `route` | the points of its way, and the way to each |
//! | `crew`, `reader`, `sleeper` | who survives, and what is promised to them |
//! | `census`, `content`, `death`, `fault` | what is open, what a message says, how long ago it was, what is wrong |
//! | `place` | which function an address belongs to |
//! | `trial` | one operation: all of its points, or some |
//!
//! Promises: each point is a process of its own, killed where it stood; what is checked after each kill is checked by survivors that live through all of
//! them. It asks for a machine on which processes may trace their children. It does not kill in the middle of a system call, but in those in which a process
//! sleeps for another one.

mod census;
pub(crate) mod content;
pub(crate) mod crew;
pub(crate) mod death;
pub(crate) mod fault;
mod mutant;
pub mod operation;
pub(crate) mod place;
mod reader;
mod route;
mod sleeper;
mod trial;
pub(crate) mod victim;

use anyhow::Result;
use clap::Args;

use crate::budget::Budget;
use crate::outcome::Outcome;
use crate::process::Role;
use crate::progress::Progress;
use crate::tracer;
use operation::Operation;
use trial::Trial;

/// The topic of a victim.
pub(crate) const TOPIC: &str = "t";
/// The state of a victim.
pub(crate) const STATE: &str = "s";

/// What this command's processes play.
pub const ROLES: &[Role] = &[victim::VICTIM];

/// What to try.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Kill in this operation only; may be given several times
    #[arg(long = "op", value_name = "NAME", value_enum)]
    pub operations: Vec<Operation>,
    /// Try each N-th point only, from one that the seed decides
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub every: u32,
    /// Try this point only: so many steps from where the operation begins
    #[arg(long, value_name = "K")]
    pub point: Option<usize>,
    /// Let the victim publish its message before that is there: to show that this is noticed
    #[arg(long, hide = true)]
    pub mutant: bool,
}

/// Tries as many points as fit.
///
/// # Errors
/// The run itself fails: processes cannot be traced here, for instance.
pub fn run(options: &Options, budget: &Budget) -> Result<Outcome> {
    tracer::fix_addresses()?;
    let operations = if options.operations.is_empty() {
        Operation::all()
    } else {
        &options.operations
    };
    let mut outcome = Outcome::default();
    let progress = Progress::new("kill-points", None);
    for (number, &operation) in operations.iter().enumerate() {
        let left = operations.len() - number;
        let part = budget.part(1.0 / left as f64);
        progress.now(operation.name());
        let trial = Trial::new(operation, options, &part, &progress);
        outcome.absorb(trial.run()?);
    }
    Ok(outcome)
}
