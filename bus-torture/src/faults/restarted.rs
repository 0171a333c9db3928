//! The process whose session thread's system calls are refused: a client that sends again everything that it receives,
//! while brokers end and start.
//!
//! It has one thread that waits for a subscription by its descriptor, and one that follows a pattern. Each has handles of
//! its own, of one [`Bus`], so that one session has all of them. A thread that gets an error opens other handles, and
//! goes on.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bus_client::{Bus, BytesPublisher, Selector};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::company::{FROM, LAST, PATTERN, TO};
use crate::kill_points::content::Content;
use crate::process::{Role, say, settings};

/// The role of such a client.
pub const RESTARTED: Role = ("restarted-client", play);

/// What it says when its handles are there, with the number of its session's thread.
pub const READY: &str = "ready";
/// How many errors a thread of it takes.
const ERRORS: usize = 3;
/// How long it waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of how many messages one that is a mutant keeps one back.
const KEEPS_BACK: u64 = 5;

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The broker's socket.
    pub socket: PathBuf,
    /// Whether it keeps back some of what it hears, to show that this is noticed.
    pub mutant: bool,
}

/// What it says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The errors that it got.
    pub errors: Vec<String>,
    /// Whether it got to its end.
    pub done: bool,
}

/// Plays such a client.
fn play(given: Value) -> Result<()> {
    let part: Part = settings(given)?;
    let bus = Bus::builder("restarted")
        .socket(&part.socket)
        .embedded(false)
        .spin(Duration::ZERO)
        .connect()?;
    let _stays = bus.bytes_publisher(FROM)?;
    let (begun, begins) = mpsc::channel();
    let echo = |follow: Follow| {
        let (part, bus, begun) = (part.clone(), bus.clone(), begun.clone());
        thread::spawn(move || insist(follow, &part, &bus, &begun))
    };
    let threads = [echo(subscribe), echo(follow)];
    for _ in &threads {
        begins
            .recv_timeout(PATIENCE)
            .context("a thread does not begin")?;
    }
    say(&format!("{READY} {}", session_thread()?))?;
    let mut report = Report {
        done: true,
        ..Report::default()
    };
    for thread in threads {
        let (errors, done) = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        report.errors.extend(errors);
        report.done &= done;
    }
    // The others are told first, for what comes next is the end of the session.
    say(&serde_json::to_string(&report)?)?;
    let _ = io::stdin().read_line(&mut String::new());
    Ok(())
}

/// The number of the session's thread, which names itself when it runs.
fn session_thread() -> Result<u32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for task in fs::read_dir("/proc/self/task").context("listing its threads")? {
            let task = task.context("listing its threads")?;
            let name = fs::read_to_string(task.path().join("comm")).context("naming a thread")?;
            if name.trim() == "bus-session" {
                let number = task.file_name();
                let number = number.to_str().and_then(|number| number.parse().ok());
                return number.context("a thread has no number");
            }
        }
        thread::yield_now();
    }
    bail!("it has no session thread")
}

/// Opens handles, says so, and goes on until the last message.
type Follow = fn(&Part, &Bus, &Sender<()>) -> Result<()>;

/// Goes on until the last message, with other handles after each error: the errors, and whether it came to the end.
fn insist(follow: Follow, part: &Part, bus: &Bus, begun: &Sender<()>) -> (Vec<String>, bool) {
    let mut errors = Vec::new();
    while errors.len() < ERRORS {
        match follow(part, bus, begun) {
            Ok(()) => return (errors, true),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    (errors, false)
}

/// What says again what is heard.
struct Echo {
    publisher: BytesPublisher,
    heard: u64,
    mutant: bool,
}

impl Echo {
    fn new(part: &Part, bus: &Bus) -> Result<Self> {
        Ok(Self {
            publisher: bus.bytes_publisher(FROM)?,
            heard: 0,
            mutant: part.mutant,
        })
    }

    /// Says it again; whether it was the last.
    fn say(&mut self, bytes: &[u8]) -> Result<bool> {
        let content = Content::read(bytes).map_err(|why| anyhow!(why))?;
        if content.tag == LAST {
            return Ok(true);
        }
        self.heard += 1;
        if !(self.mutant && self.heard.is_multiple_of(KEEPS_BACK)) {
            self.publisher.send_timeout(bytes, PATIENCE)?;
        }
        Ok(false)
    }
}

fn subscribe(part: &Part, bus: &Bus, begun: &Sender<()>) -> Result<()> {
    let mut echo = Echo::new(part, bus)?;
    let subscriber = bus.bytes_subscriber(TO)?;
    let mut selector = Selector::new()?;
    selector.add(&subscriber)?;
    // Nobody listens after the first time.
    let _ = begun.send(());
    loop {
        while let Some(message) = subscriber.try_recv()? {
            if echo.say(message.bytes())? {
                return Ok(());
            }
        }
        if selector.wait_timeout(PATIENCE)?.is_none() {
            bail!("nothing comes");
        }
    }
}

fn follow(part: &Part, bus: &Bus, begun: &Sender<()>) -> Result<()> {
    let mut echo = Echo::new(part, bus)?;
    let mut all = bus.pattern_bytes_subscriber(PATTERN)?;
    let _ = begun.send(());
    loop {
        let message = all.recv_timeout(PATIENCE)?;
        let message = message.ok_or_else(|| anyhow!("no topic comes"))?;
        if echo.say(message.into_message().bytes())? {
            return Ok(());
        }
    }
}
