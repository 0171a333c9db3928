//! Finding the broker, or hosting one.
//!
//! Promises: if a broker listens at the path, it is used; if none does and hosting is allowed, this process hosts one; of several
//! processes that start at once, one becomes the host and the others find it. Something else at the path is an error. A process
//! that may not host there waits for a broker, as one that is not to host does. A broker that was hosted here and has yielded its
//! path is not hosted again at once. A process hosts no broker whose policy file has a mistake: topics would not be as it declares.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bus_core::ClientName;
use bus_core::control::{Connection, Holder};
use bus_core::fork::Birth;
use bus_daemon::policy::{Policy, Source};
use bus_daemon::{Broker, BrokerThread};

use crate::private::PrivateDirectory;
use crate::{Error, Result};

/// How long another process may take from winning the path to listening there, and how long to wait for a broker that is named.
pub(crate) const STARTING: Duration = Duration::from_secs(5);
/// How often to look meanwhile.
pub(crate) const AGAIN: Duration = Duration::from_millis(1);
/// For how long no broker is hosted here after one has yielded the path to another.
const YIELDED: Duration = Duration::from_secs(2);

/// Where the broker is, and the broker itself if it is here.
pub(crate) struct Connector {
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
    /// Dropped last: the broker has its socket there.
    private: Option<PrivateDirectory>,
}

/// What this process has hosted.
#[derive(Default)]
struct Hosted {
    /// Stops the broker when the session ends.
    broker: Option<BrokerThread>,
    yielded: Option<Instant>,
    /// Why this process may not host one, if it may not.
    refused: Option<String>,
    /// What was wrong with the policy, as it was logged.
    wrong: Option<String>,
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
    pub(crate) fn new(
        client: ClientName,
        path: PathBuf,
        embed: bool,
        patience: Duration,
        private: Option<PrivateDirectory>,
    ) -> Self {
        Self {
            client,
            path,
            embed,
            patience,
            birth: Birth::here(),
            user: nix::unistd::geteuid().as_raw(),
            changed_user: AtomicBool::new(false),
            hosted: Mutex::default(),
            private,
        }
    }

    /// The path of the broker's socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn client(&self) -> &ClientName {
        &self.client
    }

    fn hosted(&self) -> MutexGuard<'_, Hosted> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process hosts the broker.
    pub(crate) fn hosts(&self) -> bool {
        // In a fork a thread that is not there may have the lock.
        if !self.birth.is_here() {
            return false;
        }
        let mut hosted = self.hosted();
        hosted.note_yield();
        hosted.broker.is_some()
    }

    /// A first connection to the broker.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let deadline = Instant::now() + self.patience;
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

    /// That this process still is of the user that connected, where that matters.
    ///
    /// # Errors
    /// [`Error::Broker`] where it hosts the broker and has another user now.
    pub(crate) fn check_user(&self) -> Result<()> {
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

    /// A connection to the broker, which is hosted here from now on if there is none and that is allowed. None where nobody is there,
    /// somebody just starts one, or one takes no connection now.
    pub(crate) fn attempt(&self) -> Result<Option<Connection>> {
        self.check_user()?;
        match Connection::try_connect(&self.path) {
            Ok(connection) => return Ok(connection),
            Err(error) if !nobody_there(&error) => return Err(self.failed(error.to_string())),
            Err(_) if !self.embed => return Ok(None),
            Err(_) => {}
        }
        if !self.try_host()? {
            return Ok(None);
        }
        match Connection::try_connect(&self.path) {
            Ok(connection) => Ok(connection),
            // Somebody has removed the socket already; the broker takes its path again.
            Err(error) if nobody_there(&error) => Ok(None),
            Err(error) => Err(self.failed(error.to_string())),
        }
    }

    /// Why there is no connection, in the words of the kernel.
    pub(crate) fn nobody(&self) -> Error {
        let error = match Connection::try_connect(&self.path) {
            Ok(Some(_)) => "it has come just now; try again".into(),
            Ok(None) => "it takes no connection; it may be stopped".into(),
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
        hosted.note_yield();
        if hosted.yielded.is_some_and(|at| at.elapsed() < YIELDED) {
            return Ok(false);
        }
        // Its socket was removed just now: it takes its path again, or ends.
        if hosted.broker.as_ref().is_some_and(BrokerThread::is_running) {
            return Ok(false);
        }
        drop(hosted.broker.take());
        // Before the path is taken, so that a mistake does not take it and leave it again and again.
        let policy = self.read_policy(&mut hosted)?;
        match Broker::bind(&self.path) {
            Ok(mut bound) => {
                bound.declare(policy);
                let started = bound.spawn().map_err(|e| self.failed(e.to_string()))?;
                (hosted.broker, hosted.refused) = (Some(started), None);
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

    /// What is declared of the topics of a broker that is hosted here: nothing where the bus is private, for nobody else can.
    ///
    /// # Errors
    /// [`Error::Broker`] with everything that is wrong in the file.
    fn read_policy(&self, hosted: &mut Hosted) -> Result<Policy> {
        if self.private.is_some() {
            return Ok(Policy::own(self.user));
        }
        let error = match Source::beside(&self.path).read(self.user) {
            Ok(policy) => {
                hosted.wrong = None;
                return Ok(policy);
            }
            Err(error) => error.to_string(),
        };
        let why = format!(
            "none listens there, and this process hosts none until its policy is right:\n{error}"
        );
        // Handles that come back to the next broker have nobody to tell, and try again and again.
        if hosted.wrong.as_ref() != Some(&error) {
            tracing::error!(path = %self.path.display(), "{why}");
            hosted.wrong = Some(error.clone());
        }
        hosted.refused = Some(format!("its policy is not right: {error}"));
        Err(self.failed(why))
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

/// Whether this process lacks the right to listen at the path. A broker of a user that has it may come.
fn may_not_host(error: &bus_daemon::Error) -> bool {
    matches!(error, bus_daemon::Error::Listen { source, .. }
        if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
}

fn nobody_there(error: &bus_core::Error) -> bool {
    matches!(error, bus_core::Error::Io { source, .. }
        if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}
