//! Faults of a client: each call that its script makes is refused once, with each error that fits it.

use std::env;
use std::io::{Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::client::{CLIENT, Part, Report, Script};
use super::plan::{Coverage, Plan};
use super::probe::{Fault, Probe, Seen};
use crate::budget::Budget;
use crate::kill_points::crew::{Crew, Killed};
use crate::kill_points::death::Death;
use crate::kill_points::fault::Fault as Wrong;
use crate::kill_points::operation::Operation;
use crate::outcome::Outcome;
use crate::process::SUBCOMMAND;
use crate::progress::Progress;
use crate::tracer::Tracee;

/// How long a script may take, with everything that is done for it.
const PATIENCE: Duration = Duration::from_secs(8);
/// The calls in which a client waits for others.
const SLEEPS: [i64; 5] = [
    libc::SYS_futex_waitv,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
];
/// How often survivors have to be slow after a fault.
const SLOW: u32 = 3;
/// Clients that have no call refused, before what is there is counted: a state retains the rings of its last four writers.
const REHEARSALS: u32 = 6;
/// Tags of one client: one for each time that it begins.
const TAGS: u64 = 16;
/// Tag of the first client.
const FIRST: u64 = 1_000;

/// One script.
pub struct Clients<'a> {
    script: Script,
    name: String,
    mutant: bool,
    budget: &'a Budget,
    crew: Crew,
    next: u64,
    outcome: Outcome,
}

/// A client at its first mark.
struct Started {
    probe: Probe,
    tag: u64,
    stdout: ChildStdout,
    stderr: ChildStderr,
    _stdin: ChildStdin,
    /// Where it hosts a broker, if it does.
    _own: Option<TempDir>,
}

/// What is wrong after a fault.
type Verdict = Result<(), Wrong>;

impl<'a> Clients<'a> {
    /// Starts those who are there beside the client.
    ///
    /// # Errors
    /// They cannot be had.
    pub fn new(script: Script, name: String, mutant: bool, budget: &'a Budget) -> Result<Self> {
        Ok(Self {
            script,
            name,
            mutant,
            budget,
            crew: new_crew()?,
            next: FIRST,
            outcome: Outcome::default(),
        })
    }

    /// Refuses the calls, each with each of its errors, as far as the time goes.
    ///
    /// # Errors
    /// The run itself fails.
    pub fn run(
        mut self,
        coverage: &mut Coverage,
        only: Option<u32>,
        progress: &Progress,
    ) -> Result<Outcome> {
        let Seen { calls, places, .. } = self.rehearse()?;
        coverage.know(places);
        self.crew
            .settle()
            .map_err(|wrong| anyhow::anyhow!("{}", wrong.text()))?;
        let plan = Plan::new(&calls, only, &mut self.budget.random(self.script as u64));
        coverage.sites(&calls);
        self.outcome
            .count(format!("{}.calls", self.name), calls.len() as u64);
        self.outcome
            .count(format!("{}.faults", self.name), plan.faults.len() as u64);
        let mut tried = 0;
        for fault in plan.faults {
            if self.budget.over() && tried > 0 {
                break;
            }
            match self.insist(fault) {
                Ok(injected) => {
                    if injected {
                        tried += 1;
                        coverage.tried(fault);
                    } else {
                        self.outcome.count("not_reached", 1);
                    }
                }
                Err(wrong) => {
                    tried += 1;
                    coverage.tried(fault);
                    let what = format!(
                        "{}: {} at {}: {}; again: bus-torture faults --of {} --fault {} --seed {}",
                        self.name,
                        fault.error,
                        coverage.name(fault.site),
                        wrong.text(),
                        self.name,
                        fault.number(),
                        self.budget.seed()
                    );
                    self.outcome.violation(what);
                    self.crew = new_crew()?;
                    self.rehearse()?;
                    self.crew
                        .settle()
                        .map_err(|wrong| anyhow::anyhow!("{}", wrong.text()))?;
                }
            }
            progress.done(1);
        }
        self.outcome.tried(tried);
        self.outcome.count(format!("{}.tried", self.name), tried);
        Ok(self.outcome)
    }

    /// The calls of a client that has none refused.
    fn rehearse(&mut self) -> Result<Seen> {
        let mut last = Seen::default();
        for _ in 0..REHEARSALS {
            let (seen, verdict) = self.once(None)?;
            if let Err(Wrong::Broken(why) | Wrong::Run(why)) = verdict {
                anyhow::bail!("{}: without any fault: {why}", self.name);
            }
            last = seen;
        }
        Ok(last)
    }

