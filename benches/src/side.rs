//! A child process: one side of a job.
//!
//! It speaks with its parent over standard input and output, a line at a time:
//!
//! ```text
//! parent   begin          go
//! child            ready       {outcome}
//! ```
//!
//! It opens nothing before `begin` and sends nothing before `go`. A publisher stays until its
//! input ends, when all sides have given their outcome: that it leaves is no part of anybody's
//! figures. A side is killed when its parent dies.

use crate::floor::memory::Shared;
use crate::job::{Job, Role};
use crate::subject;
use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal as Kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::io::{BufRead, Write, stdin, stdout};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// The name of the hidden subcommand that makes a process a side.
pub const SUBCOMMAND: &str = "side";

/// The parent lets a child prepare.
pub const BEGIN: &str = "begin";
/// A child has opened all its ends.
pub const READY: &str = "ready";
/// All children are ready.
pub const GO: &str = "go";

/// What a child is told on its command line, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Side {
    /// The job that it takes part in.
    pub job: Job,
    /// Its part.
    pub role: Role,
    /// The inherited shared memory.
    pub memory: RawFd,
    /// An inherited eventfd for each link.
    pub eventfds: [RawFd; 2],
    /// Where the job's broker listens, if it has one.
    pub socket: Option<PathBuf>,
    /// A name of this job that no other job on the machine has.
    pub name: String,
}

impl Side {
    /// Lets the calling thread run on both processors of a job.
    ///
    /// # Errors
    /// The system refuses.
    pub fn unpin(&self) -> Result<(), bus_client::Error> {
        let mut set = CpuSet::new();
        let both = [0, 1].into_iter().try_for_each(|cpu| set.set(cpu));
        let unpinned = both.and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
        unpinned.map_err(|error| bus_client::Error::Processor {
            cpu: 0,
            why: error.desc().into(),
        })
    }
}

/// A child's line to its parent.
#[derive(Default)]
pub struct Signal {
    kept: Option<Box<dyn Any>>,
}

impl Signal {
    /// Says that all ends are open, and waits for the others.
    ///
    /// # Errors
    /// The parent is gone.
    pub fn ready_then_go(&mut self) -> Result<()> {
        tell(READY)?;
        expect(GO)
    }

    /// Keeps an end open until all sides have given their outcome.
    pub fn keep(&mut self, end: impl Any) {
        self.kept = Some(Box::new(end));
    }
}

/// The whole life of a child.
///
/// # Errors
/// The side cannot be pinned or set up, or its work fails.
pub fn run(side: &str) -> Result<()> {
    set_pdeathsig(Kill::SIGKILL).context("asking to die with the parent failed")?;
    let side: Side =
        serde_json::from_str(side).context("this subcommand is for bus-bench itself")?;
    pin(side.role.cpu())?;
    expect(BEGIN)?;
    let memory = Shared::open(side.memory)?;
    let mut signal = Signal::default();
    let outcome =
        subject::perform(&side, memory, &mut signal).with_context(|| side.role.to_string())?;
    tell(&serde_json::to_string(&outcome)?)?;
    if signal.kept.is_some() {
        stdin()
            .lock()
            .read_line(&mut String::new())
            .context("waiting for the other sides failed")?;
    }
    Ok(())
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .with_context(|| format!("processor {cpu} is beyond what the system can number"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| {
        format!("pinning to processor {cpu} failed: bus-bench needs processors 0 and 1, online and allowed")
    })
}

fn tell(line: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("the parent process is gone")
}

fn expect(word: &str) -> Result<()> {
    let mut line = String::new();
    stdin()
        .lock()
        .read_line(&mut line)
        .context("reading from the parent process failed")?;
    ensure!(
        line.trim_end() == word,
        "the parent process ended before it said '{word}'"
    );
    Ok(())
}
