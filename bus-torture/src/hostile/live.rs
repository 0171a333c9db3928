//! The live lane: honest processes at work, and a hostile one among them.
//!
//! On a topic of each delivery: two senders and two readers. The hostile process writes for a while; then it stays and writes nothing, and the
//! others, who have nothing to do, must sleep; then it is killed, and the others go on and come to the same end. All the while each honest message
//! must be right, in order and complete, and where the topic waits for nobody, the readers must get on.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::honest::{self, Kind, READER, SENDER};
use super::liar;
use crate::budget::Budget;
use crate::crowd::broker::{self, LISTENING};
use crate::crowd::vitals::Vitals;
use crate::outcome::Outcome;
use crate::process::Worker;
use crate::progress::Progress;

/// Kinds of topics.
const KINDS: [Kind; 4] = [Kind::Lossy, Kind::Evict, Kind::Fail, Kind::Wait];
/// How long a hostile process writes where nobody says.
const EACH: Duration = Duration::from_secs(3);
/// How long honest ones may take for what is to happen at once, on a busy machine.
const BOUND: Duration = Duration::from_secs(20);
/// How long processor time is looked at, and how much of it sleepers may take: they look around now and then.
const QUIET: Duration = Duration::from_millis(500);
/// Memory by which an honest process may grow, in KiB.
const GROWTH: u64 = 16 << 10;
/// Senders of a topic, and readers.
const PAIRS: u64 = 2;

/// Runs the live lane.
///
/// # Errors
/// A process cannot be started.
pub fn run(budget: &Budget, broken: bool) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let dir = tempfile::tempdir().context("making a directory for the socket")?;
    let socket = dir.path().join("bus.sock");
    let given = broker::Given {
        socket: socket.clone(),
    };
    let mut broker = Worker::start(broker::ROLE, &given)?;
    broker.expect(LISTENING)?;
    let progress = Progress::new("live", None);
    let share = |left: usize| {
        let rest = budget
            .time()
            .map(|time| time.saturating_sub(budget.elapsed()));
        // What comes after the writing takes its time as well.
        rest.map_or(EACH, |rest| rest.mul_f64(0.6) / left as u32)
    };
    for (number, kind) in KINDS.into_iter().enumerate() {
        progress.now(format!("live, {kind:?}"));
        let seed = budget.random(number as u64).u64(..);
        let time = share(KINDS.len() - number);
        if let Err(error) = one(&socket, kind, seed, time, broken, &mut outcome) {
            let seed = budget.seed();
            outcome.violation(format!(
                "live, {kind:?}: {error:#}; again: bus-torture hostile --lane live --seed {seed}"
            ));
        }
        ensure!(broker.ended().is_none(), "the broker ended");
    }
    Ok(outcome)
}

/// One topic.
fn one(
    socket: &Path,
    kind: Kind,
    seed: u64,
    time: Duration,
    broken: bool,
    outcome: &mut Outcome,
) -> Result<()> {
    let topic = format!("live/{kind:?}").to_lowercase();
    let mut stage = Stage::new(socket, &topic, kind, broken)?;
    stage.get_on().context("before anybody lies")?;
    let before = stage.vitals()?;
    let mut liar = Worker::start(
        liar::ROLE,
        &liar::Given {
            socket: socket.to_owned(),
            topic,
            kind,
            seed,
        },
    )?;
    liar.expect("written 0 0")?;
    let end = Instant::now() + time;
    let (mut written, mut looked) = (0, 0);
    while Instant::now() < end || looked == 0 {
        ensure!(
            Instant::now() < end + BOUND,
            "nobody looks at what the hostile process writes"
        );
        if kind == Kind::Wait {
            // Its hostile subscriber may hold everybody up.
            stage.listen(QUIET)?;
        } else {
            stage.get_on().context("while a peer lies")?;
        }
        while let Some(line) = liar.overhear() {
            (written, looked) = counts(&line).unwrap_or((written, looked));
        }
        ensure!(
            liar.ended().is_none(),
            "the hostile process ended by itself"
        );
    }
    let after = stage.vitals()?;
    liar.tell("stop");
    loop {
        let line = liar.hear(BOUND)?.context("the hostile process ended")?;
        if line.starts_with("frozen") {
            (written, looked) = counts(&line).unwrap_or((written, looked));
            break;
        }
    }
    let totals = stage.pause()?;
    stage.sleeps().context("nobody writes")?;
    liar.kill();
    stage
        .ends_with(&totals)
        .context("the hostile process is dead")?;
    stage.go_on();
    stage.get_on().context("the hostile process is dead")?;
    let totals = stage.pause()?;
    stage.ends_with(&totals)?;
    for (was, is) in before.iter().zip(&after) {
        ensure!(
            is.resident <= was.resident + GROWTH,
            "an honest process has {} KiB, and had {}",
            is.resident,
            was.resident
        );
    }
    let name = format!("live.{kind:?}").to_lowercase();
    outcome.tried(looked);
    outcome.count("live.written", written);
    outcome.count("live.mutations", looked);
    outcome.count(format!("{name}.honest_messages"), stage.honest());
    outcome.count(format!("{name}.hostile_messages"), stage.foreign());
    outcome.count("live.readers_evicted", stage.evicted());
    Ok(())
}

