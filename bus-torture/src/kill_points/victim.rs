//! The process that is killed: opens its handle, stands at the first mark, does one thing, stands at the second.
//!
//! It waits for its tracer before it does anything: for a line with its number. What it is to send is ready before the first mark.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bus_client::{Bus, BytesSubscriber, TopicBuilder};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::content::Content;
use super::operation::{LONG, Operation, SHORT, Side};
use super::{STATE, TOPIC, mutant};
use crate::process::{Role, settings};
use crate::tracer::marks::{BEGIN, END, stand};

/// Longest wait of a victim for what the run does for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The role of a victim.
pub const VICTIM: Role = ("victim", play);

/// What a victim is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The broker's socket.
    pub socket: PathBuf,
    /// What it does.
    pub operation: Operation,
    /// Whether it breaks the protocol on purpose, to show that this is noticed.
    pub mutant: bool,
}

/// The state that is set.
#[bus_client::message]
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Who set it.
    pub tag: u64,
    /// Which one it is.
    pub number: u64,
    /// Words that follow from both.
    pub words: Vec<u8>,
}

impl Reading {
    /// A value that is right.
    #[must_use]
    pub fn new(tag: u64, number: u64) -> Self {
        let content = Content {
            tag,
            sequence: number,
        };
        Self {
            tag,
            number,
            words: content.bytes(LONG),
        }
    }
}

/// Plays the victim, and fails where something fails before it is killed.
fn play(given: Value) -> Result<()> {
    let part: Part = settings(given)?;
    let Some(line) = hear()? else {
        return Ok(());
    };
    let tag = line.parse().context("reading its number")?;
    let bus = Bus::builder("victim")
        .socket(&part.socket)
        .embedded(false)
        .spin(Duration::ZERO)
        .connect()?;
    let topic = part.operation.settle(bus.topic(TOPIC)?);
    match part.operation {
        Operation::SetState => set_state(&bus, tag)?,
        Operation::JoinPublisher => join(|| Ok(topic.bytes_publisher()?))?,
        Operation::JoinSubscriber => join(|| Ok(topic.bytes_subscriber()?))?,
        operation => match operation.side() {
            Side::Publisher => publish(&part, topic, tag)?,
            Side::Subscriber => receive(operation, topic)?,
        },
    }
    // The handles are open until here: it is for the run to end this process.
    hear()?;
    Ok(())
}

/// What it was opened stays open until the process ends.
fn join<H>(open: impl FnOnce() -> Result<H>) -> Result<()> {
    stand(BEGIN);
    let handle = open()?;
    stand(END);
    hear()?;
    drop(handle);
    Ok(())
}

fn set_state(bus: &Bus, tag: u64) -> Result<()> {
    let mut writer = bus.state_writer::<Reading>(STATE)?;
    let before = Operation::SetState.before();
    for number in 0..before {
        writer.set(&Reading::new(tag, number))?;
    }
    let value = Reading::new(tag, before);
    stand(BEGIN);
    writer.set(&value)?;
    stand(END);
    hear()?;
    Ok(())
}

fn publish(part: &Part, topic: TopicBuilder, tag: u64) -> Result<()> {
    let operation = part.operation;
    let mut publisher = topic.bytes_publisher()?;
    for sequence in 0..operation.before() {
        let content = Content { tag, sequence };
        publisher.try_send(&content.bytes(SHORT))?;
    }
    let messages: Vec<_> = (operation.before()..)
        .zip(operation.publishes())
        .map(|(sequence, len)| Content { tag, sequence }.bytes(*len))
        .collect();
    if part.mutant {
        return mutant::publish(&mut publisher, &messages);
    }
    let mut messages = messages.iter().map(Vec::as_slice);
    match operation {
        Operation::PublishBatch => {
            stand(BEGIN);
            publisher.publish_batch(messages)?;
            stand(END);
        }
        Operation::PublishLoan => {
            let message = messages.next().context("nothing to send")?;
            stand(BEGIN);
            let mut loan = publisher.loan(message.len())?;
            loan.bytes().copy_from_slice(message);
            loan.send(message.len());
            stand(END);
        }
        Operation::LeavePublisher => {
            stand(BEGIN);
            drop(publisher);
            stand(END);
            return Ok(());
        }
        Operation::ParkPublisher => {
            let message = messages.next().context("nothing to send")?;
            publisher.poll_fd()?;
            stand(BEGIN);
            if publisher.arm()? {
                await_readable(publisher.poll_fd()?)?;
            }
            publisher.disarm();
            publisher.try_send(message)?;
            stand(END);
        }
        _ => {
            stand(BEGIN);
            for message in messages {
                publisher.send(message)?;
            }
            stand(END);
        }
    }
    hear()?;
    Ok(())
}

