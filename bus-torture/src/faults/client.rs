//! The process whose system calls are refused, as a client: it follows a script, and says what came of it.
//!
//! A script that fails is begun anew, with other handles: one fault may cost one error, and after it all has to go well.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bus_client::{Bus, BytesPublisher, BytesSubscriber, Error, Message, Selector};
use clap::ValueEnum;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kill_points::content::Content;
use crate::kill_points::operation::{LONG, Operation, SHORT};
use crate::kill_points::{STATE, TOPIC};
use crate::process::{Role, say, settings};
use crate::tracer::marks::{BEGIN, END, stand};

/// The role of a client.
pub const CLIENT: Role = ("faulty-client", play);

/// How often a script is begun.
const ATTEMPTS: u64 = 4;
/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(6);
/// After how long without a message it asks what was skipped.
const LOOK: Duration = Duration::from_millis(500);
/// Messages that a publisher sends: some rings full.
const SENT: u64 = 40;
/// Messages that a subscriber receives.
const RECEIVED: u64 = 12;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Script {
    /// Joins as a publisher, sends more than there is room for, leaves
    Publisher,
    /// Joins as a subscriber, receives asleep, holds, leaves
    Subscriber,
    /// Joins as both, parks on their descriptors, is rung
    Parked,
    /// Waits for several subscriptions at once
    Selector,
    /// Follows a pattern
    Pattern,
    /// Writes and reads a state
    State,
    /// Hosts the broker, and talks with itself
    Host,
}

/// What a client is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The broker's socket, or where it is to host one.
    pub socket: PathBuf,
    /// What it does.
    pub script: Script,
    /// Whether it gives up at the first error, to show that this is noticed.
    pub mutant: bool,
}

/// What a client says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// For each publisher that it was, by its tag: how many messages were sent at least, and at most.
    pub sent: Vec<(u64, u64, u64)>,
    /// The errors that it got.
    pub errors: Vec<String>,
    /// What it received that was not right.
    pub wrong: Vec<String>,
    /// Whether it got to the end of its script.
    pub done: bool,
}

/// Plays a client.
fn play(given: Value) -> Result<()> {
    let part: Part = settings(given)?;
    let mut line = String::new();
    if io::stdin()
        .read_line(&mut line)
        .context("listening to the run")?
        == 0
    {
        return Ok(());
    }
    let tag: u64 = line.trim().parse().context("reading its number")?;
    let mut report = Report::default();
    stand(BEGIN);
    let attempts = if part.mutant { 1 } else { ATTEMPTS };
    for attempt in 0..attempts {
        match follow(&part, tag + attempt, &mut report) {
            Ok(()) => {
                report.done = true;
                break;
            }
            Err(error) => report.errors.push(format!("{error:#}")),
        }
    }
    stand(END);
    say(&serde_json::to_string(&report)?)
}

fn follow(part: &Part, tag: u64, report: &mut Report) -> Result<()> {
    let bus = Bus::builder("faulty")
        .socket(&part.socket)
        .embedded(part.script == Script::Host)
        .spin(Duration::ZERO)
        .connect()?;
    match part.script {
        Script::Publisher => publisher(&bus, tag, report),
        Script::Subscriber => subscriber(&bus, report),
        Script::Parked => parked(&bus, tag, report),
        Script::Selector => select(&bus, report),
        Script::Pattern => pattern(&bus, tag, report),
        Script::State => state(&bus, tag),
        Script::Host => alone(&bus, tag, report),
    }
}

fn open_publisher(bus: &Bus) -> Result<BytesPublisher> {
    let topic = Operation::PublishInline.settle(bus.topic(TOPIC)?);
    Ok(topic.bytes_publisher()?)
}

fn open_subscriber(bus: &Bus) -> Result<BytesSubscriber> {
    let topic = Operation::PublishInline.settle(bus.topic(TOPIC)?);
    Ok(topic.bytes_subscriber()?)
}

/// The message with this number.
fn message(tag: u64, sequence: u64) -> Vec<u8> {
    let len = if sequence.is_multiple_of(3) {
        LONG
    } else {
        SHORT
    };
    Content { tag, sequence }.bytes(len)
}

