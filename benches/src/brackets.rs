//! Rounds of round trips, each bracketed by the floor: floor, subject, floor, subject, floor, ...
//!
//! A virtual machine may move its two processors from hyperthread siblings to
//! separate cores and back within minutes. So a subject is compared only with
//! the floor right before and right after it, each round says which of the two it
//! ran on, and a round that saw both is repeated.

use crate::clock::Tick;
use crate::harness;
use crate::job::Job;
use crate::report::{Report, median};
use crate::trips::Trips;
use anyhow::Result;
use std::time::{Duration, Instant};

/// Brackets that differ by more than this saw the machine change.
pub const STEADY: f64 = 1.25;
/// Rounds tried for each that is asked for.
pub const ATTEMPTS: usize = 3;
/// Fewer rounds on separate cores than this do not speak for a run on both.
const ENOUGH: usize = 3;

/// What the two processors were in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Separate cores.
    Cores,
    /// Two hyperthreads of one core.
    Siblings,
    /// One before and another after, or the floor moved too much to tell.
    Mixed,
}

impl Class {
    const ALL: [Self; 3] = [Self::Cores, Self::Siblings, Self::Mixed];

    fn key(self) -> &'static str {
        match self {
            Self::Cores => "cores",
            Self::Siblings => "siblings",
            Self::Mixed => "mixed",
        }
    }

    /// Judges a round by the floor's medians before and after it, in nanoseconds.
    /// Siblings are those below `siblings_below`.
    ///
    /// ```
    /// use bus_bench::brackets::Class;
    /// assert_eq!(Class::of(250.0, 270.0, 160.0), Class::Cores);
    /// assert_eq!(Class::of(95.0, 100.0, 160.0), Class::Siblings);
    /// assert_eq!(Class::of(100.0, 250.0, 160.0), Class::Mixed);
    /// ```
    #[must_use]
    pub fn of(before: f64, after: f64, siblings_below: f64) -> Self {
        let (low, high) = (before.min(after), before.max(after));
        if high > low * STEADY {
            Self::Mixed
        } else if high < siblings_below {
            Self::Siblings
        } else if low >= siblings_below {
            Self::Cores
        } else {
            Self::Mixed
        }
    }
}

/// How many rounds, and how they are told apart.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds wanted on separate cores.
    pub rounds: usize,
    /// Floors below this many nanoseconds are hyperthread siblings; 0: do not ask.
    pub siblings_below: f64,
    /// No round after the third is begun later than this.
    pub limit: Duration,
}

/// One round: the subject and the floor around it.
#[derive(Debug)]
struct Round {
    class: Class,
    before: f64,
    after: f64,
    floor: Trips,
    subject: Option<Trips>,
}

impl Round {
    fn ratio(&self) -> Option<f64> {
        let subject = self.subject.as_ref()?;
        Some(subject.p50_ns() * 2.0 / (self.before + self.after))
    }
}

/// The rounds of a run.
#[derive(Debug)]
pub struct Comparison {
    rounds: Vec<Round>,
    told_apart: bool,
    tick: Tick,
}

/// Runs `floor` and `subject` in turn. Without a subject the floor alone is run.
///
/// # Errors
/// A job failed.
pub fn interleave(floor: &Job, subject: Option<&Job>, plan: &Plan) -> Result<Comparison> {
    let start = Instant::now();
    let mut rounds: Vec<Round> = Vec::new();
    let mut before = round_trips(floor)?.p50_ns();
    for attempt in 0..plan.rounds * ATTEMPTS {
        let good = rounds
            .iter()
            .filter(|round| round.class == Class::Cores)
            .count();
        if good >= plan.rounds || (attempt >= ENOUGH && start.elapsed() > plan.limit) {
            break;
        }
        let subject = subject.map(round_trips).transpose()?;
        let floor = round_trips(floor)?;
        let after = floor.p50_ns();
        let class = Class::of(before, after, plan.siblings_below);
        rounds.push(Round {
            class,
            before,
            after,
            floor,
            subject,
        });
        before = after;
    }
    Ok(Comparison {
        rounds,
        told_apart: plan.siblings_below > 0.0,
        tick: floor.tick,
    })
}

/// Runs a bounce once.
///
/// # Errors
/// The job failed.
pub fn round_trips(job: &Job) -> Result<Trips> {
    let results = harness::run(job)?;
    let mut trips = Trips::new(job.tick)?;
    for (picoseconds, count) in results.outcomes.iter().flat_map(|outcome| &outcome.trips) {
        trips.add(*picoseconds, *count)?;
    }
    Ok(trips)
}