fn receive(operation: Operation, topic: TopicBuilder) -> Result<()> {
    let subscriber = topic.bytes_subscriber()?;
    match operation {
        Operation::Receive | Operation::WakePublisher => {
            stand(BEGIN);
            let message = subscriber.try_recv()?.context("nothing came")?;
            Content::read(message.bytes()).map_err(|why| anyhow!(why))?;
            drop(message);
            stand(END);
        }
        Operation::ReceiveBatch => {
            stand(BEGIN);
            let batch = subscriber.recv_batch(operation.receives().len())?;
            for message in &batch {
                Content::read(message?).map_err(|why| anyhow!(why))?;
            }
            drop(batch);
            stand(END);
        }
        Operation::ReceiveLossy => {
            stand(BEGIN);
            let first = subscriber.try_recv()?.context("nothing came")?.hold();
            for _ in 0..BEYOND {
                let message = subscriber.try_recv()?.context("too few came")?;
                Content::read(message.bytes()).map_err(|why| anyhow!(why))?;
            }
            Content::read(first.bytes()).map_err(|why| anyhow!(why))?;
            drop(first);
            stand(END);
        }
        Operation::ReceiveAsleep => {
            stand(BEGIN);
            let message = subscriber.recv()?;
            Content::read(message.bytes()).map_err(|why| anyhow!(why))?;
            drop(message);
            stand(END);
        }
        Operation::Hold => hold(&subscriber)?,
        Operation::LeaveSubscriber => {
            stand(BEGIN);
            drop(subscriber);
            stand(END);
            return Ok(());
        }
        Operation::Notify => {
            stand(BEGIN);
            subscriber.poll_fd()?;
            if subscriber.arm()? {
                subscriber.disarm();
            }
            stand(END);
        }
        Operation::ParkSubscriber => {
            subscriber.poll_fd()?;
            stand(BEGIN);
            if subscriber.arm()? {
                await_readable(subscriber.poll_fd()?)?;
            }
            subscriber.disarm();
            subscriber.try_recv()?.context("nothing came")?;
            stand(END);
        }
        other => bail!("{} is nothing that a subscriber does", other.name()),
    }
    hear()?;
    drop(subscriber);
    Ok(())
}

/// Messages that are received beside one that is held, where the publisher goes past: more than a window.
const BEYOND: usize = 20;

fn hold(subscriber: &BytesSubscriber) -> Result<()> {
    stand(BEGIN);
    let first = subscriber.try_recv()?.context("nothing came")?.hold();
    let second = subscriber.try_recv()?.context("too few came")?.hold();
    let third = subscriber.try_recv()?.context("too few came")?.hold();
    drop(second);
    drop(third);
    drop(first);
    drop(subscriber.try_recv()?.context("too few came")?);
    stand(END);
    Ok(())
}

fn await_readable(fd: impl AsFd) -> Result<()> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE.as_millis()).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout).context("waiting for its descriptor")? {
        0 => bail!("nobody rang"),
        _ => Ok(()),
    }
}

/// The next line from the run; none when there will be no more.
fn hear() -> Result<Option<String>> {
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    let read = read.context("listening to the run")?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}
