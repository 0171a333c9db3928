//! SIGSTOP and SIGCONT at random points: whoever is stopped is slow, never dead.
//!
//! A stage is a topic of one kind with a publisher that sends as fast as it may, two readers and a broker; one after the other is stopped,
//! mostly for microseconds up to a few milliseconds, now and then for longer than an evicting topic waits for a reader.
//!
//! | stopped for long | the topic | what must hold meanwhile | and afterwards |
//! | --- | --- | --- | --- |
//! | a reader | waits, fails | its publisher sends no more than fits | it gets everything |
//! | a reader | evicts | its publisher goes on when the time is over, the other reader too | it is told; what it held is right; it joins again |
//! | a reader | loses | its publisher goes on, the other reader too | it is told how much it lost |
//! | the publisher | any | nobody takes it for dead | all go on |
//! | the broker | any | all go on; who comes waits | who came has joined |
//!
//! At the end of a stage everything that was sent was received by all who were never evicted, or is counted as lost.

mod stage;

use anyhow::Result;

use crate::budget::Budget;
use crate::crowd::lie::Lie;
use crate::crowd::topic::Kind;
use crate::outcome::Outcome;
use crate::progress::Progress;
use stage::Stage;

/// The kinds of topics, in turn.
const KINDS: [Kind; 5] = [
    Kind::Wait,
    Kind::Evict,
    Kind::Lossy,
    Kind::Fail,
    Kind::Large,
];
/// Stops of a stage.
const STOPS: u64 = 60;
/// Stages without a bound on time.
const STAGES: u64 = 20;

/// Stops one after the other, until the time is over.
///
/// # Errors
/// What cannot be started.
pub fn run(budget: &Budget, lie: Option<Lie>) -> Result<Outcome> {
    let mut all = Outcome::default();
    let progress = Progress::new("stops", None);
    for number in 0.. {
        if budget.over() || budget.time().is_none() && number == STAGES {
            break;
        }
        let kind = KINDS[number as usize % KINDS.len()];
        progress.now(format!("stops, on a topic that does this: {kind:?}"));
        let mut stage = Stage::new(kind, budget.random(number), lie)?;
        for _ in 0..STOPS {
            if budget.over() || stage.violated() {
                break;
            }
            stage.stop_one()?;
            progress.done(1);
        }
        all.absorb(stage.finish()?);
        if all.violated() > 0 {
            break;
        }
    }
    if all.held() {
        all.note(
        "Everybody who was stopped went on as if nothing had been, or was told what it lost; nobody else was held up for longer than the topic says.",
    );
    }
    Ok(all)
}
