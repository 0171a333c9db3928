//! Runs episodes until so many steps were taken; a failure is played again with fewer steps, as long as it stays.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::Planted;
use super::counts::Counts;
use super::play::Play;
use super::script::{Setup, Step};

/// Steps of an episode, at most.
const EPISODE: usize = 3000;
/// How long a failure is shortened.
const SHORTENING: Duration = Duration::from_secs(10);

/// What a run is to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Steps to be taken.
    pub steps: u64,
    /// A fault that the engine plays.
    pub planted: Option<Planted>,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Steps that were taken.
    pub steps: u64,
    /// Episodes, each of a crowd of its own.
    pub episodes: u64,
    /// What happened in them.
    pub counts: Counts,
    /// The same for the same seed.
    pub trace: u64,
    /// The promise that did not hold.
    pub failure: Option<Failure>,
}

/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of the episode.
    pub seed: u64,
    /// The number of the step in the episode.
    pub step: usize,
    /// What did not hold.
    pub what: String,
    /// The crowd.
    pub setup: String,
    /// The steps that lead to it, without those that are not needed.
    pub script: Vec<String>,
}

/// Runs a plan; `done` hears of steps that were taken, and says whether to go on.
pub fn run(plan: Plan, mut done: impl FnMut(u64) -> bool) -> Outcome {
    let mut outcome = Outcome::default();
    let mut seeds = Rng::with_seed(plan.seed);
    while outcome.steps < plan.steps {
        let seed = match outcome.episodes {
            // So that the seed of an episode is enough to play it again.
            0 => plan.seed,
            _ => seeds.u64(..),
        };
        let left = usize::try_from(plan.steps - outcome.steps).unwrap_or(usize::MAX);
        let (setup, script) = draw(seed, left.min(EPISODE));
        let played = play(&setup, &script, plan.planted);
        outcome.steps += script.len() as u64;
        outcome.episodes += 1;
        outcome.counts.add(&played.counts);
        outcome.trace = outcome.trace.rotate_left(7) ^ played.trace;
        if let Some((step, what)) = played.failure {
            let shortened = shorten(&setup, script, (step, &what), plan.planted);
            outcome.failure = Some(Failure {
                seed,
                step,
                what,
                setup: format!("{setup:?}"),
                script: shortened.iter().map(|step| format!("{step:?}")).collect(),
            });
            return outcome;
        }
        if !done(script.len() as u64) {
            return outcome;
        }
    }
    outcome
}

fn draw(seed: u64, steps: usize) -> (Setup, Vec<Step>) {
    let mut random = Rng::with_seed(seed ^ 0x5eed);
    let setup = Setup::draw(&mut random);
    let script = setup.script(&mut random, steps);
    (setup, script)
}

#[derive(Default)]
struct Played {
    trace: u64,
    counts: Counts,
    failure: Option<(usize, String)>,
}

/// Plays a script: the promise that does not hold, if there is one.
#[cfg(test)]
pub(super) fn replay(setup: &Setup, script: &[Step]) -> Option<String> {
    play(setup, script, None).failure.map(|(_, what)| what)
}

/// Plays a script to its end, or to the first promise that does not hold.
fn play(setup: &Setup, script: &[Step], planted: Option<Planted>) -> Played {
    let mut played = Played::default();
    let mut at = 0;
    let mut play = Play::new(setup, planted);
    let result = catch_unwind(AssertUnwindSafe(|| {
        for (number, step) in script.iter().enumerate() {
            at = number;
            play.step(*step)?;
        }
        at = script.len();
        play.finish()
    }));
    let failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(what)) => Some(what),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let short = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or(short).unwrap_or_default();
            Some(format!("it panicked: {text}"))
        }
    };
    if failure.is_none() {
        (played.trace, played.counts) = play.figures();
    } else {
        // A part of it may be borrowed for ever.
        std::mem::forget(play);
    }
    played.failure = failure.map(|what| (at, what));
    played
}

/// What did not hold, without numbers.
fn kind_of(what: &str) -> String {
    what.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Leaves out steps as long as the same promise does not hold.
fn shorten(
    setup: &Setup,
    script: Vec<Step>,
    (failed, what): (usize, &str),
    planted: Option<Planted>,
) -> Vec<Step> {
    let start = Instant::now();
    let wanted = kind_of(what);
    let mut script = script;
    script.truncate(failed + 1);
    let mut chunk = script.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < script.len() {
            if start.elapsed() > SHORTENING {
                return script;
            }
            let mut without = script.clone();
            without.drain(at..(at + chunk).min(script.len()));
            if let Some((step, found)) = play(setup, &without, planted).failure
                && kind_of(&found) == wanted
            {
                without.truncate(step + 1);
                script = without;
                shorter = true;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 && !shorter {
            return script;
        }
        chunk = (chunk / 2).max(1);
    }
}
