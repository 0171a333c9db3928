//! A broker that one of the members hosts; when that one goes, another takes over.

use std::time::Duration;

use anyhow::Result;

use super::cast::{Cast, Part};
use crate::budget::Budget;
use crate::crowd::company::Company;
use crate::crowd::lie::Lie;
use crate::crowd::member::Member;
use crate::crowd::said::Told;
use crate::outcome::Outcome;
use crate::progress::Progress;

/// Take-overs between two checks.
const CHECK: u64 = 25;
/// Longest time between take-overs, in microseconds.
const BETWEEN: u64 = 20_000;
/// How long a take-over may take.
const PROMPT: Duration = Duration::from_secs(15);

/// So many take-overs.
pub fn run(budget: &Budget, count: u64, lie: Option<Lie>, progress: &Progress) -> Result<Outcome> {
    let mut random = budget.random(11);
    let mut all = Company::new(random.fork(), true)?;
    let mut cast = Cast::default();
    for part in Part::all() {
        let lie = lie.filter(|_| matches!(part, Part::Reads(_) | Part::Sends(_)));
        let number = cast.comes(&mut all, part, lie)?;
        all.joined(number)?;
    }
    for round in 1..=count {
        if budget.over() || all.outcome().violated() > 0 {
            break;
        }
        let between = Duration::from_micros(random.u64(..BETWEEN));
        all.until(between, |_| false)?;
        take_over(&mut all, &mut cast, &mut random)?;
        progress.done(1);
        if round.is_multiple_of(CHECK) && all.outcome().violated() == 0 {
            cast.check(&mut all)?;
        }
    }
    if all.outcome().violated() == 0 {
        cast.check(&mut all)?;
    } else {
        let tried = all.outcome().tries();
        all.outcome().note(format!("It was at take-over {tried}."));
    }
    let pause = cast.longest_pause(&all).as_secs_f64() * 1e3;
    all.outcome().number("hosts.longest_pause_ms", pause);
    all.finish()
}

/// Who hosts the broker is killed, or leaves; somebody comes in its place, mostly at once.
fn take_over(all: &mut Company, cast: &mut Cast, random: &mut fastrand::Rng) -> Result<()> {
    let kill = random.bool();
    let apart = Duration::from_micros(random.u64(..5_000));
    let waits = random.u32(..4) > 0;
    let Some(host) = host(all, cast)? else {
        return Ok(());
    };
    all.outcome().tried(1);
    let key = if kill {
        "take_overs.killed"
    } else {
        "take_overs.clean"
    };
    all.outcome().count(key, 1);
    let Some(part) = cast.goes(host) else {
        return Ok(());
    };
    if kill {
        all.kill(host)?;
    } else {
        all.tell(host, Told::Leave)?;
    }
    all.until(apart, |_| false)?;
    let came = cast.comes(all, part, None)?;
    if waits {
        all.until(PROMPT, |all| all.member(came).is_none_or(Member::present))?;
    }
    Ok(())
}

/// Who hosts the broker: somebody must, soon.
fn host(all: &mut Company, cast: &Cast) -> Result<Option<u32>> {
    let deadline = std::time::Instant::now() + PROMPT;
    loop {
        let present: Vec<u32> = cast
            .numbers()
            .into_iter()
            .filter(|number| all.member(*number).is_some_and(Member::present))
            .collect();
        for number in &present {
            all.tell(*number, Told::Where)?;
        }
        let answered = |all: &Company| {
            present
                .iter()
                .all(|n| all.member(*n).is_none_or(|m| m.at().is_some()))
        };
        if !all.must(PROMPT, "everybody says where it is", answered)? {
            return Ok(None);
        }
        let hosts = |n: &&u32| all.member(**n).is_some_and(Member::hosts);
        if let Some(host) = present.iter().find(hosts) {
            return Ok(Some(*host));
        }
        if std::time::Instant::now() >= deadline {
            let what = format!("within {PROMPT:?} nobody has taken over the broker");
            all.outcome().violation(what);
            return Ok(None);
        }
    }
}
