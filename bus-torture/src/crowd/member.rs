//! The run's side of a process of the crowd.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::said::{Said, Told};
use crate::process::Worker;

/// A process of the crowd.
#[derive(Debug)]
pub struct Member {
    worker: Worker,
    name: String,
    /// It has a handle.
    joined: bool,
    /// It was told to leave.
    leaving: bool,
    /// It said that this was its last word.
    left: bool,
    /// Since when it is stopped, if it is.
    stopped: Option<Instant>,
    /// Longest that it was stopped since it joined.
    longest_stop: Duration,
    /// What it answered last.
    at: Option<u64>,
    hosts: bool,
    peers: Option<Vec<String>>,
    value: Option<(u32, u64)>,
    /// Times that it was evicted.
    evicted: u64,
    /// Why its handle is of no use any more, if so.
    unusable: Option<String>,
    /// Longest time between two messages of one publisher, in nanoseconds.
    pause: u64,
}

impl Member {
    /// A process that was just started.
    #[must_use]
    pub fn new(worker: Worker, name: String) -> Self {
        Self {
            worker,
            name,
            joined: false,
            leaving: false,
            left: false,
            stopped: None,
            longest_stop: Duration::ZERO,
            at: None,
            hosts: false,
            peers: None,
            value: None,
            evicted: 0,
            unusable: None,
            pause: 0,
        }
    }

    /// What it says next, if it has said anything. A line that is none was cut off by its death.
    pub fn hear(&mut self) -> Option<Said> {
        let line = self.worker.overhear()?;
        self.heard(&line)
    }

    /// The same of one that has ended: none when that was all.
    pub fn last(&mut self) -> Option<Said> {
        let line = self.worker.last_words()?;
        self.heard(&line)
    }

    fn heard(&mut self, line: &str) -> Option<Said> {
        let said: Said = serde_json::from_str(line).ok()?;
        match &said {
            Said::Joined { .. } => {
                self.joined = true;
                self.longest_stop = Duration::ZERO;
            }
            Said::At { at, hosts } => {
                self.at = Some(*at);
                self.hosts = *hosts;
            }
            Said::Peers { names } => {
                let mut names = names.clone();
                names.sort_unstable();
                self.peers = Some(names);
            }
            Said::Value { tag, number } => self.value = Some((*tag, *number)),
            Said::Evicted => {
                self.evicted += 1;
                self.joined = false;
            }
            Said::Unusable { why } => {
                self.unusable = Some(why.clone());
                // It ends by itself.
                self.leaving = true;
            }
            Said::Left { .. } => self.left = true,
            Said::Run(run) => self.pause = self.pause.max(run.pause),
            Said::Sent { .. } | Said::Ended { .. } | Said::Wrong { .. } => {}
        }
        Some(said)
    }

    /// Tells it something. What it answered before is forgotten.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn tell(&mut self, told: Told) -> Result<()> {
        match told {
            Told::Where => self.at = None,
            Told::Peers => self.peers = None,
            Told::Leave => self.leaving = true,
        }
        let line = serde_json::to_string(&told).context("telling a worker")?;
        self.worker.tell(&line);
        Ok(())
    }

    /// Stops it, wherever it is.
    pub fn stop(&mut self) {
        self.worker.signal(Signal::SIGSTOP);
        self.stopped.get_or_insert_with(Instant::now);
    }

    /// Lets it go on.
    pub fn go_on(&mut self) {
        if let Some(since) = self.stopped.take() {
            self.longest_stop = self.longest_stop.max(since.elapsed());
            self.worker.signal(Signal::SIGCONT);
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.leaving = true;
        self.worker.kill();
    }

    /// Whether the process has ended; and, if nobody had asked for that, or it ended badly, a complaint.
    pub fn ended(&mut self) -> Option<Option<String>> {
        let status = self.worker.ended()?;
        let well = self.left && status.success();
        Some((!well).then(|| format!("{} ended with {status}, unasked", self.name)))
    }

    /// Its name on the bus.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, as the kernel counts.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }

    /// It has a handle, and was not told to leave.
    #[must_use]
    pub fn present(&self) -> bool {
        self.joined && !self.leaving
    }

    /// It said its last word.
    #[must_use]
    pub fn left(&self) -> bool {
        self.left
    }

    /// It was told to leave, or killed.
    #[must_use]
    pub fn leaving(&self) -> bool {
        self.leaving
    }

    /// Since when it is stopped, if it is.
    #[must_use]
    pub fn stopped(&self) -> Option<Instant> {
        self.stopped
    }

    /// Longest that it was stopped since it joined, up to now.
    #[must_use]
    pub fn longest_stop(&self) -> Duration {
        let now = self.stopped.map_or(Duration::ZERO, |since| since.elapsed());
        self.longest_stop.max(now)
    }

    /// How far it was when it was last asked, if it has answered.
    #[must_use]
    pub fn at(&self) -> Option<u64> {
        self.at
    }

    /// Whether it hosted the broker then.
    #[must_use]
    pub fn hosts(&self) -> bool {
        self.hosts
    }

    /// Whom it knew on the other side when it was last asked, sorted, if it has answered.
    #[must_use]
    pub fn peers(&self) -> Option<&[String]> {
        self.peers.as_deref()
    }

    /// The value of a state that it last spoke of.
    #[must_use]
    pub fn value(&self) -> Option<(u32, u64)> {
        self.value
    }

    /// Times that it was evicted.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evicted
    }

    /// Why its handle is of no use any more, if so.
    #[must_use]
    pub fn unusable(&self) -> Option<&str> {
        self.unusable.as_deref()
    }

    /// Longest time between two messages of one publisher.
    #[must_use]
    pub fn pause(&self) -> Duration {
        Duration::from_nanos(self.pause)
    }
}
