//! Faults of a broker: each call that it makes is refused once, with each error that fits it, while customers call.

use std::env;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::broker::{BROKER, Part, Report};
use super::customers::{Complaints, call};
use super::plan::{Coverage, Plan};
use super::probe::{Fault, Probe, Seen};
use crate::budget::Budget;
use crate::outcome::Outcome;
use crate::process::SUBCOMMAND;
use crate::progress::Progress;
use crate::tracer::Tracee;

/// Its name.
pub const NAME: &str = "broker";
/// How long one life of a broker may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long it may take to end, once it was told to.
const END: Duration = Duration::from_secs(10);
/// The calls in which it waits for others.
const SLEEPS: [i64; 2] = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
/// Errors that one fault may cost its customers.
const ERRORS: usize = 2;

/// The faults of a broker.
pub struct Brokers<'a> {
    budget: &'a Budget,
    outcome: Outcome,
}

impl<'a> Brokers<'a> {
    /// As far as the budget goes.
    #[must_use]
    pub fn new(budget: &'a Budget) -> Self {
        Self {
            budget,
            outcome: Outcome::default(),
        }
    }

    /// Refuses the calls, each with each of its errors.
    ///
    /// # Errors
    /// The run itself fails.
    pub fn run(
        mut self,
        coverage: &mut Coverage,
        only: Option<u32>,
        progress: &Progress,
    ) -> Result<Outcome> {
        let Seen { calls, places, .. } = self.once(None).context("a broker without any fault")?;
        coverage.know(places);
        coverage.sites(&calls);
        let plan = Plan::new(&calls, only, &mut self.budget.random(u64::MAX));
        self.outcome
            .count(format!("{NAME}.calls"), calls.len() as u64);
        self.outcome
            .count(format!("{NAME}.faults"), plan.faults.len() as u64);
        let mut tried = 0;
        for fault in plan.faults {
            if self.budget.over() && tried > 0 {
                break;
            }
            match self.once(Some(fault)) {
                Ok(seen) if !seen.injected => self.outcome.count("not_reached", 1),
                came => {
                    tried += 1;
                    coverage.tried(fault);
                    if let Err(error) = came {
                        self.outcome.violation(format!(
                            "{NAME}: {} at {}: {error:#}; again: bus-torture faults --of {NAME} --fault {} --seed {}",
                            fault.error,
                            coverage.name(fault.site),
                            fault.number(),
                            self.budget.seed()
                        ));
                    }
                }
            }
            progress.done(1);
        }
        self.outcome.tried(tried);
        self.outcome.count(format!("{NAME}.tried"), tried);
        Ok(self.outcome)
    }

    /// The life of one broker.
    fn once(&mut self, fault: Option<Fault>) -> Result<Seen> {
        let dir = tempfile::tempdir().context("making a place for a broker")?;
        let socket = dir.path().join("bus.sock");
        let mut child = start(&socket)?;
        let tracee = Tracee::seize(&child)?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let mut stdin = child.stdin.take().context("a broker has no input")?;
        let mut stdout = child.stdout.take().context("a broker has no output")?;
        let mut stderr = child.stderr.take().context("a broker has no output")?;
        writeln!(stdin, "go").context("a broker does not listen")?;
        let mut probe = Probe::new(tracee)?;
        let served = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&served);
        let customers = thread::Builder::new()
            .name("customers".into())
            .spawn(move || {
                let mut complaints = Complaints::default();
                let called = call(&socket, &mut complaints);
                // ORDERING: it is to be seen some time; what they say is told by the thread's end.
                over.store(true, Ordering::Relaxed);
                (called, complaints)
            })?;
        let seen = probe.run(fault, &SLEEPS, PATIENCE, || {
            // ORDERING: as above. Here it has not been waited for, so that its number is still its own.
            if served.swap(false, Ordering::Relaxed) {
                kill(pid, Signal::SIGTERM).context("telling a broker to stop")?;
            }
            Ok(())
        });
        if seen.is_err() {
            probe.tracee().kill()?;
        }
        let (called, complaints) = customers
            .join()
            .map_err(|_| anyhow!("the customers panicked"))?;
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                let mut said = String::new();
                let _ = stderr.read_to_string(&mut said);
                return Err(error.context(format!("{said}{complaints:?}")));
            }
        };
        let code = probe.finish(END)?;
        let mut text = String::new();
        stdout
            .read_to_string(&mut text)
            .context("hearing a broker")?;
        if let Err(error) = called {
            let breaks = fault.is_some_and(|f| matches!(f.error, Errno::ECONNRESET | Errno::EPIPE));
            // A broken connection ends the membership of its process: the broker has told the peers so.
            if !breaks || !format!("{error:#}").contains("the connection to this broker ended") {
                return Err(error);
            }
            self.outcome.count(format!("{NAME}.cut_off"), 1);
        }
        let report: Report =
            serde_json::from_str(&text).with_context(|| format!("it ended with code {code}"))?;
        if !report.done || !report.ended.is_empty() || report.unbound.len() > 1 {
            bail!("it did not serve to the end: {report:?}, {complaints:?}");
        }
        if complaints.0.len() > ERRORS {
            bail!("one fault came to many errors: {complaints:?}");
        }
        if let Some(slow) = complaints
            .0
            .iter()
            .find(|error| error.contains("did not answer"))
        {
            bail!("somebody was not answered: {slow}");
        }
        if !complaints.0.is_empty() || !report.unbound.is_empty() {
            self.outcome.count(format!("{NAME}.errors"), 1);
        }
        Ok(seen)
    }
}

fn start(socket: &Path) -> Result<Child> {
    let part = Part {
        socket: socket.to_owned(),
    };
    let program = env::current_exe().context("finding bus-torture itself")?;
    Command::new(program)
        .args([SUBCOMMAND, BROKER.0])
        .arg(serde_json::to_string(&part)?)
        // What a panic says is enough.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting a broker")
}
