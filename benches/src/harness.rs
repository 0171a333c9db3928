//! Runs a job: a child process for each side, and nobody left behind.
//!
//! Each child is this same program again. All are started, made ready, let go
//! together, and asked for their outcome. When one dies, fails, or shows no
//! progress in time, the others are killed and the run fails with what
//! happened to which side.

use crate::bus::Broker;
use crate::counters::syscalls::{Calls, Tracer};
use crate::floor::{epoll, layout, memory};
use crate::job::{Job, Role};
use crate::outcome::Outcome;
use crate::side::{BEGIN, GO, READY, SUBCOMMAND, Side};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How long a job may take before it is given up.
const LIMIT: Duration = Duration::from_secs(180);

/// The next job's number, for its name.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// What a job gave: an outcome for each of [`Job::roles`], in that order.
#[derive(Debug)]
pub struct Results {
    /// The outcomes.
    pub outcomes: Vec<Outcome>,
    /// The system calls of each traced side.
    pub calls: Vec<Calls>,
}

/// Runs `job` to its end.
///
/// # Errors
/// A side cannot be started, dies, fails, or is not done within three minutes.
pub fn run(job: &Job) -> Result<Results> {
    run_watched(job, |_, _| Ok(()))
}

/// When a watcher looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The broker is there, and no side has opened anything.
    Begun,
    /// All sides have opened their ends and wait.
    Ready,
}

/// Runs `job` to its end; at each [`Moment`], `watch` is shown the process numbers of the sides.
///
/// # Errors
/// As [`run`], and what `watch` reports.
pub fn run_watched(
    job: &Job,
    mut watch: impl FnMut(Moment, &[u32]) -> Result<()>,
) -> Result<Results> {
    let mut crew = Crew::start(job)?;
    let tracers = crew
        .sides
        .iter()
        .filter(|side| job.traced.contains(&side.role))
        .map(|side| Tracer::attach(side.child.id()))
        .collect::<Result<Vec<_>>>()?;
    let pids: Vec<u32> = crew.sides.iter().map(|side| side.child.id()).collect();
    watch(Moment::Begun, &pids)?;
    crew.tell_all(BEGIN)?;
    crew.wait_ready()?;
    watch(Moment::Ready, &pids)?;
    crew.tell_all(GO)?;
    let outcomes = crew.wait_outcomes()?;
    crew.wait_ends()?;
    let calls = tracers
        .into_iter()
        .map(Tracer::finish)
        .collect::<Result<_>>()?;
    Ok(Results { outcomes, calls })
}

/// What a side's output brings.
enum Event {
    Line(String),
    End,
}

struct Running {
    role: Role,
    child: Child,
    /// None once the side may end.
    input: Option<ChildStdin>,
}

/// The children of a job. Dropped: they are killed.
struct Crew {
    sides: Vec<Running>,
    events: Receiver<(usize, Event)>,
    deadline: Instant,
    /// Outlives the children: the fields are dropped after them.
    _broker: Option<Broker>,
}

impl Crew {
    fn start(job: &Job) -> Result<Self> {
        let file = memory::create(layout::total(job))?;
        let eventfds = [epoll::create()?, epoll::create()?];
        // ORDERING: Relaxed: only the number counts.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{}-{number}", std::process::id());
        let broker = job.subject.on_bus().then(Broker::start).transpose()?;
        let socket = broker.as_ref().map(Broker::socket);
        let (sender, events) = channel();
        let mut crew = Self {
            sides: Vec::new(),
            events,
            deadline: Instant::now() + LIMIT,
            _broker: broker,
        };
        for (index, role) in job.roles().into_iter().enumerate() {
            let side = Side {
                job: job.clone(),
                role,
                memory: file.as_raw_fd(),
                eventfds: eventfds.each_ref().map(|fd| fd.as_fd().as_raw_fd()),
                socket: socket.clone(),
                name: name.clone(),
            };
            crew.sides.push(spawn(index, &side, sender.clone())?);
        }
        Ok(crew)
    }

    fn tell_all(&mut self, word: &str) -> Result<()> {
        for index in 0..self.sides.len() {
            let side = &mut self.sides[index];
            let told = side.input.as_mut().map(|input| writeln!(input, "{word}"));
            if !matches!(told, Some(Ok(()))) {
                return Err(self.gone(index));
            }
        }
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        for _ in 0..self.sides.len() {
            let (index, line) = self.next_line()?;
            if line != READY {
                bail!(
                    "{} said '{line}' instead of '{READY}'",
                    self.sides[index].role
                );
            }
        }
        Ok(())
    }

    fn wait_outcomes(&mut self) -> Result<Vec<Outcome>> {
        let mut outcomes: Vec<Option<Outcome>> = self.sides.iter().map(|_| None).collect();
        while outcomes.iter().any(Option::is_none) {
            let (index, event) = self.next_event()?;
            match event {
                Event::Line(line) => {
                    let role = self.sides[index].role;
                    let outcome = serde_json::from_str(&line)
                        .with_context(|| format!("{role} gave no outcome but '{line}'"))?;
                    outcomes[index] = Some(outcome);
                }
                // Its end was seen before the others' outcomes; its own is there.
                Event::End if outcomes[index].is_some() => {}
                Event::End => return Err(self.gone(index)),
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    fn wait_ends(&mut self) -> Result<()> {
        for side in &mut self.sides {
            side.input = None;
            let status = side
                .child
                .wait()
                .with_context(|| format!("waiting for {} failed", side.role))?;
            if !status.success() {
                bail!("{} gave its outcome, then failed with {status}", side.role);
            }
        }
        Ok(())
    }

    fn next_line(&mut self) -> Result<(usize, String)> {
        match self.next_event()? {
            (index, Event::Line(line)) => Ok((index, line)),
            (index, Event::End) => Err(self.gone(index)),
        }
    }

    fn next_event(&mut self) -> Result<(usize, Event)> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.events.recv_timeout(left).with_context(|| {
            format!(
                "a job was not done within {} s: a side hangs or waits for ever",
                LIMIT.as_secs()
            )
        })
    }

    /// Why side `index` is gone.
    fn gone(&mut self, index: usize) -> anyhow::Error {
        let side = &mut self.sides[index];
        let pid = side.child.id();
        match side.child.wait() {
            Ok(status) => anyhow::anyhow!(
                "{} (process {pid}) ended before its work was done: {status}; the run is void",
                side.role
            ),
            Err(error) => anyhow::anyhow!(
                "{} (process {pid}) is gone: {error}; the run is void",
                side.role
            ),
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for side in &mut self.sides {
            // One that has ended already is no mistake here.
            let _ = side.child.kill();
            let _ = side.child.wait();
        }
    }
}

fn spawn(index: usize, side: &Side, events: Sender<(usize, Event)>) -> Result<Running> {
    let role = side.role;
    let mut child = Command::new("/proc/self/exe")
        .arg(SUBCOMMAND)
        .arg(serde_json::to_string(side)?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {role} as a process of this program failed"))?;
    let input = child.stdin.take();
    let output = child
        .stdout
        .take()
        .with_context(|| format!("{role} has no output"))?;
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if events.send((index, Event::Line(line))).is_err() {
                return;
            }
        }
        // Nobody listens any more when the crew is gone.
        let _ = events.send((index, Event::End));
    });
    Ok(Running { role, child, input })
}