/// Sends one; once more where that failed: the first one is not there then. A handle that is of no use any more says so each time, and another one is
/// needed.
fn send(publisher: &mut BytesPublisher, bytes: &[u8], report: &mut Report) -> Result<()> {
    match publisher.send_timeout(bytes, PATIENCE) {
        Ok(_) => return Ok(()),
        Err(error @ Error::Unusable { .. }) => return Err(error.into()),
        Err(error) => report.errors.push(error.to_string()),
    }
    publisher.send_timeout(bytes, PATIENCE)?;
    Ok(())
}

fn publisher(bus: &Bus, tag: u64, report: &mut Report) -> Result<()> {
    let mut publisher = open_publisher(bus)?;
    report.sent.push((tag, 0, 0));
    for sequence in 0..SENT {
        send(&mut publisher, &message(tag, sequence), report)?;
        count(report, sequence + 1, sequence + 1);
    }
    let batch: Vec<_> = (SENT..SENT + 5)
        .map(|sequence| message(tag, sequence))
        .collect();
    count(report, SENT, SENT + 5);
    publisher.publish_batch(batch.iter().map(Vec::as_slice))?;
    count(report, SENT + 5, SENT + 5);
    publisher.subscribers()?;
    Ok(())
}

fn count(report: &mut Report, least: u64, most: u64) {
    if let Some((_, at_least, at_most)) = report.sent.last_mut() {
        (*at_least, *at_most) = (least, most);
    }
}

/// What one subscription has received, by publisher.
#[derive(Debug, Default)]
struct Heard(HashMap<u64, u64>);

impl Heard {
    fn enter(&mut self, message: &Message<'_>, report: &mut Report) {
        let (publisher, sequence) = (message.publisher(), message.sequence());
        let due = self.0.insert(publisher, sequence + 1).unwrap_or(sequence);
        let content = Content::read(message.bytes());
        if due != sequence || content.as_ref().map(|content| content.sequence) != Ok(sequence) {
            report.wrong.push(format!(
                "message {sequence} of publisher {publisher} after {due}: {content:?}"
            ));
        }
    }
}

fn subscriber(bus: &Bus, report: &mut Report) -> Result<()> {
    let subscriber = open_subscriber(bus)?;
    let mut heard = Heard::default();
    let mut held = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut received = 0;
    while received < RECEIVED {
        if Instant::now() >= deadline {
            bail!("nothing comes");
        }
        let Some(message) = subscriber.recv_timeout(PATIENCE)? else {
            bail!("nothing comes");
        };
        heard.enter(&message, report);
        received += 1;
        if received % 5 == 0 {
            held.push(message.hold());
        }
    }
    for held in held {
        if let Err(why) = Content::read(held.bytes()) {
            report
                .wrong
                .push(format!("what was held has changed: {why}"));
        }
    }
    let batch = subscriber.recv_batch(4)?;
    for bytes in &batch {
        if let Err(why) = Content::read(bytes?) {
            report.wrong.push(why);
        }
    }
    drop(batch);
    subscriber.publishers()?;
    Ok(())
}

