//! Honest processes of the live lane: they use the library as anybody does, check what they get, and say how far they are.

use std::collections::HashMap;
use std::io::{BufRead, stdin};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bus_client::{Bus, BytesPublisher, BytesSubscriber, CoreError, Delivery, Error, TopicBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::content;
use crate::process::{say, settings};

/// Sends.
pub const SENDER: &str = "hostile-sender";
/// Receives.
pub const READER: &str = "hostile-reader";
/// The name under which honest publishers connect; their salt follows.
const NAME: &str = "honest-";

/// How often one says how far it is.
const TELL: Duration = Duration::from_millis(50);
/// How long a call waits before its process listens to the run again.
const WAIT: Duration = Duration::from_millis(50);
/// Messages between two short rests, for there are few processors.
const BURST: u64 = 32;
const REST: Duration = Duration::from_micros(200);

/// What an honest process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Given {
    /// Where the broker is.
    pub socket: PathBuf,
    /// The topic.
    pub topic: String,
    /// Of the topic.
    pub kind: Kind,
    /// What a sender's messages hold follows from this.
    pub salt: u64,
    /// A sender sends a wrong message, to show that it is noticed.
    pub broken: bool,
}

/// A delivery, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Publishers wait.
    Wait,
    /// Publishers are told that it is full.
    Fail,
    /// Publishers wait for a while.
    Evict,
    /// Publishers never wait.
    Lossy,
}

/// How long publishers of an evicting topic wait.
const PATIENCE: Duration = Duration::from_millis(300);
/// Bytes of the longest message.
pub const LONGEST: usize = 300;

impl Kind {
    /// What a topic of this kind does.
    #[must_use]
    pub fn delivery(self) -> Delivery {
        match self {
            Self::Wait => Delivery::Wait,
            Self::Fail => Delivery::Fail,
            Self::Evict => Delivery::evict_after(PATIENCE),
            Self::Lossy => Delivery::Lossy,
        }
    }
}

/// Lines that the run says, as they come.
fn orders() -> Receiver<String> {
    let (sender, orders) = channel();
    thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    orders
}

fn topic(given: &Given, name: String) -> Result<TopicBuilder> {
    let bus = Bus::builder(name)
        .socket(&given.socket)
        .embedded(false)
        .connect()?;
    let topic = bus.topic(given.topic.clone())?;
    Ok(topic
        .depth(64)
        .max_payload(LONGEST as u64)
        .delivery(given.kind.delivery()))
}

/// Plays a sender.
///
/// # Errors
/// The run is gone.
pub fn send(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let publisher = topic(&given, format!("{NAME}{}", given.salt))?.bytes_publisher()?;
    say("ready")?;
    let orders = orders();
    let mut sender = Sender {
        given,
        publisher,
        sent: 0,
        buffer: Vec::new(),
    };
    let (mut paused, mut told) = (false, Instant::now());
    loop {
        let order = if paused {
            orders.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            orders.try_recv()
        };
        match order.as_deref() {
            Ok("pause") => {
                paused = true;
                say(&format!("total {}", sender.sent))?;
            }
            Ok("go") => paused = false,
            Ok(other) => bail!("told {other:?}"),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        if paused {
            continue;
        }
        for _ in 0..BURST {
            if let Err(error) = sender.send_one() {
                return say(&format!("violated an honest publisher is told: {error}"));
            }
        }
        thread::sleep(REST);
        if told.elapsed() >= TELL {
            say(&format!("at {}", sender.sent))?;
            told = Instant::now();
        }
    }
}

struct Sender {
    given: Given,
    publisher: BytesPublisher,
    sent: u64,
    buffer: Vec<u8>,
}

impl Sender {
    /// Sends the next message, if there is room in time.
    fn send_one(&mut self) -> Result<(), Error> {
        let broken = u64::from(self.given.broken && self.sent == 1000);
        self.buffer
            .resize(content::length(self.given.salt, self.sent, LONGEST), 0);
        content::write(self.given.salt ^ broken, self.sent, &mut self.buffer);
        let sent = match self.given.kind {
            Kind::Fail => self.publisher.try_send(&self.buffer),
            _ => self.publisher.send_timeout(&self.buffer, WAIT),
        };
        match sent {
            Ok(_) => self.sent += 1,
            Err(Error::Full { .. } | Error::Timeout { .. }) => thread::sleep(REST),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Plays a reader.
///
/// # Errors
/// The run is gone.
pub fn read(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let subscriber = topic(&given, "honest-reader".into())?.bytes_subscriber()?;
    say("ready")?;
    let orders = orders();
    let mut reader = Reader {
        given,
        subscriber,
        next: HashMap::new(),
        foreign: 0,
        evicted: false,
    };
    let mut told = Instant::now();
    loop {
        match orders.try_recv().as_deref() {
            // How far it is with whom.
            Ok("where") => say(&format!("there {}", serde_json::to_string(&reader.next)?))?,
            Ok(other) => bail!("told {other:?}"),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        if let Err(error) = reader.receive() {
            return say(&format!("violated {error:#}"));
        }
        if told.elapsed() >= TELL {
            let honest: u64 = reader.next.values().sum();
            let (foreign, evicted) = (reader.foreign, u64::from(reader.evicted));
            say(&format!("at {honest} {foreign} {evicted}"))?;
            told = Instant::now();
        }
    }
}

struct Reader {
    given: Given,
    subscriber: BytesSubscriber,
    /// By salt: the next message of each honest publisher.
    next: HashMap<u64, u64>,
    /// Messages and errors from a hostile publisher.
    foreign: u64,
    /// An honest publisher has evicted this reader: on a busy machine that is the topic's rule.
    evicted: bool,
}

impl Reader {
    fn salt(&self, publisher: u64) -> Option<u64> {
        let peer = self.subscriber.peer(publisher)?;
        peer.client.strip_prefix(NAME)?.parse().ok()
    }

    fn receive(&mut self) -> Result<()> {
        let message = match self.subscriber.recv_timeout(WAIT) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            Err(Error::Topic {
                source: CoreError::Corrupt { .. },
                ..
            }) => {
                self.foreign += 1;
                return Ok(());
            }
            Err(Error::Evicted {
                source: CoreError::Evicted { publisher },
                ..
            }) => {
                match self.salt(publisher) {
                    Some(_) if self.given.kind == Kind::Evict => self.evicted = true,
                    Some(_) => bail!("evicted from a topic of kind {:?}", self.given.kind),
                    None => self.foreign += 1,
                }
                // It is said each time, and there is nothing to do about it here.
                thread::sleep(TELL / 10);
                return Ok(());
            }
            Err(error) => bail!("an honest subscriber is told: {error}"),
        };
        let (publisher, sequence, lost) = (message.publisher(), message.sequence(), message.lost());
        let Some(salt) = self.salt(publisher) else {
            std::hint::black_box(content::read(message.bytes()));
            self.foreign += 1;
            return Ok(());
        };
        if !content::is_right(salt, sequence, LONGEST, message.bytes()) {
            bail!("message {sequence} of an honest publisher holds something else than was sent");
        }
        drop(message);
        let next = self.next.entry(salt).or_default();
        let lossy = self.given.kind == Kind::Lossy;
        if sequence != *next + lost || (lost > 0 && !lossy) {
            bail!("message {sequence} of an honest publisher, expected {next} and {lost} lost");
        }
        *next = sequence + 1;
        Ok(())
    }
}
