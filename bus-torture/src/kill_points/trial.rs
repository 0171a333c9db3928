//! One operation: its way is recorded once, then a victim is killed at each point that is to be tried.
//!
//! A point where the survivors were too slow is tried again: it counts when it happens three times. Anything else that is wrong counts at once.

use std::env;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::Options;
use super::crew::{Crew, FIRST_VICTIM, Killed};
use super::death::Death;
use super::fault::Fault;
use super::operation::Operation;
use super::place::Places;
use super::route::{PATIENCE, Point, Reached, Route, Sleeps};
use super::victim::{Part, VICTIM};
use crate::budget::Budget;
use crate::outcome::Outcome;
use crate::process::SUBCOMMAND;
use crate::progress::Progress;
use crate::tracer::marks::BEGIN;
use crate::tracer::{Stop, Tracee, Waited};

/// Victims that may be tried for one point before it is given up.
const VICTIMS: usize = 3;

/// Victims that do all that they began, before what is there is counted: rings of ended writers of a state are retained, up to four.
const REHEARSALS: usize = 3;
/// How often survivors have to be slow at a point.
const SLOW: u32 = 3;
/// Points that are tried again are told of up to so many times.
const REMARKS: u32 = 3;
/// A victim that took another way is followed by one that is stepped all along, where there are not more steps than these.
const SHORT_WAY: usize = 5_000;
/// How often a point is tried that could not be tried.
const TRIES: u32 = 3;

/// One operation.
pub struct Trial<'a> {
    operation: Operation,
    options: &'a Options,
    budget: &'a Budget,
    progress: &'a Progress,
    outcome: Outcome,
    delays: Vec<Duration>,
    remarks: u32,
    next_tag: u64,
    /// Started ahead of its time: it waits for its number.
    spare: Option<Waiting>,
}

/// A victim that waits for its number.
struct Waiting {
    tracee: Tracee,
    stdin: ChildStdin,
}

/// A victim that stands at the first mark.
struct Victim {
    tracee: Tracee,
    tag: u64,
    /// Closing it would let the victim end.
    _stdin: ChildStdin,
}

impl<'a> Trial<'a> {
    /// Of this operation, as far as options and budget let it.
    #[must_use]
    pub fn new(
        operation: Operation,
        options: &'a Options,
        budget: &'a Budget,
        progress: &'a Progress,
    ) -> Self {
        Self {
            operation,
            options,
            budget,
            progress,
            outcome: Outcome::default(),
            delays: Vec::new(),
            remarks: 0,
            next_tag: FIRST_VICTIM,
            spare: None,
        }
    }

    /// Tries the points.
    ///
    /// # Errors
    /// The run itself fails.
    pub fn run(mut self) -> Result<Outcome> {
        let name = self.operation.name();
        let mut crew = self.crew()?;
        let (route, places) = self
            .rehearse(&mut crew)
            .map_err(|fault| self.failed(&fault))?;
        let points = self.choose(&route)?;
        let mut tried = 0;
        for point in points {
            if self.budget.over() && tried > 0 {
                break;
            }
            if let Err(fault) = self.insist(&mut crew, &route, point) {
                let at = route
                    .address(point)
                    .map_or("the end".into(), |address| places.name(address));
                let asleep = if point.asleep { ", asleep" } else { "" };
                let text = fault.text();
                let what = format!(
                    "{name}, killed after step {}{asleep} at {at}: {text}; again: bus-torture kill-points --op {name} --point {} --seed {}",
                    point.step,
                    point.step,
                    self.budget.seed()
                );
                match fault {
                    Fault::Run(_) => bail!(what),
                    _ => self.outcome.violation(what),
                }
                // What is wrong with these survivors is no fault of the next victim's.
                self.spare = None;
                crew = self.crew()?;
                self.rehearse(&mut crew)
                    .map_err(|fault| self.failed(&fault))?;
            }
            tried += 1;
            self.progress.done(1);
        }
        self.outcome.tried(tried);
        self.outcome
            .count(format!("{name}.points"), route.points().len() as u64);
        self.outcome.count(format!("{name}.tried"), tried);
        self.report_delays(&name);
        Ok(self.outcome)
    }

    fn report_delays(&mut self, name: &str) {
        self.delays.sort_unstable();
        if let Some(longest) = self.delays.last() {
            let median = self.delays[self.delays.len() / 2];
            let millis = |delay: Duration| delay.as_secs_f64() * 1e3;
            self.outcome
                .number(format!("{name}.gone_on_p50_ms"), millis(median));
            self.outcome
                .number(format!("{name}.gone_on_max_ms"), millis(*longest));
        }
    }

    fn crew(&self) -> Result<Crew> {
        Crew::new(self.operation).map_err(|fault| self.failed(&fault))
    }

    fn failed(&self, fault: &Fault) -> anyhow::Error {
        anyhow!("{}: {}", self.operation.name(), fault.text())
    }

    /// Victims that get to the second mark: the way of the first one; then what is there is counted.
    fn rehearse(&mut self, crew: &mut Crew) -> Result<(Route, Places), Fault> {
        let operation = self.operation;
        let mut victim = self.bring(crew)?;
        let mut sleeps = Sleeps::new(operation.sleeps(), || crew.nudge());
        let route = Route::record(&mut victim.tracee, &mut sleeps)?;
        let places = Places::of(victim.tracee.pid());
        self.bury(crew, victim, true).or_else(patient)?;
        for _ in 0..REHEARSALS {
            self.try_once(crew, &route, route.end()).or_else(patient)?;
        }
        crew.settle()?;
        Ok((route, places))
    }

