//! Who survives: the broker, a publisher and a subscriber on the victim's topic, and whom an operation needs beside them.
//!
//! Promises: one crew serves any number of victims, one after the other; what a victim leaves behind is seen by [`check`](Crew::check) of that victim.
//! What that looks at is in `check`.

mod check;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bus_client::{Bus, BytesPublisher, BytesSubscriber, Error, Held, State};
use bus_daemon::{Broker, BrokerThread};
use tempfile::TempDir;

use super::census::Census;
use super::content::Content;
use super::death::Death;
use super::fault::Fault;
use super::operation::{Operation, SHORT, Side};
use super::reader::Reader;
use super::sleeper::{Sleep, SleepingReader, SleepingWriter};
use super::victim::Reading;
use super::{STATE, TOPIC};

/// How long anything may take that is promised without a time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The tag of the publisher that survives.
const WRITER: u64 = 1;
/// Of the one that sleeps for room.
const WAITER: u64 = 2;
/// Of the first victim.
pub const FIRST_VICTIM: u64 = 1_000;

/// A victim that was killed.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// Its process.
    pub pid: u32,
    /// Its number.
    pub tag: u64,
    /// Whether it had done what it began.
    pub done: bool,
    /// When that was.
    pub at: Death,
}

/// The survivors of one operation.
pub struct Crew {
    operation: Operation,
    writer: BytesPublisher,
    written: u64,
    reader: Reader,
    /// One that reads nothing of the victim, where publishers may go past it; and what it holds.
    slow: Option<Reader>,
    held: Option<Held>,
    sleeper: Option<SleepingReader>,
    waiter: Option<SleepingWriter>,
    state: Option<State<Reading>>,
    /// What was there before any victim.
    census: Option<Census>,
    newcomers: u64,
    stirred: u64,
    /// Who came while somebody waited, and neither sends nor receives.
    guests: Option<(BytesPublisher, BytesSubscriber)>,
    bus: Bus,
    // Last: its end is that of everybody's connection.
    _broker: BrokerThread,
    dir: TempDir,
}

impl Crew {
    /// Starts a broker of its own, and whom the operation needs.
    ///
    /// # Errors
    /// Something of it cannot be had.
    pub fn new(operation: Operation) -> Result<Self, Fault> {
        let dir = tempfile::tempdir().map_err(Fault::run)?;
        let socket = socket(dir.path());
        let broker = Broker::bind(&socket)
            .and_then(Broker::spawn)
            .map_err(Fault::run)?;
        let bus = Bus::builder("survivor")
            .socket(&socket)
            .embedded(false)
            .spin(Duration::ZERO)
            .connect()?;
        let topic = || Ok::<_, Fault>(operation.settle(bus.topic(TOPIC)?));
        let overruns = operation.overruns();
        let reader = Reader::new(topic()?.bytes_subscriber()?, overruns);
        let past = matches!(operation, Operation::PublishLossy | Operation::PublishEvict);
        let slow =
            past.then(|| Ok::<_, Fault>(Reader::new(topic()?.bytes_subscriber()?, overruns)));
        let sleep = match operation {
            Operation::WakeSubscriber => Some(Sleep::Bell),
            Operation::RingSubscriber => Some(Sleep::Descriptor),
            _ => None,
        };
        let sleeper = sleep.map(|how| SleepingReader::start(topic()?.bytes_subscriber()?, how));
        let waiter = (operation == Operation::WakePublisher)
            .then(|| SleepingWriter::start(topic()?.bytes_publisher()?, WAITER));
        let state = (operation == Operation::SetState).then(|| bus.state(STATE));
        Ok(Self {
            operation,
            writer: topic()?.bytes_publisher()?,
            written: 0,
            reader,
            slow: slow.transpose()?,
            held: None,
            sleeper: sleeper.transpose()?,
            waiter: waiter.transpose()?,
            state: state.transpose()?,
            census: None,
            newcomers: 0,
            stirred: 0,
            guests: None,
            bus,
            _broker: broker,
            dir,
        })
    }

    /// The broker's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(self.dir.path())
    }

    /// The victim stands and is about to begin: everybody else takes the place that the operation needs.
    ///
    /// # Errors
    /// Somebody cannot.
    pub fn arrange(&mut self) -> Result<(), Fault> {
        match self.operation {
            // Full rings stay full until the victim sleeps; whom it evicts reads nothing.
            Operation::PublishFull | Operation::ParkPublisher => {}
            Operation::PublishLossy => {
                self.reader.drain()?;
                if let Some(slow) = &mut self.slow {
                    self.held = Some(slow.hold()?);
                }
            }
            _ => self.reader.drain()?,
        }
        for len in self.operation.receives() {
            self.write(*len)?;
        }
        self.attend()?;
        if let Some(waiter) = &mut self.waiter {
            let full = waiter.due() + self.operation.depth();
            waiter.send(self.operation.depth() + 1);
            waiter.await_sent(full, PATIENCE)?;
            self.reader.drain()?;
            waiter.await_asleep()?;
        }
        match &self.sleeper {
            Some(sleeper) => sleeper.await_asleep(),
            None => Ok(()),
        }
    }

    /// The victim sleeps for somebody: does what it waits for.
    ///
    /// # Errors
    /// That fails.
    pub fn nudge(&mut self) -> Result<(), Fault> {
        match self.operation.side() {
            Side::Publisher => self.reader.drain(),
            Side::Subscriber => self.offer(),
        }
    }

    /// Sends the writer's next message, if there is room.
    fn offer(&mut self) -> Result<(), Fault> {
        let content = Content {
            tag: WRITER,
            sequence: self.written,
        };
        match self.writer.try_send(&content.bytes(SHORT)) {
            Ok(_) => self.written += 1,
            Err(Error::Full { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Sends the writer's next message; there has to be room.
    fn write(&mut self, len: usize) -> Result<(), Fault> {
        let content = Content {
            tag: WRITER,
            sequence: self.written,
        };
        self.writer.try_send(&content.bytes(len))?;
        self.written += 1;
        Ok(())
    }

    /// Those who read do, as far as the operation lets them.
    fn attend(&mut self) -> Result<(), Fault> {
        if !matches!(
            self.operation,
            Operation::PublishFull | Operation::ParkPublisher
        ) {
            self.reader.drain()?;
        }
        Ok(())
    }

    /// Something happens that somebody may wait for: messages are read and sent, and now and then somebody comes and goes.
    ///
    /// # Errors
    /// That fails.
    pub fn stir(&mut self) -> Result<(), Fault> {
        self.read()?;
        self.offer()?;
        self.stirred += 1;
        match self.stirred % 4 {
            0 => self.guests = None,
            2 => {
                let topic = || Ok::<_, Fault>(self.operation.settle(self.bus.topic(TOPIC)?));
                self.guests = Some((topic()?.bytes_publisher()?, topic()?.bytes_subscriber()?));
            }
            _ => {}
        }
        Ok(())
    }

    /// Of each of these publishers, by its tag, came at least and at most so many messages.
    ///
    /// # Errors
    /// They did not.
    pub fn hear(&mut self, sent: &[(u64, u64, u64)]) -> Result<(), Fault> {
        self.read()?;
        for (tag, least, most) in sent {
            let came = self.reader.accounts().of(*tag);
            if !(least..=most).contains(&&came) {
                return Err(Fault::Broken(format!(
                    "{came} messages of publisher {tag} came, and it had sent {least} to {most}"
                )));
            }
        }
        Ok(())
    }

    /// This publisher is gone.
    pub fn forget_tag(&mut self, tag: u64) {
        self.reader.forget(tag);
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("bus.sock")
}