impl Comparison {
    /// Adds the figures: those of the class that speaks for the run under plain keys, each
    /// class under its own.
    ///
    /// # Errors
    /// Histograms that do not fit together.
    pub fn report(&self, subject: Option<&str>, report: &mut Report) -> Result<()> {
        let headline = self.headline();
        self.report_class(headline, "", subject, report)?;
        if !self.told_apart {
            report.count("rounds.steady", self.of(Class::Cores).count() as u64);
            report.count("rounds.unsteady", self.of(Class::Mixed).count() as u64);
            return Ok(());
        }
        report.word("class", headline.key());
        for class in Class::ALL {
            report.count(
                format!("rounds.{}", class.key()),
                self.of(class).count() as u64,
            );
        }
        for class in Class::ALL {
            if class != headline && self.of(class).next().is_some() {
                self.report_class(class, &format!("{}.", class.key()), subject, report)?;
            }
        }
        Ok(())
    }

    fn of(&self, class: Class) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(move |round| round.class == class)
    }

    /// Separate cores if there are enough rounds on them, else what came most often.
    fn headline(&self) -> Class {
        let count = |class| self.of(class).count();
        if count(Class::Cores) >= ENOUGH.min(self.rounds.len()) {
            return Class::Cores;
        }
        // On a tie the first of the list: `max_by_key` would take the last.
        Class::ALL
            .into_iter()
            .rev()
            .max_by_key(|class| count(*class))
            .unwrap_or(Class::Mixed)
    }

    fn report_class(
        &self,
        class: Class,
        prefix: &str,
        subject: Option<&str>,
        report: &mut Report,
    ) -> Result<()> {
        let mut floor = Trips::new(self.tick)?;
        let mut measured = Trips::new(self.tick)?;
        for round in self.of(class) {
            floor.merge(&round.floor)?;
            if let Some(trips) = &round.subject {
                measured.merge(trips)?;
            }
        }
        report.percentiles(&format!("{prefix}floor"), &floor);
        if let Some(key) = subject {
            let ratios: Vec<f64> = self.of(class).filter_map(Round::ratio).collect();
            report.percentiles(&format!("{prefix}{key}"), &measured);
            report.number(format!("{prefix}ratio.p50"), median(&ratios));
            report.number(
                format!("{prefix}ratio.p50_least"),
                ratios.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0),
            );
            report.number(
                format!("{prefix}ratio.p50_most"),
                ratios.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick() -> Tick {
        Tick::of(1.0, 1)
    }

    fn trips(ns: u64) -> Trips {
        let mut trips = Trips::new(tick()).expect("bounds");
        trips.add(ns * 1000, 100).expect("in range");
        trips
    }

    fn round(before: u64, subject: u64, after: u64) -> Round {
        let (low, high) = (before as f64, after as f64);
        Round {
            class: Class::of(low, high, 160.0),
            before: low,
            after: high,
            floor: trips(after),
            subject: Some(trips(subject)),
        }
    }

    #[test]
    fn a_ratio_is_taken_within_its_round_only() {
        let rounds = vec![
            round(200, 220, 200),
            round(300, 330, 300),
            round(250, 275, 250),
            round(100, 200, 100),
            round(100, 500, 300),
        ];
        let comparison = Comparison {
            rounds,
            told_apart: true,
            tick: tick(),
        };
        let mut report = Report::default();
        comparison
            .report(Some("bus"), &mut report)
            .expect("figures");
        let near = |key: &str, value: f64| {
            let got = report.get(key).unwrap_or_else(|| panic!("no {key}"));
            assert!(
                (got - value).abs() < value * 0.01,
                "{key} is {got}, not {value}"
            );
        };
        near("ratio.p50", 1.1);
        near("siblings.ratio.p50", 2.0);
        near("floor.p50_ns", 250.0);
        near("bus.p50_ns", 275.0);
        near("rounds.mixed", 1.0);
    }

    #[test]
    fn without_enough_rounds_on_cores_the_commonest_class_speaks() {
        let rounds = vec![
            round(100, 110, 100),
            round(100, 110, 100),
            round(250, 275, 250),
        ];
        let comparison = Comparison {
            rounds,
            told_apart: true,
            tick: tick(),
        };
        assert_eq!(comparison.headline(), Class::Siblings);
    }
}
