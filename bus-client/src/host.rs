//! Finding the broker, or becoming its host.
//!
//! Promises: if a broker listens at the path, it is used; if nobody does and embedding is allowed, this process hosts one; of several
//! processes that start at once, one becomes the host and the others find it. Somebody else at the path is an error.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bus_core::ClientName;
use bus_core::control::Connection;
use bus_core::fork::Birth;
use bus_daemon::{Broker, BrokerThread};

use crate::keeper::Keeper;
use crate::member::here;
use crate::{Error, Result};

/// How long another process may take from winning the path to listening there.
const STARTING: Duration = Duration::from_secs(5);
/// How often to look meanwhile.
pub(crate) const AGAIN: Duration = Duration::from_millis(1);

/// A way to the broker, and who follows it from broker to broker.
pub(crate) struct Host {
    // Dropped first: with its thread, nobody else has the seeker.
    keeper: Keeper,
    seeker: Arc<Seeker>,
}

/// Where the broker is, and the broker itself if it is here.
pub(crate) struct Seeker {
    client: ClientName,
    path: PathBuf,
    embed: bool,
    /// The process that connected.
    birth: Birth,
    /// Stops the broker when the last handle of this process is gone.
    broker: Mutex<Option<BrokerThread>>,
}

impl Host {
    pub(crate) fn new(client: ClientName, path: PathBuf, embed: bool) -> Self {
        let seeker = Arc::new(Seeker {
            client,
            path,
            embed,
            birth: Birth::here(),
            broker: Mutex::new(None),
        });
        Self {
            keeper: Keeper::new(Arc::clone(&seeker)),
            seeker,
        }
    }

    pub(crate) fn client(&self) -> &ClientName {
        self.seeker.client()
    }

    /// Who takes handles to the next broker.
    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    pub(crate) fn embedded(&self) -> bool {
        // In a fork a thread that is not there may have the lock.
        self.seeker.birth.is_here()
            && self
                .seeker
                .broker
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some()
    }

    /// A first connection to the broker: where none may be hosted here, one must be there.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let patience = if self.seeker.embed {
            STARTING
        } else {
            Duration::ZERO
        };
        here(self.seeker.birth)?;
        self.seeker.connect(Instant::now() + patience)
    }

    /// A new connection for a handle: waits until then for a broker that is just being started again.
    pub(crate) fn reconnect(&self, deadline: Instant) -> Result<Connection> {
        here(self.seeker.birth)?;
        self.keeper.say_ended();
        self.seeker.connect(deadline)
    }

    pub(crate) fn disconnected(&self) -> Error {
        Error::Disconnected {
            path: self.seeker.path.clone(),
        }
    }

    pub(crate) fn failed(&self, why: String) -> Error {
        self.seeker.failed(why)
    }
}

impl Seeker {
    pub(crate) fn client(&self) -> &ClientName {
        &self.client
    }

    fn connect(&self, deadline: Instant) -> Result<Connection> {
        loop {
            if let Some(connection) = self.attempt()? {
                return Ok(connection);
            }
            if Instant::now() >= deadline {
                return Err(self.nobody());
            }
            thread::sleep(AGAIN);
        }
    }

    /// A connection to the broker that is there.
    pub(crate) fn connect_once(&self) -> bus_core::Result<Connection> {
        Connection::connect(&self.path)
    }

    /// A connection to the broker, which is hosted here from now on if there is none and that is allowed. None where nobody is there, or
    /// somebody just starts one.
    pub(crate) fn attempt(&self) -> Result<Option<Connection>> {
        match Connection::connect(&self.path) {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) if !nobody_there(&error) => return Err(self.failed(error.to_string())),
            Err(_) if !self.embed => return Ok(None),
            Err(_) => {}
        }
        if !self.try_host()? {
            return Ok(None);
        }
        let connection = Connection::connect(&self.path);
        connection.map(Some).map_err(|e| self.failed(e.to_string()))
    }

    /// Writes down that these have ended, where no broker is there to hear it; whether that is done. Only who may host one does: the list belongs
    /// to the broker.
    pub(crate) fn farewell(&self, ended: &[u64]) -> bool {
        if !self.embed {
            return true;
        }
        match Broker::farewell(&self.path, ended) {
            Ok(()) => true,
            Err(bus_daemon::Error::InUse { .. }) => false,
            Err(error) => {
                tracing::debug!(%error, "who has ended stays written down");
                true
            }
        }
    }

    /// Why there is no connection, in the words of the kernel.
    fn nobody(&self) -> Error {
        let error = match Connection::connect(&self.path) {
            Ok(_) => "it has come just now; try again".into(),
            Err(error) => error.to_string(),
        };
        self.failed(if self.embed {
            format!("{error}, though a process holds its lock")
        } else {
            format!("{error}; start busd, or allow an embedded one")
        })
    }

    /// Starts a broker here, unless another process is just doing so; whether it has.
    fn try_host(&self) -> Result<bool> {
        let mut broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        // One that no longer listens has stopped.
        drop(broker.take());
        match Broker::bind(&self.path) {
            Ok(bound) => {
                let started = bound.spawn().map_err(|e| self.failed(e.to_string()))?;
                *broker = Some(started);
                Ok(true)
            }
            Err(bus_daemon::Error::InUse { .. }) => Ok(false),
            Err(error) => Err(self.failed(error.to_string())),
        }
    }

    fn failed(&self, why: String) -> Error {
        Error::Broker {
            path: self.path.clone(),
            why,
        }
    }
}

fn nobody_there(error: &bus_core::Error) -> bool {
    matches!(error, bus_core::Error::Io { source, .. }
        if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}
