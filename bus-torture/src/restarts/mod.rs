//! The broker is ended again and again, under load, and comes again: nobody who is there may notice.
//!
//! | kind | who has the broker | how it ends | who comes next |
//! | --- | --- | --- | --- |
//! | `busd` | a process of its own | `kill -9`, or cleanly | another one, up to 40 ms later, or while others are only just back |
//! | `hosts` | one of the members | it is killed, or leaves | another member takes over |
//!
//! Meanwhile publishers send and readers read on topics of all kinds; some come while there is no broker, some go or are killed then. What must
//! hold: nothing is lost or doubled; who comes joins, and misses nothing that is sent after that; no handle becomes unusable, and nobody is
//! evicted; and at every check each member knows exactly those who are there. In the lulls of `busd` descriptors, segments and threads of those who
//! were there all the time are what they were.

mod cast;
mod hosts;
mod own;

use anyhow::Result;
use clap::ValueEnum;

use crate::budget::Budget;
use crate::crowd::lie::Lie;
use crate::outcome::Outcome;
use crate::progress::Progress;

/// Who has the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A process of its own
    Busd,
    /// One of the members
    Hosts,
}

/// How many restarts, and of what.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Choices {
    /// Restarts in all
    #[arg(long, default_value_t = 1000, value_name = "N")]
    count: u64,
    /// Only those of one kind; else half of them are of each
    #[arg(long)]
    kind: Option<Kind>,
}

/// Restarts until there were as many as asked for, or the time is over.
///
/// # Errors
/// What cannot be started.
pub fn run(budget: &Budget, choices: Choices, lie: Option<Lie>) -> Result<Outcome> {
    let kinds: &[Kind] = match &choices.kind {
        Some(kind) => std::slice::from_ref(kind),
        None => &[Kind::Busd, Kind::Hosts],
    };
    let mut all = Outcome::default();
    for (done, kind) in kinds.iter().enumerate() {
        let left = kinds.len() - done;
        let count = choices.count.div_ceil(kinds.len() as u64);
        let part = budget.part(1.0 / left as f64);
        let progress = Progress::new(format!("restarts: {kind:?}"), Some(count));
        let outcome = match kind {
            Kind::Busd => own::run(&part, count, lie, &progress)?,
            Kind::Hosts => hosts::run(&part, count, lie, &progress)?,
        };
        all.absorb(outcome);
        if all.violated() > 0 {
            break;
        }
    }
    Ok(all)
}