    /// Tries a fault; again where the others were slow. Whether it was injected.
    fn insist(&mut self, fault: Fault) -> Result<bool, Wrong> {
        let mut slow = 0;
        loop {
            let made = self.once(Some(fault)).map_err(Wrong::from)?;
            match made {
                (seen, Ok(())) => return Ok(seen.injected),
                (_, Err(wrong @ Wrong::Slow(_))) => {
                    slow += 1;
                    self.outcome.count("tried_again", 1);
                    if slow == SLOW {
                        return Err(wrong);
                    }
                }
                (_, Err(wrong)) => return Err(wrong),
            }
        }
    }

    /// One client.
    fn once(&mut self, fault: Option<Fault>) -> Result<(Seen, Verdict)> {
        let mut client = self.start()?;
        let crew = &mut self.crew;
        let mut trouble = None;
        let seen = client.probe.run(fault, &SLEEPS, PATIENCE, || {
            if let Err(wrong) = crew.stir() {
                trouble.get_or_insert(wrong);
            }
            Ok(())
        });
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                let said = said(&mut client);
                self.crew = new_crew()?;
                return Ok((
                    Seen::default(),
                    Err(Wrong::Broken(format!("{error:#}{said}"))),
                ));
            }
        };
        let verdict = self.end(&mut client).and(trouble.map_or(Ok(()), Err));
        let killed = Killed {
            pid: client.probe.tracee().pid(),
            tag: client.tag,
            done: true,
            at: Death::now(),
        };
        let verdict = verdict.and_then(|()| self.crew.outlive(killed).map(|_| ()));
        for attempt in 0..TAGS {
            self.crew.forget_tag(client.tag + attempt);
        }
        Ok((seen, verdict))
    }

    /// What a client says at its end, and whether it is so.
    fn end(&mut self, client: &mut Started) -> Verdict {
        let code = client.probe.finish(PATIENCE).map_err(Wrong::from)?;
        let mut text = String::new();
        client
            .stdout
            .read_to_string(&mut text)
            .map_err(Wrong::run)?;
        if code != 0 {
            return Err(Wrong::Broken(format!(
                "it ended with code {code}{}",
                said(client)
            )));
        }
        let report: Report = serde_json::from_str(&text).map_err(Wrong::run)?;
        if let Some(wrong) = report.wrong.first() {
            return Err(Wrong::Broken(wrong.clone()));
        }
        if !report.done || report.errors.len() > 1 {
            return Err(Wrong::Broken(format!(
                "one fault came to {} errors, done: {}: {:?}",
                report.errors.len(),
                report.done,
                report.errors
            )));
        }
        if !report.errors.is_empty() {
            self.outcome.count(format!("{}.errors", self.name), 1);
        }
        self.crew.hear(&report.sent)
    }

    fn start(&mut self) -> Result<Started> {
        let own = (self.script == Script::Host).then(tempfile::tempdir);
        let own = own.transpose().context("making a place for a broker")?;
        let part = Part {
            socket: own
                .as_ref()
                .map_or_else(|| self.crew.socket(), |dir| dir.path().join("bus.sock")),
            script: self.script,
            mutant: self.mutant,
        };
        let program = env::current_exe().context("finding bus-torture itself")?;
        let mut child: Child = Command::new(program)
            .args([SUBCOMMAND, CLIENT.0])
            .arg(serde_json::to_string(&part)?)
            // What a panic says is enough.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting a client")?;
        let tracee = Tracee::seize(&child)?;
        let mut stdin = child.stdin.take().context("a client has no input")?;
        let stdout = child.stdout.take().context("a client has no output")?;
        let stderr = child.stderr.take().context("a client has no output")?;
        let tag = self.next;
        self.next += TAGS;
        writeln!(stdin, "{tag}").context("a client does not listen")?;
        Ok(Started {
            probe: Probe::new(tracee)?,
            tag,
            stdout,
            stderr,
            _stdin: stdin,
            _own: own,
        })
    }
}

fn new_crew() -> Result<Crew> {
    Crew::new(Operation::PublishInline).map_err(|wrong| anyhow::anyhow!("{}", wrong.text()))
}

/// What a client has said of its end, if anything. It is killed for it, if it goes on.
fn said(client: &mut Started) -> String {
    let _ = client.probe.tracee().kill();
    let mut text = String::new();
    let _ = client.stderr.read_to_string(&mut text);
    let text = text.trim();
    if text.is_empty() {
        String::new()
    } else {
        format!("; it said: {text}")
    }
}
