//! A process's way into the bus.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use bus_core::control::{SocketPlace, SocketReason};
use bus_core::publish::Payload;
use bus_core::{ClientName, TopicName};

use crate::private::PrivateDirectory;
use crate::session::{Connector, STARTING, Session};
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
/// With no broker at the default path, the first process to connect hosts one on a thread, for as long as
/// this or any handle made from it lives. At a path that `BUS_SOCKET` or [`BusBuilder::socket`] names, a process hosts only if it asks
/// for that ([`BusBuilder::embedded`]).
///
/// Connect after the process has got its final user: the broker knows a process by its user, and a process that hosts and then
/// changes its user is refused new handles.
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
    /// None where the path decides.
    embedded: Option<bool>,
    raise_descriptor_limit: bool,
    spin: Duration,
}

impl Bus {
    /// Connects under a name: 1 to 127 bytes of `[a-z0-9_.-]` in `/`-separated, non-empty parts. It need not be unique.
    ///
    /// The broker is sought at `$BUS_SOCKET`, else `$XDG_RUNTIME_DIR/bus.sock`, else `/run/user/UID/bus.sock`, else
    /// `bus-UID/bus.sock` under the temporary directory. Of the runtime directories only one that is this user's is used. A program
    /// that runs with more rights than its caller (set-user-id, file capabilities) reads none of these variables. [`path`](Self::path)
    /// and `bus where` say which path it is.
    ///
    /// Waits up to 5 seconds for a broker that is just being started, and, where this process does not host one, for any broker.
    /// The limit of descriptors of this process stays as it is; see [`BusBuilder::raise_descriptor_limit`].
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
            embedded: None,
            raise_descriptor_limit: false,
            spin: DEFAULT_SPIN,
        }
    }

    /// A bus of its own, which meets no other: for tests, and for the threads of one process. This process hosts its broker, at a
    /// new path in the temporary directory. Processes that are told its [`path`](Self::path) can join.
    ///
    /// The directory is removed with this and the last handle made from it; a process that is killed leaves it.
    ///
    /// ```
    /// let bus = bus_client::Bus::private("test")?;
    /// let subscriber = bus.subscriber::<u64>("numbers")?;
    /// bus.publisher::<u64>("numbers")?.send(&7)?;
    /// assert_eq!(*subscriber.recv()?, 7);
    /// # Ok::<(), bus_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`connect`](Self::connect). [`Error::Broker`](crate::Error::Broker) also where no directory can be made.
    pub fn private(name: impl Into<String>) -> Result<Self> {
        let directory = PrivateDirectory::new()?;
        let builder = Self::builder(name).socket(directory.socket());
        builder.embedded(true).connect_in(Some(directory))
    }

    /// The path of the broker's socket. Processes with different paths never meet.
    pub fn path(&self) -> &Path {
        self.session.path()
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

    /// Whether to host a broker here if there is none. By default a process hosts at the default path only: not at one that
    /// [`socket`](Self::socket) or `BUS_SOCKET` names, where a `busd` is meant to be.
    ///
    /// With `false`, [`connect`](Self::connect) fails at once where no broker is. Otherwise it waits up to 5 seconds.
    pub fn embedded(mut self, embedded: bool) -> Self {
        self.embedded = Some(embedded);
        self
    }

    /// Raises the soft limit of descriptors of this process to its hard limit (`RLIMIT_NOFILE`), which a process with hundreds of handles, or
    /// one that hosts the broker of hundreds, needs. It stays raised, also for programs that this process starts.
    ///
    /// Do not ask for it where some code of the process uses `select()`: that cannot take descriptors from 1024 on.
    pub fn raise_descriptor_limit(mut self) -> Self {
        self.raise_descriptor_limit = true;
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
        self.connect_in(None)
    }

    fn connect_in(self, private: Option<PrivateDirectory>) -> Result<Bus> {
        let name = ClientName::new(self.name)?;
        let place = match self.socket {
            Some(path) => SocketPlace::named(path),
            None => SocketPlace::find()?,
        };
        warn_of(&place);
        if self.raise_descriptor_limit {
            bus_daemon::raise_descriptor_limit();
        }
        let embed = self.embedded.unwrap_or_else(|| place.is_default());
        let patience = match self.embedded {
            Some(false) => Duration::ZERO,
            _ => STARTING,
        };
        let connector = Connector::new(name, place.path.clone(), embed, patience, private);
        let session = Session::start(connector)?;
        tracing::debug!(
            path = %place.path.display(),
            reason = %place.reason,
            broker = %session.holder(),
            "connected to the bus"
        );
        Ok(Bus {
            session: Arc::new(session),
            spin: self.spin,
        })
    }
}

/// Warns, once a process, of surroundings in which other processes of this user may use another bus.
fn warn_of(place: &SocketPlace) {
    static WARNED: Once = Once::new();
    let path = place.path.display();
    if place.ignored.is_none() && place.reason != SocketReason::Temporary {
        return;
    }
    WARNED.call_once(|| {
        if let Some(ignored) = &place.ignored {
            tracing::warn!(%path, "{ignored}");
        }
        if place.reason == SocketReason::Temporary {
            tracing::warn!(%path, "this user has no runtime directory, so the bus is in the temporary directory; processes with a runtime directory, or with another TMPDIR, use another bus");
        }
    });
}
