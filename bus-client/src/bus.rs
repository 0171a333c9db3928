//! A process's way into the bus.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus_core::publish::Payload;
use bus_core::{ClientName, TopicName};

use crate::session::{Connector, Session};
use crate::{
    BytesPublisher, BytesSubscriber, PatternBytesSubscriber, PatternSubscriber, Publisher, Result,
    Subscriber, TopicBuilder,
};

/// How long to look again before sleeping, unless told otherwise: a measured choice, see `docs/measurements.md`.
const DEFAULT_SPIN: Duration = Duration::from_micros(20);

/// A connection to the bus; cheap to clone. Handles made from it keep what they need alive.
///
/// When the broker goes, handles go on among each other and turn to the next one by themselves: one that is started, or hosted here or by another
/// process. A thread of this library sees to that, for as long as this or any handle made from it lives. It sleeps while nothing changes.
///
/// With no broker at the socket, the first process to connect hosts one on a thread, for as long as
/// this or any handle made from it lives.
#[derive(Clone)]
pub struct Bus {
    pub(crate) session: Arc<Session>,
    pub(crate) spin: Duration,
}

/// How to connect.
#[must_use]
pub struct BusBuilder {
    name: String,
    socket: Option<PathBuf>,
    embedded: bool,
    spin: Duration,
}

impl Bus {
    /// Connects under a name: 1 to 127 bytes of `[a-z0-9_.-]` in `/`-separated, non-empty parts. It need not be unique.
    ///
    /// The broker is sought at `$BUS_SOCKET`, else `$XDG_RUNTIME_DIR/bus.sock`, else `bus-<uid>/bus.sock` under the
    /// temporary directory.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a bad name or path, [`Error::Broker`](crate::Error::Broker) where the
    /// broker cannot be reached.
    pub fn connect(name: impl Into<String>) -> Result<Self> {
        Self::builder(name).connect()
    }

    /// Connects with other choices than the default ones.
    pub fn builder(name: impl Into<String>) -> BusBuilder {
        BusBuilder {
            name: name.into(),
            socket: None,
            embedded: true,
            spin: DEFAULT_SPIN,
        }
    }

    /// Whether this process hosts the broker.
    pub fn hosts_broker(&self) -> bool {
        self.session.hosts()
    }

    /// A topic, to be opened with settings of its own.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a bad name.
    pub fn topic(&self, topic: impl Into<String>) -> Result<TopicBuilder> {
        Ok(TopicBuilder::new(self.clone(), TopicName::new(topic)?))
    }

    /// A publisher of `T` on a topic, which is created if nobody has it open.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) where the topic carries another type, or is full of publishers;
    /// [`Error::Topic`](crate::Error::Topic) where there is no memory for its ring.
    pub fn publisher<T: Payload>(&self, topic: impl Into<String>) -> Result<Publisher<T>> {
        self.topic(topic)?.publisher()
    }

    /// A subscriber to `T` on a topic, which is created if nobody has it open.
    ///
    /// It misses nothing that is published after this returns.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) where the topic carries another type.
    pub fn subscriber<T: Payload>(&self, topic: impl Into<String>) -> Result<Subscriber<T>> {
        self.topic(topic)?.subscriber()
    }

    /// A publisher of raw bytes.
    ///
    /// # Errors
    /// As for [`publisher`](Self::publisher).
    pub fn bytes_publisher(&self, topic: impl Into<String>) -> Result<BytesPublisher> {
        self.topic(topic)?.bytes_publisher()
    }

    /// A subscriber to raw bytes.
    ///
    /// # Errors
    /// As for [`subscriber`](Self::subscriber).
    pub fn bytes_subscriber(&self, topic: impl Into<String>) -> Result<BytesSubscriber> {
        self.topic(topic)?.bytes_subscriber()
    }

    /// A subscriber to `T` on all topics that match a pattern, those that are there and those to come: `market/*` means one more part,
    /// `market/**` any number of them, `**` everything.
    ///
    /// Topics of another type are [skipped](PatternSubscriber::skipped). Of those that are there it gets what is published after this
    /// returns; of a topic to come everything, from its first message on: see [`PatternSubscriber`].
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a bad pattern, [`Error::Broker`](crate::Error::Broker) where the broker cannot
    /// be reached.
    pub fn pattern_subscriber<T: Payload>(
        &self,
        pattern: impl Into<String>,
    ) -> Result<PatternSubscriber<T>> {
        PatternSubscriber::open(self, pattern)
    }

    /// A subscriber to raw bytes on all topics that match a pattern.
    ///
    /// # Errors
    /// As for [`pattern_subscriber`](Self::pattern_subscriber).
    pub fn pattern_bytes_subscriber(
        &self,
        pattern: impl Into<String>,
    ) -> Result<PatternBytesSubscriber> {
        PatternBytesSubscriber::open(self, pattern)
    }
}

impl BusBuilder {
    /// The path of the broker's socket, at most 107 bytes.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Whether to host a broker here if there is none; `true` by default.
    pub fn embedded(mut self, embedded: bool) -> Self {
        self.embedded = embedded;
        self
    }

    /// How long a handle spins before it sleeps, at most; 20 microseconds by default. It spins less where waits have been
    /// longer than that. More saves wake-ups and costs processor time; zero sleeps at once.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// As for [`Bus::connect`].
    pub fn connect(self) -> Result<Bus> {
        let name = ClientName::new(self.name)?;
        let path = match self.socket {
            Some(path) => path,
            None => bus_core::control::socket_path()?,
        };
        let connector = Connector::new(name, path, self.embedded);
        Ok(Bus {
            session: Arc::new(Session::start(connector)?),
            spin: self.spin,
        })
    }
}
