//! The one error of this crate: why a broker does not start, or cannot go on.

use std::io;
use std::path::PathBuf;

use bus_core::control::Holder;

use crate::policy::Problems;

/// What can go wrong with the broker itself. What is wrong with a client is told to the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another broker has the path.
    #[error(
        "another broker already serves {}{}; use it, or choose another path",
        path.display(),
        holder.as_ref().map(|holder| format!(": {holder}")).unwrap_or_default()
    )]
    InUse {
        /// The path of the socket.
        path: PathBuf,
        /// The process that runs the other broker, where its lock file says so.
        holder: Option<Holder>,
    },

    /// Something that is no broker has the path.
    #[error("cannot listen at {}: {why}; remove it, or choose another path", path.display())]
    Foreign {
        /// The path of the socket.
        path: PathBuf,
        /// What is there.
        why: &'static str,
    },

    /// The path cannot be used.
    #[error("cannot listen at {}: {what}: {source}", path.display())]
    Listen {
        /// The path of the socket.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },

    /// The policy has mistakes.
    #[error("{0}")]
    Policy(Problems),

    /// The policy cannot be read.
    #[error("cannot use the policy {}: {why}", path.display())]
    PolicyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },

    /// A control connection or a segment failed.
    #[error(transparent)]
    Core(#[from] bus_core::Error),

    /// A system call failed without which a broker cannot run.
    #[error("the broker stopped: {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },

    /// The broker's thread panicked, which is a fault of the broker.
    #[error("the broker stopped: its thread panicked; please report this with the log")]
    Panicked,
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Policy(problems)
    }
}

impl Error {
    pub(crate) fn io(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            source: source.into(),
        }
    }
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
