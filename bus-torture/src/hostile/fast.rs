//! The fast lane: millions of mutations a second, in one process, against the library's own code over real segments.
//!
//! An *episode* is a topic with settings by chance. Each of its rounds writes some words, and then lets the honest ends look: the publisher looks
//! at all cursors and publishes, the subscriber receives. Now and then nobody writes, and then the honest ends must come to rest, and go on. One
//! episode of eight is a *race*: another thread writes all the while.
//!
//! It runs in a process of its own, so that a fault there is a finding and not the end of the run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use std::{fs, thread};

use anyhow::{Context, Result, anyhow, ensure};
use bus_core::publish::to_bytes;
use bus_core::schema::Nesting;
use clap::ValueEnum;
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::ground::{Ground, Hostile};
use super::witness::{Plain, Value, Witness};
use crate::budget::Budget;

/// Rounds of an episode.
const ROUNDS: u64 = 1024;
/// Rounds between two times at which nobody writes.
const REST: u64 = 32;
/// Most words that are written before somebody looks.
const WORDS: u64 = 24;
/// Words that a race writes before it waits for a look.
const BURST: usize = 16;
/// Bytes that the process may grow by once it is warm.
const GROWTH: u64 = 32 << 20;
/// Episodes until it is warm.
const WARM: u64 = 24;

/// What the fast lane is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Decides all choices.
    pub seed: u64,
    /// The first episode.
    pub first: u64,
    /// From one episode to the next, where several processes share them.
    pub step: u64,
    /// Stop after so many mutations.
    pub mutations: Option<u64>,
    /// Stop after so many episodes.
    pub episodes: Option<u64>,
    /// Stop after so many seconds.
    pub seconds: Option<f64>,
    /// What the honest side does wrong, to show that it is noticed.
    pub broken: Option<Broken>,
}

/// What an honest side that is no such thing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Broken {
    /// The publisher writes over a message after it was committed.
    Content,
    /// The subscriber overlooks a message.
    Order,
    /// The publisher stops.
    Stall,
    /// The process dies.
    Crash,
    /// The process says nothing more.
    Hang,
    /// The process takes memory and keeps it.
    Growth,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Words written, and each followed by a look.
    pub mutations: u64,
    /// Times that an honest end looked.
    pub looks: u64,
    /// Episodes.
    pub episodes: u64,
    /// Honest messages received and right.
    pub right: u64,
    /// Messages and errors of hostile rings.
    pub hostile: u64,
    /// Values of hostile rings that passed validation, and were read.
    pub valid: u64,
    /// Times that nobody wrote, and the honest ends came to rest and went on.
    pub rests: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.mutations += other.mutations;
        self.looks += other.looks;
        self.episodes += other.episodes;
        self.right += other.right;
        self.hostile += other.hostile;
        self.valid += other.valid;
        self.rests += other.rests;
    }
}

/// Runs episodes until the plan is done, and tells of each.
///
/// # Errors
/// A promise did not hold: which, and the seed, the episode and the round.
pub fn run(plan: &Plan, mut told: impl FnMut(Tally)) -> Result<Tally> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut warm = None;
    loop {
        let number = plan.first + tally.episodes * plan.step;
        let over = plan.mutations.is_some_and(|most| tally.mutations >= most)
            || plan.episodes.is_some_and(|most| tally.episodes >= most)
            || plan
                .seconds
                .is_some_and(|most| start.elapsed().as_secs_f64() >= most);
        if over {
            return Ok(tally);
        }
        let mut round = 0;
        let caught = catch_unwind(AssertUnwindSafe(|| episode(plan, number, &mut round)));
        let done = caught.unwrap_or_else(|_| Err(anyhow!("somebody panicked")));
        let done = done.with_context(|| {
            format!(
                "episode {number}, round {round}; again: bus-torture hostile --lane fast --seed {} --episode {number}",
                plan.seed
            )
        })?;
        tally.add(done);
        told(tally);
        let resident = resident()?;
        if tally.episodes == WARM {
            warm = Some(resident);
        }
        let limit = warm.map_or(u64::MAX, |warm| warm + GROWTH);
        ensure!(
            resident <= limit,
            "an honest process grew from {} to {resident} bytes in {} episodes (seed {})",
            limit - GROWTH,
            tally.episodes,
            plan.seed
        );
    }
}

fn episode(plan: &Plan, number: u64, round: &mut u64) -> Result<Tally> {
    let mut random = Budget::new(None, Some(plan.seed)).random(number);
    let (ground, subscriber) = Ground::new(&mut random)?;
    let race = number % 8 == 7;
    let mut episode = Episode {
        witness: Witness::new(&subscriber, &ground)?,
        hostile: Arc::clone(&ground.hostile),
        ground,
        random,
        buffer: Vec::new(),
        values: values()?,
        tally: Tally {
            episodes: 1,
            ..Tally::default()
        },
        broken: plan.broken,
    };
    if race {
        episode.race(round)?;
    } else {
        episode.turns(round)?;
    }
    episode.tally.right = episode.witness.right;
    episode.tally.hostile = episode.witness.hostile;
    episode.tally.valid = episode.witness.valid;
    Ok(episode.tally)
}

/// Values that a hostile publisher starts from, as bytes.
fn values() -> Result<[Vec<u8>; 2]> {
    let plain: Plain = (1, [2, 3, 4, 5], u64::MAX);
    let value: Value = (7, Some("nine bytes".into()), vec![(true, "a".into())]);
    Ok([
        to_bytes(&plain, 1 << 12, Nesting::OfType)?.to_vec(),
        to_bytes(&value, 1 << 12, Nesting::OfType)?.to_vec(),
    ])
}

