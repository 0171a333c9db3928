//! Everything at once, for as long as one likes: joins, leaves, kills, stops, restarts of the broker, on topics of all kinds; and in between,
//! lulls, in which whoever was there before must be what it was.
//!
//! *Anchors* are there from the beginning to the end, on each topic a publisher and a reader, and nothing is done to them. *Guests* come, and
//! leave, or are killed or stopped, as the seed says. In a lull all guests leave; then the books must add up, each anchor must know exactly the
//! other anchors of its topic, go on, and have as many descriptors, segments and threads as at the first lull; and over the second half of the run
//! its memory must not grow. The broker is looked at in the same way.

mod anchors;
mod guests;
mod steps;

use std::time::Duration;

use anyhow::Result;

use crate::budget::Budget;
use crate::crowd::company::Company;
use crate::crowd::flat::Flat;
use crate::crowd::lie::Lie;
use crate::outcome::Outcome;
use crate::progress::Progress;
use anchors::Anchors;
use guests::Guests;
use steps::Steps;

/// Time between lulls in a long run.
const ROUND: Duration = Duration::from_secs(20);
/// Lulls that even a short run has room for.
const LULLS: u32 = 7;
/// Lulls without which nothing is known of memory: a run that is short of them takes longer.
const LEAST: u32 = 5;
/// How long a run takes that is not told.
const SLICE: Duration = Duration::from_secs(60);

/// What a run does beside the usual.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Choices {
    /// Leave the broker alone
    #[arg(long)]
    no_restarts: bool,
}

/// Goes on until the time is over.
///
/// # Errors
/// What cannot be started.
pub fn run(budget: &Budget, choices: Choices, lie: Option<Lie>) -> Result<Outcome> {
    let time = budget.time().unwrap_or(SLICE);
    let round = ROUND.min(time / LULLS);
    let progress = Progress::new("soak", None);
    let mut all = Company::new(budget.random(0), false)?;
    all.start_broker()?;
    let anchors = Anchors::new(&mut all, choices.no_restarts, lie)?;
    let mut guests = Guests::new(choices.no_restarts);
    let mut steps = Steps::new(budget.random(1), !choices.no_restarts);
    let mut flat = Flat::default();
    let mut lulls = 0;
    while (budget.elapsed() < time || lulls < LEAST) && all.outcome().violated() == 0 {
        let end = budget.elapsed() + round;
        while budget.elapsed() < end && all.outcome().violated() == 0 {
            steps.step(&mut all, &mut guests)?;
            progress.done(1);
            flat.glance(&all, &anchors.numbers())?;
        }
        steps.calm(&mut all)?;
        progress.now("soak, in a lull");
        lull(&mut all, &mut guests, &anchors, &mut flat, budget)?;
        progress.now("soak");
        lulls += 1;
    }
    flat.conclude(&mut all);
    anchors.conclude(&mut all);
    all.finish()
}

/// Everybody goes who came, and everything is as it was.
fn lull(
    all: &mut Company,
    guests: &mut Guests,
    anchors: &Anchors,
    flat: &mut Flat,
    budget: &Budget,
) -> Result<()> {
    guests.all_leave(all)?;
    if all.outcome().violated() > 0 {
        return Ok(());
    }
    anchors.check(all)?;
    flat.look(all, &anchors.numbers(), budget.elapsed())?;
    all.outcome().count("lulls", 1);
    Ok(())
}