fn parked(bus: &Bus, tag: u64, report: &mut Report) -> Result<()> {
    let subscriber = open_subscriber(bus)?;
    let mut publisher = open_publisher(bus)?;
    report.sent.push((tag, 0, 0));
    let mut heard = Heard::default();
    let deadline = Instant::now() + PATIENCE;
    let (mut received, mut sequence) = (0, 0);
    while received < RECEIVED || sequence < SENT / 2 {
        if Instant::now() >= deadline {
            bail!("{received} came, {sequence} were sent");
        }
        while let Some(message) = subscriber.try_recv()? {
            heard.enter(&message, report);
            received += 1;
        }
        match publisher.try_send(&message(tag, sequence)) {
            Ok(_) => {
                sequence += 1;
                count(report, sequence, sequence);
                continue;
            }
            Err(Error::Full { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if subscriber.arm()? && publisher.arm()? {
            await_either(subscriber.poll_fd()?, publisher.poll_fd()?)?;
        }
        subscriber.disarm();
        publisher.disarm();
    }
    Ok(())
}

fn await_either(one: impl AsFd, other: impl AsFd) -> Result<()> {
    let mut fds = [
        PollFd::new(one.as_fd(), PollFlags::POLLIN),
        PollFd::new(other.as_fd(), PollFlags::POLLIN),
    ];
    let timeout = PollTimeout::try_from(PATIENCE.as_millis()).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(0) => bail!("nobody rang"),
        // What a poll of its own comes to is no matter here: it looks again.
        Ok(_) | Err(Errno::EINTR | Errno::ENOMEM | Errno::EAGAIN) => Ok(()),
        Err(error) => Err(error).context("waiting for a descriptor"),
    }
}

fn select(bus: &Bus, report: &mut Report) -> Result<()> {
    let first = open_subscriber(bus)?;
    let second = open_subscriber(bus)?;
    let mut selector = Selector::new()?;
    let one = selector.add(&first)?;
    selector.add(&second)?;
    let mut heard = [Heard::default(), Heard::default()];
    let deadline = Instant::now() + PATIENCE;
    let mut received = 0;
    while received < RECEIVED {
        if Instant::now() >= deadline {
            bail!("nothing comes");
        }
        let Some(token) = selector.wait_timeout(PATIENCE)? else {
            bail!("nothing comes");
        };
        let (subscriber, heard) = if token == one {
            (&first, &mut heard[0])
        } else {
            (&second, &mut heard[1])
        };
        while let Some(message) = subscriber.try_recv()? {
            heard.enter(&message, report);
            received += 1;
        }
    }
    Ok(())
}

fn pattern(bus: &Bus, tag: u64, report: &mut Report) -> Result<()> {
    let name = format!("p/{tag}");
    let mut subscriber = bus.pattern_bytes_subscriber("p/*")?;
    let mut publisher = bus.bytes_publisher(name)?;
    for sequence in 0..5 {
        publisher.send(&message(tag, sequence))?;
    }
    drop(publisher);
    let deadline = Instant::now() + PATIENCE;
    let mut sequence = 0;
    while sequence < 5 {
        // What it could not follow it says there, and only there.
        if let Some(skipped) = subscriber.skipped()?.first() {
            bail!("{}: {}", skipped.topic, skipped.why);
        }
        if Instant::now() >= deadline {
            bail!("nothing comes");
        }
        let Some(received) = subscriber.recv_timeout(LOOK)? else {
            continue;
        };
        let content = Content::read(received.into_message().bytes());
        if content != Ok(Content { tag, sequence }) {
            report
                .wrong
                .push(format!("{content:?} instead of number {sequence} of {tag}"));
        }
        sequence += 1;
    }
    Ok(())
}

fn state(bus: &Bus, tag: u64) -> Result<()> {
    let mut reader = bus.state::<u64>(STATE)?;
    let mut writer = bus.state_writer::<u64>(STATE)?;
    for round in 0..4 {
        let value = tag << 8 | round;
        if writer.set(&value).is_err() {
            writer.set(&value)?;
        }
        let seen = reader.get()?.map(|value| value.to_native());
        if seen != Some(value) {
            bail!("the state is {seen:?}, and was set to {value}");
        }
    }
    Ok(())
}

fn alone(bus: &Bus, tag: u64, report: &mut Report) -> Result<()> {
    let subscriber = open_subscriber(bus)?;
    let mut publisher = open_publisher(bus)?;
    for sequence in 0..10 {
        send(&mut publisher, &message(tag, sequence), report)?;
        let received = subscriber.recv_timeout(PATIENCE)?;
        let received = received.ok_or_else(|| anyhow!("nothing comes"))?;
        let content = Content::read(received.bytes());
        if content != Ok(Content { tag, sequence }) {
            report
                .wrong
                .push(format!("{content:?} instead of number {sequence} of {tag}"));
        }
    }
    Ok(())
}
