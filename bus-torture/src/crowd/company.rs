//! All processes of a run, on a bus of its own: who is there, who is to go, and what they say, entered in the books.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::books::Books;
use super::broker;
use super::member::Member;
use super::said::{Said, Told};
use super::states;
use crate::outcome::Outcome;
use crate::process::{PATIENCE, Worker};

/// How often to look whether something was said.
const LOOK: Duration = Duration::from_micros(200);

/// Who is stopped for less than this comes back in time to a broker that was started meanwhile.
const LATE: Duration = Duration::from_millis(1500);

/// The processes of a run.
#[derive(Debug)]
pub struct Company {
    dir: tempfile::TempDir,
    /// Whether members host a broker where there is none.
    pub(super) embedded: bool,
    broker: Option<Worker>,
    broker_stopped: bool,
    pub(super) members: BTreeMap<u32, Member>,
    pub(super) number: u32,
    pub(super) random: fastrand::Rng,
    pub(super) books: Books,
    /// Evictions of those who are gone.
    evicted: u64,
    /// The last value that a writer which has left had set.
    last_value: Option<(u32, u64)>,
    pub(super) outcome: Outcome,
}

impl Company {
    /// Nobody, not even a broker.
    ///
    /// # Errors
    /// There is no room for temporary files.
    pub fn new(random: fastrand::Rng, embedded: bool) -> Result<Self> {
        let mut books = Books::default();
        // The host is a member like any other, and may be killed.
        if embedded {
            books.broker_ends();
        }
        Ok(Self {
            dir: tempfile::tempdir().context("making a place for the bus")?,
            embedded,
            broker: None,
            broker_stopped: false,
            members: BTreeMap::new(),
            number: 0,
            random,
            books,
            evicted: 0,
            last_value: None,
            outcome: Outcome::default(),
        })
    }