    /// The points to try, in an order that the seed decides, so that a slice of them is of all parts.
    fn choose(&self, route: &Route) -> Result<Vec<Point>> {
        let mut points = route.points();
        if let Some(step) = self.options.point {
            points.retain(|point| point.step == step);
            if points.is_empty() {
                bail!("{} has no point {step}", self.operation.name());
            }
            return Ok(points);
        }
        let mut random = self.budget.random(self.operation as u64);
        let every = self.options.every as usize;
        let first = random.usize(..every.min(points.len()));
        let mut points: Vec<_> = points.into_iter().skip(first).step_by(every).collect();
        random.shuffle(&mut points);
        Ok(points)
    }

    /// Tries a point; again where survivors were slow, or where the point could not be tried.
    fn insist(&mut self, crew: &mut Crew, route: &Route, point: Point) -> Result<(), Fault> {
        let (mut slow, mut failed) = (0, 0);
        loop {
            match self.try_once(crew, route, point) {
                Ok(()) => return Ok(()),
                Err(fault @ Fault::Broken(_)) => return Err(fault),
                Err(fault @ Fault::Slow(_)) => {
                    slow += 1;
                    self.outcome.count("tried_again", 1);
                    self.remark(point, &fault);
                    if slow == SLOW {
                        return Err(fault);
                    }
                }
                Err(fault @ Fault::Run(_)) => {
                    failed += 1;
                    self.remark(point, &fault);
                    if failed == TRIES {
                        return Err(fault);
                    }
                }
            }
        }
    }

    /// What went wrong once is said, also where it then went well.
    fn remark(&mut self, point: Point, fault: &Fault) {
        self.remarks += 1;
        if self.remarks <= REMARKS {
            let name = self.operation.name();
            let text = format!(
                "{name}, step {}: tried again, because {}",
                point.step,
                fault.text()
            );
            self.outcome.note(text);
        }
    }

    /// One victim.
    fn try_once(&mut self, crew: &mut Crew, route: &Route, point: Point) -> Result<(), Fault> {
        for quick in [true, false] {
            let mut victim = self.bring(crew)?;
            let mut sleeps = Sleeps::new(self.operation.sleeps(), || crew.nudge());
            let walked = route.walk(&mut victim.tracee, point, quick, &mut sleeps);
            // A long way is not worth it: victims differ there in what they read of the machine.
            let again = quick && point != route.end() && point.step <= SHORT_WAY;
            match walked {
                // It took another way, because of the breakpoint or by chance: once more, step by step.
                Ok(Reached::Elsewhere) if again => self.bury(crew, victim, false)?,
                Ok(Reached::Done) if again => self.bury(crew, victim, true)?,
                Err(Fault::Run(_)) if quick => self.bury(crew, victim, false).or_else(patient)?,
                Ok(reached) => {
                    if reached == Reached::Elsewhere {
                        self.outcome.count("elsewhere", 1);
                    }
                    return self.bury(crew, victim, reached == Reached::Done);
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Kills a victim, and looks at the others.
    fn bury(&mut self, crew: &mut Crew, mut victim: Victim, done: bool) -> Result<(), Fault> {
        // While the others are looked at, the next one starts. Not between death and look: that would be waited for.
        self.spare = Some(self.start(crew)?);
        victim.tracee.kill()?;
        let at = Death::now();
        let killed = Killed {
            pid: victim.tracee.pid(),
            tag: victim.tag,
            done,
            at,
        };
        let delay = crew.check(killed)?;
        self.delays.push(delay);
        Ok(())
    }

    fn start(&self, crew: &Crew) -> Result<Waiting> {
        let part = Part {
            socket: crew.socket(),
            operation: self.operation,
            mutant: self.options.mutant,
        };
        let program = env::current_exe().context("finding bus-torture itself")?;
        let mut child: Child = Command::new(program)
            .args([SUBCOMMAND, VICTIM.0])
            .arg(serde_json::to_string(&part)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("starting a victim")?;
        let stdin = child.stdin.take().context("a victim has no input")?;
        let tracee = Tracee::seize(&child)?;
        Ok(Waiting { tracee, stdin })
    }

    /// A victim at the first mark, and the others where they have to be then. One that died on its way there, untouched, is replaced.
    fn bring(&mut self, crew: &mut Crew) -> Result<Victim, Fault> {
        for _ in 1..VICTIMS {
            if let Ok(victim) = self.bring_one(crew) {
                return Ok(victim);
            }
        }
        self.bring_one(crew)
    }

    fn bring_one(&mut self, crew: &mut Crew) -> Result<Victim, Fault> {
        let Waiting {
            mut tracee,
            mut stdin,
        } = match self.spare.take() {
            Some(spare) => spare,
            None => self.start(crew)?,
        };
        let tag = self.next_tag;
        self.next_tag += 1;
        writeln!(stdin, "{tag}").map_err(Fault::run)?;
        match tracee.wait(&[], PATIENCE)? {
            Waited::Stopped(Stop::Signal(BEGIN)) => {}
            other => {
                return Err(Fault::run(format!(
                    "the victim stands at {other:?} before it began"
                )));
            }
        }
        crew.arrange()?;
        Ok(Victim {
            tracee,
            tag,
            _stdin: stdin,
        })
    }
}

/// Slowness is not looked at in a rehearsal.
fn patient(fault: Fault) -> Result<(), Fault> {
    match fault {
        Fault::Slow(_) => Ok(()),
        fault => Err(fault),
    }
}