/// The last two numbers of a line.
fn counts(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split(' ').skip(1).map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// The honest processes of a topic, and what they have said.
struct Stage {
    senders: Vec<Worker>,
    readers: Vec<Worker>,
    /// Of each reader: honest messages, foreign ones, whether it was evicted.
    at: Vec<[u64; 3]>,
}

impl Stage {
    fn new(socket: &Path, topic: &str, kind: Kind, broken: bool) -> Result<Self> {
        let start = |role, salt| {
            let given = honest::Given {
                socket: socket.to_owned(),
                topic: topic.to_owned(),
                kind,
                salt,
                broken,
            };
            let mut worker = Worker::start(role, &given)?;
            worker.expect("ready")?;
            Ok(worker)
        };
        let readers: Result<Vec<_>> = (0..PAIRS).map(|_| start(READER, 0)).collect();
        let senders: Result<Vec<_>> = (1..=PAIRS).map(|salt| start(SENDER, salt)).collect();
        Ok(Self {
            senders: senders?,
            readers: readers?,
            at: vec![[0; 3]; PAIRS as usize],
        })
    }

    /// Hears what there is.
    fn hear(&mut self) -> Result<()> {
        for (reader, at) in self.readers.iter_mut().zip(&mut self.at) {
            while let Some(line) = reader.overhear() {
                take_in(&line, at)?;
            }
            ensure!(reader.ended().is_none(), "an honest reader ended");
        }
        for sender in &mut self.senders {
            while let Some(line) = sender.overhear() {
                take_in(&line, &mut [0; 3])?;
            }
            ensure!(sender.ended().is_none(), "an honest sender ended");
        }
        Ok(())
    }

    fn listen(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.hear()?;
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Each reader that takes part receives something that honest publishers sent.
    fn get_on(&mut self) -> Result<()> {
        let was: Vec<_> = self.at.iter().map(|at| at[0]).collect();
        let deadline = Instant::now() + BOUND;
        loop {
            self.hear()?;
            let mut readers = self.at.iter().zip(&was);
            if readers.all(|(at, was)| at[0] > *was || at[2] > 0) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "an honest reader received nothing honest for {BOUND:?}"
            );
            sleep(Duration::from_millis(5));
        }
    }

    /// The senders send nothing more for now; how much each has sent.
    fn pause(&mut self) -> Result<HashMap<u64, u64>> {
        let mut totals = HashMap::new();
        for (salt, sender) in (1..).zip(&mut self.senders) {
            sender.tell("pause");
            loop {
                let line = sender.hear(BOUND)?.context("an honest sender ended")?;
                if let Some(total) = line.strip_prefix("total ") {
                    totals.insert(salt, total.parse()?);
                    break;
                }
                take_in(&line, &mut [0; 3])?;
            }
        }
        Ok(totals)
    }

    fn go_on(&mut self) {
        for sender in &mut self.senders {
            sender.tell("go");
        }
    }

    /// Every reader comes to the end of what was sent.
    fn ends_with(&mut self, totals: &HashMap<u64, u64>) -> Result<()> {
        let deadline = Instant::now() + BOUND;
        for (reader, at) in self.readers.iter_mut().zip(&mut self.at) {
            loop {
                reader.tell("where");
                let there = loop {
                    let line = reader.hear(BOUND)?.context("an honest reader ended")?;
                    match line.strip_prefix("there ") {
                        Some(there) => break serde_json::from_str::<HashMap<u64, u64>>(there)?,
                        None => take_in(&line, at)?,
                    }
                };
                if there == *totals || at[2] > 0 {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "an honest reader has received {there:?}, and {totals:?} were sent"
                );
                sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Nobody has anything to do, and everybody sleeps. What was sent before is received first.
    fn sleeps(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOUND;
        loop {
            let pids: Vec<_> = self.readers.iter().map(Worker::pid).collect();
            let times =
                || -> Result<Vec<_>> { pids.iter().map(|pid| processor_time(*pid)).collect() };
            let before = times()?;
            sleep(QUIET);
            let after = times()?;
            let busiest = before
                .iter()
                .zip(&after)
                .map(|(b, a)| a.saturating_sub(*b))
                .max();
            let busiest = busiest.unwrap_or_default();
            self.hear()?;
            if busiest < QUIET / 5 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("an honest reader takes {busiest:?} of processor time in {QUIET:?}");
            }
        }
    }

    fn vitals(&self) -> Result<Vec<Vitals>> {
        let all = self.readers.iter().chain(&self.senders);
        all.map(|worker| Vitals::of(worker.pid())).collect()
    }

    fn honest(&self) -> u64 {
        self.at.iter().map(|at| at[0]).sum()
    }

    fn foreign(&self) -> u64 {
        self.at.iter().map(|at| at[1]).sum()
    }

    fn evicted(&self) -> u64 {
        self.at.iter().map(|at| at[2]).sum()
    }
}

/// What an honest process says: how far it is, or what is wrong.
fn take_in(line: &str, at: &mut [u64; 3]) -> Result<()> {
    if let Some(why) = line.strip_prefix("violated ") {
        bail!("{why}");
    }
    let numbers = line.split(' ').skip(1);
    for (place, number) in at.iter_mut().zip(numbers) {
        *place = number.parse().unwrap_or(*place);
    }
    Ok(())
}

fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).context("its schedstat")?;
    let nanos = stat.split(' ').next().and_then(|n| n.parse().ok());
    Ok(Duration::from_nanos(nanos.context("no schedstat")?))
}