    /// The broker's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("bus.sock")
    }

    /// Where the broker's socket is, and what else it may keep.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.dir.path()
    }

    /// What came of it so far.
    pub fn outcome(&mut self) -> &mut Outcome {
        &mut self.outcome
    }

    /// The books.
    #[must_use]
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// The process with this number, while it is there.
    #[must_use]
    pub fn member(&self, number: u32) -> Option<&Member> {
        self.members.get(&number)
    }

    /// The same, to be changed.
    pub fn member_mut(&mut self, number: u32) -> Option<&mut Member> {
        self.members.get_mut(&number)
    }

    /// Everybody.
    pub fn members(&self) -> impl Iterator<Item = (u32, &Member)> {
        self.members
            .iter()
            .map(|(number, member)| (*number, member))
    }

    /// The broker's process, where it is one of its own.
    #[must_use]
    pub fn broker(&self) -> Option<u32> {
        self.broker.as_ref().map(Worker::pid)
    }

    /// Starts a broker, and waits until it listens.
    ///
    /// # Errors
    /// It does not.
    pub fn start_broker(&mut self) -> Result<()> {
        let socket = self.socket();
        let mut worker = Worker::start(broker::ROLE, &broker::Given { socket })?;
        worker.expect(broker::LISTENING)?;
        self.broker = Some(worker);
        Ok(())
    }

    /// Ends the broker: with `kill -9`, or cleanly.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub fn end_broker(&mut self, kill: bool) -> Result<()> {
        self.books.broker_ends();
        self.let_broker_go_on();
        let Some(mut worker) = self.broker.take() else {
            return Ok(());
        };
        if kill {
            worker.kill();
            return Ok(());
        }
        worker.signal(Signal::SIGTERM);
        let status = worker.end(PATIENCE)?;
        if !status.success() {
            bail!("the broker ended with {status}");
        }
        Ok(())
    }

    /// Stops the broker's process.
    pub fn stop_broker(&mut self) {
        if let Some(broker) = &self.broker {
            broker.signal(Signal::SIGSTOP);
            self.broker_stopped = true;
        }
    }

    /// Lets the broker's process go on.
    pub fn let_broker_go_on(&mut self) {
        if let Some(broker) = &self.broker
            && self.broker_stopped
        {
            broker.signal(Signal::SIGCONT);
            self.broker_stopped = false;
        }
    }

    /// Tells a process something, if it is there.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn tell(&mut self, number: u32, told: Told) -> Result<()> {
        match self.members.get_mut(&number) {
            Some(member) => member.tell(told),
            None => Ok(()),
        }
    }

    /// `kill -9`. What it had said before is still heard.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn kill(&mut self, number: u32) -> Result<()> {
        if let Some(member) = self.members.get_mut(&number) {
            member.kill();
            self.hear(number, true)?;
            self.part(number);
        }
        Ok(())
    }

    /// It is gone: nothing is heard of it any more.
    fn part(&mut self, number: u32) {
        if let Some(member) = self.members.remove(&number) {
            self.evicted += member.evictions();
            if member.left() && member.name().starts_with(states::WRITER) {
                self.last_value = self.last_value.max(member.value());
            }
        }
        self.books.gone(number);
    }

    /// Enters what this process has said; with `all`, until its output ends.
    fn hear(&mut self, number: u32, all: bool) -> Result<bool> {
        let mut heard = false;
        while let Some(member) = self.members.get_mut(&number) {
            let said = if all { member.last() } else { member.hear() };
            let Some(said) = said else {
                break;
            };
            heard = true;
            self.books.enter(number, &said);
            if let Said::Unusable { why } = &said {
                let stop = member.longest_stop();
                if stop < LATE {
                    let what = format!(
                        "{} is of no use any more, though it was stopped for {stop:?} at most: {why}",
                        member.name()
                    );
                    self.outcome.violation(what);
                } else {
                    self.outcome.count("came_back_too_late", 1);
                }
            }
            if said == Said::Evicted {
                let stop = member.longest_stop();
                if stop < super::topic::PATIENCE / 2 {
                    let what = format!(
                        "{} was evicted, though it was stopped for {stop:?} at most",
                        member.name()
                    );
                    self.outcome.violation(what);
                }
            }
        }
        Ok(heard)
    }

    /// Takes in what everybody has said, and who has ended; whether there was something.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn pump(&mut self) -> Result<bool> {
        let mut heard = false;
        let numbers: Vec<u32> = self.members.keys().copied().collect();
        for number in numbers {
            // First whether it has ended: then everything that it said is there.
            let ended = self.members.get_mut(&number).and_then(Member::ended);
            heard |= self.hear(number, ended.is_some())?;
            if let Some(complaint) = ended {
                let left = self.members.get(&number).is_some_and(Member::left);
                if let Some(what) = complaint
                    && !left
                {
                    self.outcome.violation(what);
                }
                self.part(number);
            }
        }
        if let Some(broker) = &mut self.broker
            && let Some(status) = broker.ended()
        {
            self.outcome
                .violation(format!("the broker ended with {status}, unasked"));
            self.broker = None;
        }
        for wrong in self.books.wrongs() {
            self.outcome.violation(wrong);
        }
        Ok(heard)
    }

    /// Listens until something is so; whether it was, before the time was over.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn until(&mut self, time: Duration, so: impl Fn(&Self) -> bool) -> Result<bool> {
        let deadline = Instant::now() + time;
        loop {
            let heard = self.pump()?;
            if so(self) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            if !heard {
                thread::sleep(LOOK);
            }
        }
    }

    /// As [`until`](Self::until), where it is a violation if it is not so in time.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn must(&mut self, time: Duration, what: &str, so: impl Fn(&Self) -> bool) -> Result<bool> {
        let is = self.until(time, so)?;
        if !is {
            self.outcome
                .violation(format!("within {time:?} it did not come true that {what}"));
        }
        Ok(is)
    }

    /// Waits until this process has a handle.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn joined(&mut self, number: u32) -> Result<bool> {
        let name = self.members.get(&number).map(|m| m.name().to_owned());
        let what = format!("{} has joined", name.unwrap_or_default());
        self.must(PATIENCE, &what, |all| {
            all.member(number).is_none_or(Member::present)
        })
    }

    /// Times that somebody was evicted.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evicted + self.members.values().map(Member::evictions).sum::<u64>()
    }

    /// The last value of the state, where its writer said that it was the last one and left.
    #[must_use]
    pub fn last_value(&self) -> Option<(u32, u64)> {
        self.last_value
    }

    /// Lets everybody go on who is stopped.
    pub fn all_go_on(&mut self) {
        self.let_broker_go_on();
        self.members.values_mut().for_each(Member::go_on);
    }

    /// Waits until nobody is owed anything by those who are over; what is still owed then is a violation.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn settle(&mut self, time: Duration) -> Result<()> {
        if !self.until(time, |all| all.books.owed().is_empty())? {
            for owed in self.books.owed() {
                self.outcome.violation(format!("after {time:?}: {owed}"));
            }
        }
        self.books.close();
        Ok(())
    }

    /// Lets the publishers end, then, when all have seen that, the readers; and counts.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn finish(mut self) -> Result<Outcome> {
        self.all_go_on();
        // Where something is wrong already, who waits for what does not come is not news.
        let patience = if self.outcome.violated() > 0 {
            Duration::from_secs(1)
        } else {
            PATIENCE
        };
        let is_sender = |name: &str| name.starts_with("sender") || name.starts_with(states::WRITER);
        for senders in [true, false] {
            for member in self.members.values_mut() {
                if is_sender(member.name()) == senders && !member.leaving() {
                    member.tell(Told::Leave)?;
                }
            }
            self.must(patience, "all who were told to leave have left", |all| {
                all.members.values().all(|member| !member.leaving())
            })?;
            if senders {
                self.settle(patience)?;
            }
        }
        let sums = self.books.sums;
        let evicted = self.evictions();
        let mut outcome = self.outcome;
        outcome.count("messages_sent", sums.sent);
        outcome.count("messages_received", sums.received);
        outcome.count("bytes_received", sums.bytes);
        outcome.count("messages_lost_and_said_so", sums.lost);
        outcome.count("ends_seen", sums.ends);
        outcome.count("joins", sums.joins);
        outcome.count("joins_tried_again", sums.again);
        outcome.count("evictions", evicted);
        outcome.count("sends_without_room", sums.full);
        outcome.number("longest_join_ms", sums.longest_join as f64 / 1e6);
        Ok(outcome)
    }
}
