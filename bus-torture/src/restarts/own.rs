//! A broker that is a process of its own, ended and started again.

use std::time::Duration;

use anyhow::Result;

use super::cast::{Cast, Part};
use crate::budget::Budget;
use crate::crowd::company::Company;
use crate::crowd::flat::Flat;
use crate::crowd::lie::Lie;
use crate::crowd::said::Told;
use crate::outcome::Outcome;
use crate::progress::Progress;

/// Guests at a time.
const GUESTS: usize = 6;
/// Restarts between two checks.
const CHECK: u64 = 25;
/// Checks between two lulls.
const LULL: u64 = 2;
/// Longest times between restarts, and without a broker, in microseconds.
const BETWEEN: u64 = 20_000;
const OUTAGE: u64 = 40_000;
/// How long who comes may take to have joined.
const JOINING: Duration = Duration::from_secs(15);

/// So many restarts.
pub fn run(budget: &Budget, count: u64, lie: Option<Lie>, progress: &Progress) -> Result<Outcome> {
    let mut random = budget.random(10);
    let mut all = Company::new(random.fork(), false)?;
    all.start_broker()?;
    let (mut cast, mut anchors) = (Cast::default(), Vec::new());
    for part in Part::all() {
        let lie = lie.filter(|_| matches!(part, Part::Reads(_) | Part::Sends(_)));
        let number = cast.comes(&mut all, part, lie)?;
        all.joined(number)?;
        anchors.push(number);
    }
    let mut guests = Vec::new();
    let mut flat = Flat::default();
    for round in 1..=count {
        if budget.over() || all.outcome().violated() > 0 {
            break;
        }
        outage(&mut all, &mut cast, &mut guests, &mut random)?;
        progress.done(1);
        if round.is_multiple_of(CHECK) {
            cast.check(&mut all)?;
        }
        if round.is_multiple_of(CHECK * LULL) && all.outcome().violated() == 0 {
            for guest in guests.drain(..) {
                leave(&mut all, &mut cast, guest)?;
            }
            cast.check(&mut all)?;
            if all.outcome().violated() == 0 {
                flat.look(&mut all, &anchors, budget.elapsed())?;
            }
        }
    }
    if all.outcome().violated() == 0 {
        cast.check(&mut all)?;
    } else {
        let tried = all.outcome().tries();
        all.outcome().note(format!("It was at restart {tried}."));
    }
    flat.conclude(&mut all);
    let pause = cast.longest_pause(&all).as_secs_f64() * 1e3;
    all.outcome().number("busd.longest_pause_ms", pause);
    all.finish()
}

/// The broker ends, somebody comes or goes meanwhile, and there is another one.
fn outage(
    all: &mut Company,
    cast: &mut Cast,
    guests: &mut Vec<u32>,
    random: &mut fastrand::Rng,
) -> Result<()> {
    let micros = |most, random: &mut fastrand::Rng| Duration::from_micros(random.u64(..most));
    all.until(micros(BETWEEN, random), |_| false)?;
    let kill = random.bool();
    all.end_broker(kill)?;
    all.outcome().tried(1);
    let key = if kill {
        "restarts.killed"
    } else {
        "restarts.clean"
    };
    all.outcome().count(key, 1);
    all.until(micros(OUTAGE / 2, random), |_| false)?;
    let mut came = None;
    if random.bool() {
        let guest = cast.comes(all, Part::any(random), None)?;
        guests.push(guest);
        came = Some(guest);
    }
    let going = if guests.len() > GUESTS {
        Some(0)
    } else if random.u32(..4) == 0 && !guests.is_empty() {
        Some(random.usize(..guests.len()))
    } else {
        None
    };
    if let Some(going) = going {
        let guest = guests.remove(going);
        came = came.filter(|came| *came != guest);
        if random.bool() {
            cast.goes(guest);
            all.kill(guest)?;
            all.outcome().count("kills", 1);
        } else {
            leave(all, cast, guest)?;
        }
    }
    all.until(micros(OUTAGE / 2, random), |_| false)?;
    all.start_broker()?;
    // Mostly all are back before the next one, but not always.
    if random.u32(..4) > 0
        && let Some(came) = came
    {
        all.until(JOINING, |all| {
            all.member(came).is_none_or(|member| member.present())
        })?;
    }
    Ok(())
}

fn leave(all: &mut Company, cast: &mut Cast, guest: u32) -> Result<()> {
    cast.goes(guest);
    all.tell(guest, Told::Leave)
}
