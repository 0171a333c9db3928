//! Finding the broker, or becoming its host.
//!
//! Promises: if a broker listens at the path, it is used; if nobody does and embedding is allowed, this process hosts one; of several
//! processes that start at once, one becomes the host and the others find it. Somebody else at the path is an error.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bus_core::ClientName;
use bus_core::control::Connection;
use bus_core::fork::Birth;
use bus_daemon::{Broker, BrokerThread};

use crate::member::here;
use crate::{Error, Result};

/// How long another process may take from winning the path to listening there.
const STARTING: Duration = Duration::from_secs(5);
/// How often to look meanwhile.
pub(crate) const AGAIN: Duration = Duration::from_millis(1);

/// Where the broker is, and the broker itself if it is here.
pub(crate) struct Host {
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
        Self {
            client,
            path,
            embed,
            birth: Birth::here(),
            broker: Mutex::new(None),
        }
    }

    pub(crate) fn client(&self) -> &ClientName {
        &self.client
    }

    /// Whether a broker may be hosted here.
    pub(crate) fn may_embed(&self) -> bool {
        self.embed
    }

    pub(crate) fn embedded(&self) -> bool {
        // In a fork a thread that is not there may have the lock.
        self.birth.is_here()
            && self
                .broker
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some()
    }

    /// A new connection to the broker.
    pub(crate) fn connect(&self) -> Result<Connection> {
        here(self.birth)?;
        let deadline = Instant::now() + STARTING;
        loop {
            let error = match Connection::connect(&self.path) {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            if !nobody_there(&error) {
                return Err(self.failed(error.to_string()));
            }
            if !self.embed {
                return Err(self.failed(format!("{error}; start busd, or allow an embedded one")));
            }
            if Instant::now() >= deadline {
                return Err(self.failed(format!("{error}, though a process holds its lock")));
            }
            self.try_host()?;
        }
    }

    /// Starts a broker here, unless another process is just doing so.
    fn try_host(&self) -> Result<()> {
        let mut broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        // One that no longer listens has stopped.
        drop(broker.take());
        match Broker::bind(&self.path) {
            Ok(bound) => {
                let started = bound.spawn().map_err(|e| self.failed(e.to_string()))?;
                *broker = Some(started);
            }
            Err(bus_daemon::Error::InUse { .. }) => thread::sleep(AGAIN),
            Err(error) => return Err(self.failed(error.to_string())),
        }
        Ok(())
    }

    pub(crate) fn disconnected(&self) -> Error {
        Error::Disconnected {
            path: self.path.clone(),
        }
    }

    pub(crate) fn failed(&self, why: String) -> Error {
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
