//! Those who speak with a client whose session thread's system calls are refused: they end its broker and start others, speak to it and listen to what it says again.
//!
//! What is not said again in time is said once more, and counted: it was lost, unless the client got an error.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bus_client::{Bus, BytesPublisher, BytesSubscriber};
use bus_daemon::{Broker, BrokerThread};

use crate::kill_points::content::Content;
use crate::kill_points::operation::SHORT;

/// The topic on which the client hears.
pub const TO: &str = "to";
/// The topic on which it says that again.
pub const FROM: &str = "from";
/// The topics that it follows.
pub const PATTERN: &str = "p/*";
/// The tag of the message behind which there is none.
pub const LAST: u64 = 0;
/// Brokers that are ended.
const ROUNDS: u64 = 2;
/// Messages in a row.
const MESSAGES: u64 = 3;
/// How long a message may take there and back.
const THERE_AND_BACK: Duration = Duration::from_secs(4);
/// How often it is said.
const ATTEMPTS: u32 = 4;

/// The company, and the broker of now.
pub struct Company {
    speaker: Speaker,
    listener: Listener,
    bus: Bus,
    broker: Option<BrokerThread>,
    said_again: u64,
    doubled: u64,
}

/// What was noticed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noticed {
    /// Messages that had to be said more than once.
    pub lost: u64,
    /// Messages that came more often than they were said.
    pub doubled: u64,
}

struct Speaker {
    publisher: BytesPublisher,
    tag: u64,
    next: u64,
}

struct Listener {
    subscriber: BytesSubscriber,
    /// How often each message came.
    came: HashMap<(u64, u64), u64>,
}

impl Speaker {
    fn new(publisher: BytesPublisher, tag: u64) -> Self {
        Self {
            publisher,
            tag,
            next: 0,
        }
    }

    fn say(&mut self, content: Content) -> Result<()> {
        let sent = self
            .publisher
            .send_timeout(&content.bytes(SHORT), THERE_AND_BACK);
        sent.with_context(|| format!("saying {content:?}"))?;
        Ok(())
    }
}

impl Listener {
    fn new(subscriber: BytesSubscriber) -> Self {
        Self {
            subscriber,
            came: HashMap::new(),
        }
    }

    /// Whether this message comes in time.
    fn hears(&mut self, content: Content) -> Result<bool> {
        let deadline = Instant::now() + THERE_AND_BACK;
        loop {
            if self.came.contains_key(&(content.tag, content.sequence)) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(message) = self.subscriber.recv_timeout(left)? else {
                return Ok(false);
            };
            match Content::read(message.bytes()) {
                Ok(read) => *self.came.entry((read.tag, read.sequence)).or_default() += 1,
                Err(why) => bail!("it says something else: {why}"),
            }
        }
    }

    fn doubled(&self) -> u64 {
        self.came.values().map(|times| times - 1).sum()
    }
}

impl Company {
    /// Starts a broker, and whom the client is to know from the beginning.
    ///
    /// # Errors
    /// They cannot be had.
    pub fn new(socket: &Path) -> Result<Self> {
        let broker = Broker::bind(socket)?.spawn()?;
        let bus = Bus::builder("company")
            .socket(socket)
            .embedded(false)
            .spin(Duration::ZERO)
            .connect()?;
        Ok(Self {
            speaker: Speaker::new(bus.bytes_publisher(TO)?, 1),
            listener: Listener::new(bus.bytes_subscriber(FROM)?),
            bus,
            broker: Some(broker),
            said_again: 0,
            doubled: 0,
        })
    }

    /// Ends brokers and starts others, speaks and listens after each, and says at last that it is over. The client may still read that: the company
    /// is to stay until it has ended.
    ///
    /// # Errors
    /// Somebody gets an error, or hears nothing however often it is said.
    pub fn keep(&mut self, socket: &Path) -> Result<Noticed> {
        for _ in 0..MESSAGES {
            self.speak(None)?;
        }
        for round in 0..ROUNDS {
            drop(self.broker.take());
            // While no broker is there.
            self.speak(None)?;
            self.broker = Some(Broker::bind(socket)?.spawn()?);
            let mut guest = Listener::new(self.bus.bytes_subscriber(FROM)?);
            let tag = 10 + round;
            let mut newcomer = Speaker::new(self.bus.bytes_publisher(TO)?, tag);
            let name = format!("p/{round}");
            let mut topic = Speaker::new(self.bus.bytes_publisher(name)?, 20 + round);
            for _ in 0..MESSAGES {
                self.speak(Some(&mut guest))?;
                self.converse(&mut newcomer, Some(&mut guest))?;
                self.converse(&mut topic, Some(&mut guest))?;
            }
            self.doubled += guest.doubled();
        }
        let last = Content {
            tag: LAST,
            sequence: 0,
        };
        self.speaker.say(last)?;
        Speaker::new(self.bus.bytes_publisher("p/last")?, LAST).say(last)?;
        Ok(Noticed {
            lost: self.said_again,
            doubled: self.doubled + self.listener.doubled(),
        })
    }

    fn speak(&mut self, guest: Option<&mut Listener>) -> Result<()> {
        converse(
            &mut self.speaker,
            &mut self.listener,
            guest,
            &mut self.said_again,
        )
    }

    fn converse(&mut self, speaker: &mut Speaker, guest: Option<&mut Listener>) -> Result<()> {
        converse(speaker, &mut self.listener, guest, &mut self.said_again)
    }
}

/// One message is said, and heard by all when the client says it again.
fn converse(
    speaker: &mut Speaker,
    listener: &mut Listener,
    mut guest: Option<&mut Listener>,
    said_again: &mut u64,
) -> Result<()> {
    let content = Content {
        tag: speaker.tag,
        sequence: speaker.next,
    };
    speaker.next += 1;
    for attempt in 0..ATTEMPTS {
        *said_again += u64::from(attempt > 0);
        speaker.say(content)?;
        let mut heard = listener.hears(content)?;
        if let Some(guest) = guest.as_deref_mut() {
            heard &= guest.hears(content)?;
        }
        if heard {
            return Ok(());
        }
    }
    bail!("nobody says {content:?} again, {ATTEMPTS} times")
}
