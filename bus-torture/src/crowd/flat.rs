//! Whether memory and descriptors stay what they were.
//!
//! Some processes, the *anchors*, are there from the beginning to the end, and nothing is done to them. Now and then there is a lull: nobody else
//! is there.
//!
//! *Descriptors, segments and threads* of an anchor are compared at lulls, when the same handles are open as at the first one: they are the same.
//! Those of the broker may differ by the rings that topics retain of publishers that have ended. *Memory* is compared over the second half of all lulls: the slope
//! of the straight line that fits it best.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::company::Company;
use super::vitals::{Growth, Vitals};

/// How long it may take until those who have left are forgotten.
const SETTLING: Duration = Duration::from_secs(5);
/// How often to look meanwhile.
const AGAIN: Duration = Duration::from_millis(20);
/// For how long nothing may change at the first lull. Threads of the broker that close what clients sent end after a
/// second without any work.
const STEADY: Duration = Duration::from_millis(1500);
/// How often to look at memory between lulls.
const GLANCE: Duration = Duration::from_secs(1);
/// Descriptors of rings that the topics of a run retain, each with its publisher's doorbell: two of one topic, four of a state and of its keys.
const RETAINED: u64 = 2 * (2 + 4 + 4);
/// Growth over half of a run that is noise, in KiB: what an allocator keeps of one page more or less a thread.
const NOISE: f64 = 1024.0;
/// The number under which the broker is kept here; no member has it.
const BROKER: u32 = 0;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Flat {
    first: BTreeMap<u32, Vitals>,
    growth: BTreeMap<u32, Growth>,
    most: BTreeMap<u32, Vitals>,
    glanced: Option<Instant>,
}

fn pids(all: &Company, anchors: &[u32]) -> Vec<(u32, u32)> {
    let anchors = anchors.iter().filter_map(|number| {
        let member = all.member(*number)?;
        Some((*number, member.pid()))
    });
    let broker = all.broker().map(|pid| (BROKER, pid));
    anchors.chain(broker).collect()
}

/// Whether it is what it was.
fn same(number: u32, first: &Vitals, now: &Vitals) -> bool {
    let of = |v: &Vitals| [v.descriptors, v.segments, v.threads];
    if number == BROKER {
        now.descriptors <= first.descriptors + RETAINED && now.threads == first.threads
    } else {
        of(first) == of(now)
    }
}

impl Flat {
    /// Between lulls: the most that anybody takes.
    pub fn glance(&mut self, all: &Company, anchors: &[u32]) -> Result<()> {
        if self.glanced.is_some_and(|at| at.elapsed() < GLANCE) {
            return Ok(());
        }
        self.glanced = Some(Instant::now());
        for (number, pid) in pids(all, anchors) {
            // A broker may just be going.
            if let Ok(now) = Vitals::of(pid) {
                self.enter(number, &now);
            }
        }
        Ok(())
    }

    fn enter(&mut self, number: u32, now: &Vitals) {
        let most = self.most.entry(number).or_default();
        most.resident = most.resident.max(now.resident);
        most.descriptors = most.descriptors.max(now.descriptors);
        most.segments = most.segments.max(now.segments);
        most.threads = most.threads.max(now.threads);
    }

    /// In a lull. The first one says what it has to be.
    pub fn look(&mut self, all: &mut Company, anchors: &[u32], at: Duration) -> Result<()> {
        let pids = pids(all, anchors);
        if self.first.is_empty() {
            self.first = steady(&pids)?;
        }
        for (number, pid) in pids {
            let deadline = Instant::now() + SETTLING;
            let mut now = Vitals::of(pid)?;
            let first = self.first.entry(number).or_insert(now);
            while !same(number, first, &now) && Instant::now() < deadline {
                thread::sleep(AGAIN);
                now = Vitals::of(pid)?;
            }
            if !same(number, first, &now) {
                let what = format!(
                    "{} has {now:?} in a lull, it had {first:?} in the first one",
                    name(all, number)
                );
                all.outcome().violation(what);
            }
            self.enter(number, &now);
            let growth = self.growth.entry(number).or_default();
            growth.enter(at.as_secs_f64(), now.resident);
        }
        Ok(())
    }

    /// Whether memory grew.
    pub fn conclude(&self, all: &mut Company) {
        let mut steepest = (0.0, String::new());
        for (number, growth) in &self.growth {
            let Some((grown, mean)) = growth.second_half() else {
                continue;
            };
            let name = name(all, *number);
            if grown > steepest.0 {
                steepest = (grown, name.clone());
            }
            if grown > NOISE {
                all.outcome().violation(format!(
                    "{name}: its memory grew by {grown:.0} KiB over the second half of the run, on {mean:.0} KiB; up to {NOISE} is noise"
                ));
            }
        }
        let lulls = self.growth.values().map(Growth::looks).max().unwrap_or(0);
        let (grown, whose) = steepest;
        let mut most = Vitals::default();
        for (number, vitals) in &self.most {
            if *number == BROKER {
                let outcome = all.outcome();
                outcome.number("broker.most_resident_kib", vitals.resident as f64);
                outcome.number("broker.most_descriptors", vitals.descriptors as f64);
            } else {
                most.resident = most.resident.max(vitals.resident);
                most.descriptors = most.descriptors.max(vitals.descriptors);
            }
        }
        let outcome = all.outcome();
        outcome.number("anchors.most_resident_kib", most.resident as f64);
        outcome.number("anchors.most_descriptors", most.descriptors as f64);
        outcome.number("memory.grown_kib", grown);
        outcome.note(format!(
            "Flat: at {lulls} lulls every process that was there from the beginning had as many descriptors, segments and threads as at the first; \
             its memory grew by {grown:.0} KiB at most over the second half ({whose}), where {NOISE} KiB are noise."
        ));
    }
}

/// What they have when that has not changed for a while: whatever was still going on is over soon. One that never stands still is found out at
/// the next lull.
fn steady(pids: &[(u32, u32)]) -> Result<BTreeMap<u32, Vitals>> {
    let all = || -> Result<BTreeMap<u32, Vitals>> {
        pids.iter()
            .map(|(number, pid)| Ok((*number, Vitals::of(*pid)?)))
            .collect()
    };
    let mut last = all()?;
    let mut since = Instant::now();
    let deadline = since + SETTLING;
    while since.elapsed() < STEADY && Instant::now() < deadline {
        thread::sleep(AGAIN);
        let now = all()?;
        if now
            .iter()
            .any(|(number, now)| !same(u32::MAX, &last[number], now))
        {
            since = Instant::now();
        }
        last = now;
    }
    Ok(last)
}

fn name(all: &Company, number: u32) -> String {
    match all.member(number) {
        _ if number == BROKER => "the broker".to_owned(),
        Some(member) => member.name().to_owned(),
        None => format!("process {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_descriptor_more_is_one_too_many() {
        let first = Vitals {
            descriptors: 9,
            ..Vitals::default()
        };
        let more = |more| Vitals {
            descriptors: 9 + more,
            ..first
        };
        assert!(same(7, &first, &first) && same(BROKER, &first, &more(RETAINED)));
        assert!(!same(7, &first, &more(1)) && !same(7, &more(1), &first));
        assert!(!same(BROKER, &first, &more(RETAINED + 1)));
    }
}