struct Episode<'a> {
    ground: Ground,
    witness: Witness<'a>,
    hostile: Arc<Hostile>,
    random: Rng,
    buffer: Vec<u8>,
    values: [Vec<u8>; 2],
    tally: Tally,
    broken: Option<Broken>,
}

impl Episode<'_> {
    /// Writes, then looks, then writes again.
    fn turns(&mut self, round: &mut u64) -> Result<()> {
        for number in 0..ROUNDS {
            *round = number;
            let words = self.random.u64(1..=WORDS);
            let (expects, head) = (self.witness.expects(), self.ground.publisher.head());
            if self.random.u8(..4) == 0 {
                self.send_value(expects);
            }
            for _ in 0..words {
                self.hostile.scribble(&mut self.random, expects, head);
            }
            self.look()?;
            self.tally.mutations += words;
            if number % REST == REST - 1 {
                self.rest()?;
            }
        }
        Ok(())
    }

    /// Looks, while another thread writes.
    fn race(&mut self, round: &mut u64) -> Result<()> {
        let over = AtomicBool::new(false);
        let (aim, looks, written) = (
            [AtomicUsize::new(0), AtomicUsize::new(0)],
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        for part in 0..ROUNDS / REST {
            *round = part * REST;
            // ORDERING: none of these orders anything: they are flags and counts, and where the other thread aims.
            over.store(false, Ordering::Relaxed);
            let (hostile, seed) = (Arc::clone(&self.hostile), self.random.u64(..));
            thread::scope(|scope| {
                let scribbler =
                    scope.spawn(|| scribble(&hostile, seed, &over, &aim, &looks, &written));
                let raced = self.race_part(&aim, &looks);
                // ORDERING: see above.
                over.store(true, Ordering::Relaxed);
                scribbler
                    .join()
                    .map_err(|_| anyhow!("the scribbler panicked"))?;
                raced
            })?;
            self.rest()?;
        }
        // ORDERING: the threads are joined.
        self.tally.mutations += written.load(Ordering::Relaxed) as u64;
        Ok(())
    }

    fn race_part(&mut self, aim: &[AtomicUsize; 2], looks: &AtomicUsize) -> Result<()> {
        for _ in 0..REST {
            // ORDERING: see `race`.
            aim[0].store(self.witness.expects() as usize, Ordering::Relaxed);
            aim[1].store(self.ground.publisher.head() as usize, Ordering::Relaxed);
            self.look()?;
            looks.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A message that would be a value, if it were left alone.
    fn send_value(&mut self, sequence: u64) {
        let which = self.random.usize(..2);
        let bytes = &self.values[which];
        if bytes.len() as u64 <= self.ground.settings.inline() {
            self.hostile.publish(sequence, bytes);
            if self.random.bool() {
                self.hostile.deface(&mut self.random, sequence);
                self.tally.mutations += 1;
            }
        }
    }

    /// Both honest ends look, and do what they find to do.
    fn look(&mut self) -> Result<()> {
        self.ground.look();
        for _ in 0..self.random.u8(1..4) {
            self.publish()?;
        }
        for _ in 0..self.random.u8(1..5) {
            self.witness.receive(&mut self.random, &self.ground)?;
        }
        self.witness.check_kept()?;
        self.tally.looks += 2;
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        let head = self.ground.publisher.head();
        match self.broken {
            Some(Broken::Order) if head >= 100 => self.witness.overlook(),
            Some(Broken::Content) if head >= 100 => self.ground.salt ^= 1,
            Some(Broken::Crash) if head >= 100 => std::process::abort(),
            Some(Broken::Hang) if head >= 100 => loop {
                thread::park();
            },
            Some(Broken::Stall) if head >= 100 => self.ground.stalled = true,
            Some(Broken::Growth) => std::mem::forget(vec![1_u8; 2_000]),
            _ => {}
        }
        self.ground.publish(&mut self.buffer).map(drop)
    }

    /// Nobody writes: both honest ends come to rest, and go on from there.
    fn rest(&mut self) -> Result<()> {
        self.witness.settle(&mut self.random, &self.ground)?;
        if self.ground.has_evicted_witness() {
            // It did not keep up: that is the topic's rule. Nothing more is to be checked about it.
            return self.ground.come_back();
        }
        ensure!(
            self.witness.has_all_before(self.ground.publisher.head())
                || self.ground.publisher.nowhere() > 0,
            "an honest subscriber has come to rest and not received everything"
        );
        self.ground.must_go_on(&mut self.buffer)?;
        self.witness.settle(&mut self.random, &self.ground)?;
        self.ground.come_back()?;
        self.tally.rests += 1;
        Ok(())
    }
}

/// Writes until it is over; waits for a look after each burst.
fn scribble(
    hostile: &Hostile,
    seed: u64,
    over: &AtomicBool,
    aim: &[AtomicUsize; 2],
    looks: &AtomicUsize,
    written: &AtomicUsize,
) {
    let mut random = Rng::with_seed(seed);
    // ORDERING: see `Episode::race`.
    let now = |word: &AtomicUsize| word.load(Ordering::Relaxed);
    loop {
        let seen = now(looks);
        for _ in 0..BURST {
            hostile.scribble(&mut random, now(&aim[0]) as u64, now(&aim[1]) as u64);
        }
        while now(looks) == seen {
            // ORDERING: see `Episode::race`.
            if over.load(Ordering::Relaxed) {
                return;
            }
            std::hint::spin_loop();
        }
        // ORDERING: see `Episode::race`.
        written.fetch_add(BURST, Ordering::Relaxed);
    }
}

/// Bytes of this process that are in memory.
fn resident() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm").context("reading /proc/self/statm")?;
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    Ok(pages.context("/proc/self/statm makes no sense")? * 4096)
}
