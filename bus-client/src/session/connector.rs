//! Finding the broker, or hosting one.
//!
//! Promises: if a broker listens at the path, it is used; if nobody does and hosting is allowed, this process hosts one; of several
//! processes that start at once, one becomes the host and the others find it. Somebody else at the path is an error. A broker that was
//! hosted here and has yielded its path is not hosted again at once.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bus_core::ClientName;
use bus_core::control::Connection;
use bus_core::fork::Birth;
use bus_daemon::{Broker, BrokerThread};

use crate::{Error, Result};

/// How long another process may take from winning the path to listening there.
const STARTING: Duration = Duration::from_secs(5);
/// How often to look meanwhile.
pub(crate) const AGAIN: Duration = Duration::from_millis(1);
/// For how long no broker is hosted here after one has yielded the path to another.
const YIELDED: Duration = Duration::from_secs(2);

/// Where the broker is, and the broker itself if it is here.
pub(crate) struct Connector {
    client: ClientName,
    path: PathBuf,
    embed: bool,
    /// The process that connected.
    birth: Birth,
    /// Stops the broker when the session ends.
    hosted: Mutex<Hosted>,
}

#[derive(Default)]
struct Hosted {
    broker: Option<BrokerThread>,
    yielded: Option<Instant>,
}

impl Hosted {
    /// Lets go of a broker that has ended by itself.
    fn note_yield(&mut self) {
        if self.broker.take_if(|broker| broker.has_yielded()).is_some() {
            self.yielded = Some(Instant::now());
        }
    }
}

impl Connector {
    pub(crate) fn new(client: ClientName, path: PathBuf, embed: bool) -> Self {
        Self {
            client,
            path,
            embed,
            birth: Birth::here(),
            hosted: Mutex::default(),
        }
    }

    pub(crate) fn client(&self) -> &ClientName {
        &self.client
    }

    /// Whether this process hosts the broker.
    pub(crate) fn hosts(&self) -> bool {
        // In a fork a thread that is not there may have the lock.
        if !self.birth.is_here() {
            return false;
        }
        let mut hosted = self.hosted.lock().unwrap_or_else(PoisonError::into_inner);
        hosted.note_yield();
        hosted.broker.is_some()
    }

    /// A first connection to the broker: where none may be hosted here, one must be there.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let patience = if self.embed { STARTING } else { Duration::ZERO };
        let deadline = Instant::now() + patience;
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

    /// A connection to the broker, which is hosted here from now on if there is none and that is allowed. None where nobody is there,
    /// somebody just starts one, or one takes no connection now.
    pub(crate) fn attempt(&self) -> Result<Option<Connection>> {
        match Connection::try_connect(&self.path) {
            Ok(connection) => return Ok(connection),
            Err(error) if !nobody_there(&error) => return Err(self.failed(error.to_string())),
            Err(_) if !self.embed => return Ok(None),
            Err(_) => {}
        }
        if !self.try_host()? {
            return Ok(None);
        }
        let connection = Connection::try_connect(&self.path);
        connection.map_err(|e| self.failed(e.to_string()))
    }

    /// Why there is no connection, in the words of the kernel.
    pub(crate) fn nobody(&self) -> Error {
        let error = match Connection::try_connect(&self.path) {
            Ok(Some(_)) => "it has come just now; try again".into(),
            Ok(None) => "it takes no connection; it may be stopped".into(),
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
        let mut hosted = self.hosted.lock().unwrap_or_else(PoisonError::into_inner);
        hosted.note_yield();
        if hosted.yielded.is_some_and(|at| at.elapsed() < YIELDED) {
            return Ok(false);
        }
        // One that no longer listens has stopped.
        drop(hosted.broker.take());
        match Broker::bind(&self.path) {
            Ok(bound) => {
                let started = bound.spawn().map_err(|e| self.failed(e.to_string()))?;
                hosted.broker = Some(started);
                Ok(true)
            }
            Err(bus_daemon::Error::InUse { .. }) => Ok(false),
            Err(error) => Err(self.failed(error.to_string())),
        }
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
