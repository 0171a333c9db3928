//! Those whom a broker serves while one of its system calls is refused: they come, talk, are refused, park, die, and go.
//!
//! Each step that fails is tried again: one fault may cost somebody one error. Whatever became of the broker, those who had met talk on.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bus_client::{Bus, BytesPublisher, BytesSubscriber, Error};

use crate::kill_points::TOPIC;
use crate::kill_points::content::Content;
use crate::kill_points::operation::{Operation, SHORT};
use crate::kill_points::victim;
use crate::process::Worker;
use crate::tracer::marks::BEGIN;

/// How often a step is tried.
const ATTEMPTS: u32 = 4;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long the broker may take to listen.
const LISTENS: Duration = Duration::from_secs(10);
/// Tags of those who talk.
const FIRST: u64 = 1;

/// What customers got that was an error.
#[derive(Debug, Default)]
pub struct Complaints(pub Vec<String>);

impl Complaints {
    /// Tries until it works.
    fn insist<T>(
        &mut self,
        socket: &Path,
        what: &str,
        mut step: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            // It may have to bind once more.
            connect(socket)?;
            match step() {
                Ok(done) => return Ok(done),
                Err(error) => {
                    self.0.push(format!("{what}: {error:#}"));
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| anyhow!("never tried")))
            .with_context(|| format!("{what}, {ATTEMPTS} times"))
    }
}

/// A publisher and a subscriber that talk with each other.
struct Pair {
    publisher: BytesPublisher,
    subscriber: BytesSubscriber,
    tag: u64,
    sent: u64,
}

impl Pair {
    fn meet(bus: &Bus, topic: &str, tag: u64) -> Result<Self> {
        let open = || Ok::<_, Error>(Operation::PublishInline.settle(bus.topic(topic)?));
        let subscriber = open()?.bytes_subscriber()?;
        let mut publisher = open()?.bytes_publisher()?;
        publisher.wait_for_subscribers(1, Some(PATIENCE))?;
        Ok(Self {
            publisher,
            subscriber,
            tag,
            sent: 0,
        })
    }

    /// Messages go from one to the other, none lost, none doubled.
    fn talk(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            let content = Content {
                tag: self.tag,
                sequence: self.sent,
            };
            self.publisher
                .send_timeout(&content.bytes(SHORT), PATIENCE)?;
            self.sent += 1;
            let message = self.subscriber.recv_timeout(PATIENCE)?;
            let message = message.context("a message does not come")?;
            let read = Content::read(message.bytes());
            if read != Ok(content) {
                bail!("{read:?} comes instead of {content:?}");
            }
        }
        Ok(())
    }
}

/// Everything that customers do, until the broker is to be stopped.
///
/// # Errors
/// Something does not work, however often it is tried.
pub fn call(socket: &Path, complaints: &mut Complaints) -> Result<()> {
    let bus = connect(socket)?;
    let mut pair = complaints.insist(socket, "two meet", || Pair::meet(&bus, TOPIC, FIRST))?;
    pair.talk(5)?;
    complaints.insist(socket, "one more comes and goes", || {
        let guest = Operation::PublishInline.settle(bus.topic(TOPIC)?);
        let guest = guest.bytes_subscriber()?;
        pair.talk(3)?;
        let message = guest.recv_timeout(PATIENCE)?;
        message.context("it hears nothing")?;
        Ok(())
    })?;
    complaints.insist(socket, "another type is refused", || {
        match bus.publisher::<u64>(TOPIC) {
            Err(Error::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => bail!("it is let in"),
        }
    })?;
    complaints.insist(socket, "one parks", || {
        let sleeper = bus.bytes_subscriber("parked")?;
        sleeper.poll_fd()?;
        if sleeper.arm()? {
            sleeper.disarm();
        }
        Ok(())
    })?;
    complaints.insist(socket, "one dies", || die(socket))?;
    // More than a ring: nobody who is gone gates.
    pair.talk(2 * Operation::PublishInline.depth())?;
    complaints.insist(socket, "two others meet", || {
        Pair::meet(&bus, "others", FIRST + 1)?.talk(5)
    })?;
    complaints.insist(socket, "one follows a pattern", || {
        let mut follower = bus.pattern_bytes_subscriber("p/*")?;
        let mut publisher = bus.bytes_publisher("p/x")?;
        let content = Content {
            tag: FIRST + 2,
            sequence: 0,
        };
        publisher.send(&content.bytes(SHORT))?;
        let message = follower.recv_timeout(PATIENCE)?;
        message.context("it hears nothing")?;
        Ok(())
    })?;
    pair.talk(5)
}

fn connect(socket: &Path) -> Result<Bus> {
    let deadline = Instant::now() + LISTENS;
    loop {
        let bus = Bus::builder("customer")
            .socket(socket)
            .embedded(false)
            .spin(Duration::ZERO)
            .connect();
        match bus {
            Ok(bus) => return Ok(bus),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A process joins and dies: it stands at a mark, with nobody to find it there.
fn die(socket: &Path) -> Result<()> {
    let part = victim::Part {
        socket: socket.to_owned(),
        operation: Operation::Receive,
        mutant: false,
    };
    let mut mortal = Worker::start(victim::VICTIM.0, &part)?;
    mortal.tell("1");
    let end = mortal.end(PATIENCE)?;
    if end.signal() != Some(BEGIN as i32) {
        bail!("it did not come so far: {end}");
    }
    Ok(())
}
