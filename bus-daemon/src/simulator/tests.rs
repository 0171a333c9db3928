//! The same seed gives the same run, and each planted fault is found.

use super::{Plan, Planted, run};

fn plan(seed: u64, steps: u64, planted: Option<Planted>) -> Plan {
    Plan {
        seed,
        steps,
        planted,
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let outcome = run(plan(seed, 12_000, None), |_| true);
        assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
        (outcome.trace, outcome.counts)
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn a_run_tries_everything() {
    let outcome = run(plan(3, 60_000, None), |_| true);
    assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
    for (what, count) in outcome.counts.all() {
        assert!(count > 0, "{what}: {:?}", outcome.counts);
    }
}

#[test]
fn each_planted_fault_is_found_by_the_promise_that_it_breaks() {
    let found = [
        (Planted::EndedRingUntold, "was not told of ring"),
        (Planted::IndexReusedEarly, "index"),
        (Planted::VersionAhead, "the version moved to"),
        (Planted::AbsentGoneByTime, "is told to have left, and lives"),
        (Planted::SentTwice, "was told of it before"),
        (Planted::GraceIgnored, "before the grace ended"),
        (Planted::UnsentAtStop, "the broker stops"),
    ];
    assert_eq!(found.len(), Planted::ALL.len());
    for (planted, promise) in found {
        let outcome = run(plan(1, 100_000, Some(planted)), |_| true);
        let Some(failure) = outcome.failure else {
            panic!("{planted:?} is not found");
        };
        assert!(failure.what.contains(promise), "{planted:?}: {failure:?}");
        let short = failure.script.len() < failure.step;
        assert!(short, "{planted:?}: {} steps", failure.script.len());
    }
}
