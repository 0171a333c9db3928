//! Finding the broker, or becoming its host.
//!
//! Promises: if a broker listens at the path, it is used; if nobody does and embedding is allowed, this process hosts one; of several
//! processes that start at once, one becomes the host and the others find it. Somebody else at the path is an error. A process
//! that may not host there waits for a broker as one that is not to host does.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bus_core::ClientName;
use bus_core::control::{Connection, Holder};
use bus_core::fork::Birth;
use bus_daemon::{Broker, BrokerThread};

use crate::keeper::Keeper;
use crate::member::here;
use crate::private::PrivateDirectory;
use crate::{Error, Result};

/// How long another process may take from winning the path to listening there, and how long to wait for a broker that is named.
pub(crate) const STARTING: Duration = Duration::from_secs(5);
/// How often to look meanwhile.
pub(crate) const AGAIN: Duration = Duration::from_millis(1);

/// A way to the broker, and who follows it from broker to broker.
pub(crate) struct Host {
    // Dropped first: with its thread, nobody else has the seeker.
    keeper: Keeper,
    seeker: Arc<Seeker>,
    /// Dropped last: the broker has its socket there.
    _private: Option<PrivateDirectory>,
}

/// Where the broker is, and the broker itself if it is here.
pub(crate) struct Seeker {
    client: ClientName,
    path: PathBuf,
    embed: bool,
    /// How long the first connection waits for a broker.
    patience: Duration,
    /// The process that connected.
    birth: Birth,
    /// The user that it had then, as the kernel numbers it.
    user: u32,
    /// It has another one now, and that has been logged.
    changed_user: AtomicBool,
    hosted: Mutex<Hosted>,
}

/// What this process has hosted.
#[derive(Default)]
struct Hosted {
    /// Stops the broker when the last handle of this process is gone.
    broker: Option<BrokerThread>,
    /// Why this process may not host one, if it may not.
    refused: Option<String>,
}

impl Host {
    pub(crate) fn new(
        client: ClientName,
        path: PathBuf,
        embed: bool,
        patience: Duration,
        private: Option<PrivateDirectory>,
    ) -> Self {
        let seeker = Arc::new(Seeker {
            client,
            path,
            embed,
            patience,
            birth: Birth::here(),
            user: nix::unistd::geteuid().as_raw(),
            changed_user: AtomicBool::new(false),
            hosted: Mutex::default(),
        });
        Self {
            keeper: Keeper::new(Arc::clone(&seeker)),
            seeker,
            _private: private,
        }
    }

    /// The path of the broker's socket.
    pub(crate) fn path(&self) -> &Path {
        &self.seeker.path
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
        self.seeker.birth.is_here() && self.seeker.hosts()
    }

    /// A first connection to the broker.
    pub(crate) fn connect(&self) -> Result<Connection> {
        here(self.seeker.birth)?;
        self.seeker.connect(Instant::now() + self.seeker.patience)
    }

    /// A new connection for a handle: waits until then for a broker that is just being started again.
    pub(crate) fn reconnect(&self, deadline: Instant) -> Result<Connection> {
        here(self.seeker.birth)?;
        self.seeker.check_user()?;
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

    /// The broker at the other end of this connection did not answer in time.
    pub(crate) fn does_not_answer(&self, connection: &Connection) -> Error {
        let holder = Holder::of_connection(connection, self.path());
        self.failed(holder.does_not_answer())
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

    fn hosted(&self) -> MutexGuard<'_, Hosted> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hosts(&self) -> bool {
        self.hosted().broker.is_some()
    }

    /// That this process still is of the user that connected, where that matters.
    fn check_user(&self) -> Result<()> {
        let (before, now) = (self.user, nix::unistd::geteuid().as_raw());
        if before == now {
            return Ok(());
        }
        if self.hosts() {
            return Err(self.failed(format!(
                "this process hosts the broker for user {before} and is user {now} now; change the user before Bus::connect, or call Bus::connect again with a path of the new user"
            )));
        }
        // ORDERING: a flag of its own; nothing else is read because of it.
        if !self.changed_user.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                before,
                now,
                "this process has changed its user since Bus::connect: a broker may refuse its handles, also those that are open when another broker comes; change the user before Bus::connect"
            );
        }
        Ok(())
    }

    /// A connection to the broker that is there.
    pub(crate) fn connect_once(&self) -> bus_core::Result<Connection> {
        Connection::connect(&self.path)
    }

    /// A connection to the broker, which is hosted here from now on if there is none and that is allowed. None where nobody is there, or
    /// somebody just starts one.
    pub(crate) fn attempt(&self) -> Result<Option<Connection>> {
        self.check_user()?;
        match Connection::connect(&self.path) {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) if !nobody_there(&error) => return Err(self.failed(error.to_string())),
            Err(_) if !self.embed => return Ok(None),
            Err(_) => {}
        }
        if !self.try_host()? {
            return Ok(None);
        }
        match Connection::connect(&self.path) {
            Ok(connection) => Ok(Some(connection)),
            // Somebody has removed the socket already; the broker takes its path again.
            Err(error) if nobody_there(&error) => Ok(None),
            Err(error) => Err(self.failed(error.to_string())),
        }
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
        let holder = Holder::of_lock(&self.path);
        let refused = self.hosted().refused.take();
        self.failed(match (refused, holder) {
            (Some(refused), _) => {
                format!("{error}; and this process may not host one: {refused}; start busd")
            }
            (None, Some(holder)) if self.embed => {
                format!("{error}, though {holder} holds its lock")
            }
            (None, None) if self.embed => format!("{error}, though a process holds its lock"),
            _ => {
                format!("{error}; start busd, or let this program host one (BusBuilder::embedded)")
            }
        })
    }

    /// Starts a broker here, unless another process is just doing so; whether it has.
    fn try_host(&self) -> Result<bool> {
        let mut hosted = self.hosted();
        // Its socket was removed just now: it takes its path again, or ends.
        if hosted.broker.as_ref().is_some_and(BrokerThread::is_running) {
            return Ok(false);
        }
        drop(hosted.broker.take());
        match Broker::bind(&self.path) {
            Ok(bound) => {
                let started = bound.spawn().map_err(|e| self.failed(e.to_string()))?;
                *hosted = Hosted {
                    broker: Some(started),
                    refused: None,
                };
                Ok(true)
            }
            Err(bus_daemon::Error::InUse { .. }) => {
                hosted.refused = None;
                Ok(false)
            }
            Err(error) if may_not_host(&error) => {
                hosted.refused = Some(error.to_string());
                Ok(false)
            }
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

/// Whether this process lacks the right to listen at the path. A broker of a user that has it may come.
fn may_not_host(error: &bus_daemon::Error) -> bool {
    matches!(error, bus_daemon::Error::Listen { source, .. }
        if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
}

fn nobody_there(error: &bus_core::Error) -> bool {
    matches!(error, bus_core::Error::Io { source, .. }
        if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}
