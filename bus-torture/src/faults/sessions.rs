//! Faults of a client's session thread: each call that the thread makes while brokers end and start is refused once,
//! with each error that fits it.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;

use super::company::{Company, Noticed};
use super::plan::{Coverage, Plan};
use super::probe::{Fault, Probe, Seen};
use super::restarted::{Part, READY, RESTARTED, Report};
use crate::budget::Budget;
use crate::outcome::Outcome;
use crate::process::SUBCOMMAND;
use crate::progress::Progress;
use crate::tracer::Tracee;

/// Its name.
pub const NAME: &str = "session";
/// How long one client may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The calls in which the session thread waits for others.
const SLEEPS: [i64; 5] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_futex,
];
/// Clients before the first fault: the thread makes its calls in another order each time.
const REHEARSALS: u32 = 3;

/// The faults of a session thread.
pub struct Sessions<'a> {
    mutant: bool,
    budget: &'a Budget,
    outcome: Outcome,
}

/// A client that is killed when it is dropped.
struct Restarted(Child);

impl Drop for Restarted {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Sessions<'a> {
    /// As far as the budget goes.
    #[must_use]
    pub fn new(mutant: bool, budget: &'a Budget) -> Self {
        Self {
            mutant,
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
        let mut calls = Vec::new();
        for _ in 0..REHEARSALS {
            let seen = match self.once(None) {
                Ok(seen) => seen,
                Err(error) if self.mutant => {
                    self.outcome.violation(format!("{NAME}: {error:#}"));
                    return Ok(self.outcome);
                }
                Err(error) => return Err(error.context("a session thread without any fault")),
            };
            coverage.know(seen.places);
            // The one that took the longest way.
            if seen.calls.len() > calls.len() {
                calls = seen.calls;
            }
        }
        coverage.sites(&calls);
        let plan = Plan::new(&calls, only, &mut self.budget.random(u64::MAX - 1));
        self.outcome
            .count(format!("{NAME}.calls"), calls.len() as u64);
        self.outcome
            .count(format!("{NAME}.faults"), plan.faults.len() as u64);
        let mut tried = 0;
        // Who breaks a doorbell makes its owner deaf: that is not promised to be survived.
        let breaks = |fault: &Fault| {
            let gone = matches!(fault.error, Errno::ECONNRESET | Errno::EPIPE);
            gone && fault.site.number == libc::SYS_sendto
        };
        for fault in plan.faults.into_iter().filter(|fault| !breaks(fault)) {
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

    /// The life of one client.
    fn once(&mut self, fault: Option<Fault>) -> Result<Seen> {
        let dir = tempfile::tempdir().context("making a place for a broker")?;
        let socket = dir.path().join("bus.sock");
        let mut company = Company::new(&socket)?;
        let mut client = Restarted(start(&Part {
            socket: socket.clone(),
            mutant: self.mutant,
        })?);
        let stdin = client.0.stdin.take().context("a client has no input")?;
        let stdout = client.0.stdout.take().context("a client has no output")?;
        let mut stderr = client.0.stderr.take().context("a client has no output")?;
        let mut said = || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text.trim().to_owned()
        };
        let mut lines = BufReader::new(stdout).lines();
        let mut hear = || {
            let line = lines.next().context("a client has ended")?;
            line.context("hearing a client")
        };
        let ready = hear().map_err(|error| error.context(said()))?;
        let session = ready.strip_prefix(READY).map(str::trim);
        let session = session.and_then(|number| number.parse().ok());
        let session = session.with_context(|| format!("a client says {ready:?}"))?;
        let mut probe = Probe::of_thread(Tracee::seize_thread(session)?)?;
        let failed = Arc::new(AtomicBool::new(false));
        let fails = Arc::clone(&failed);
        let others = thread::Builder::new()
            .name("company".into())
            .spawn(move || {
                let noticed = company.keep(&socket);
                // ORDERING: it is to be seen some time; what it was is told by the thread's end.
                fails.store(noticed.is_err(), Ordering::Relaxed);
                // The client may end, and its session thread with it.
                drop(stdin);
                (company, noticed)
            })?;
        let seen = probe.run(fault, &SLEEPS, PATIENCE, || {
            // ORDERING: as above.
            if failed.load(Ordering::Relaxed) {
                bail!("those beside it have given up");
            }
            Ok(())
        });
        if seen.is_err() {
            probe.tracee().kill()?;
            let _ = client.0.kill();
        }
        let joined = others.join();
        let (_company, noticed) = joined.map_err(|_| anyhow!("the company panicked"))?;
        let (seen, noticed) = match (seen, noticed) {
            (Ok(seen), Ok(noticed)) => (seen, noticed),
            (seen, noticed) => {
                let text = |error: Option<anyhow::Error>| error.map(|error| format!("{error:#}"));
                let (session, others) = (text(seen.err()), text(noticed.err()));
                bail!(
                    "session thread: {session:?}, others: {others:?}; it said: {}",
                    said()
                );
            }
        };
        let report = hear().map_err(|error| error.context(said()))?;
        let report: Report = serde_json::from_str(&report).context("reading its report")?;
        let status = client.0.wait().context("waiting for a client")?;
        if !status.success() {
            bail!("it ended with {status}");
        }
        self.judge(&report, noticed)?;
        Ok(seen)
    }

    fn judge(&mut self, report: &Report, noticed: Noticed) -> Result<()> {
        // A broken connection ends the membership of all handles of its process, and each says so.
        let cut_off = |error: &&String| error.contains("the connection to this broker ended");
        let of_connection = report.errors.iter().filter(cut_off).count();
        let causes = report.errors.len() - of_connection + usize::from(of_connection > 0);
        if !report.done || causes > 1 {
            bail!(
                "one fault came to errors, done: {}: {:?}",
                report.done,
                report.errors
            );
        }
        if report.errors.is_empty() && noticed.lost + noticed.doubled > 0 {
            bail!("without an error: {noticed:?}");
        }
        if !report.errors.is_empty() {
            self.outcome.count(format!("{NAME}.errors"), 1);
        }
        Ok(())
    }
}

fn start(part: &Part) -> Result<Child> {
    let program = env::current_exe().context("finding bus-torture itself")?;
    Command::new(program)
        .args([SUBCOMMAND, RESTARTED.0])
        .arg(serde_json::to_string(part)?)
        // What a panic says is enough.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting a client")
}
