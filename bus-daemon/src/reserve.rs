//! A descriptor in reserve: with it a broker that has none left can still say so to who connects.
//!
//! Without it, a connection that cannot be accepted stays ready for ever, and the loop spins.

use std::fs::File;
use std::os::fd::BorrowedFd;

use bus_core::control::Connection;
use bus_core::{Error, Result};

/// What came of one try to accept.
pub(crate) enum Accepted {
    /// A connection.
    Connection(Connection),
    /// A connection that can only be refused: it took the reserve, and is to be closed at once.
    Excess(Connection),
    /// Nobody asks for a connection.
    Nobody,
    /// Somebody asks and there is no way to answer, for now.
    Stuck,
}

/// The reserve.
#[derive(Debug)]
pub(crate) struct Reserve(Option<File>);

impl Reserve {
    /// A full one. Taken before anybody can connect: where the broker's clients are in its own process, they would leave it none.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(Some(File::open("/dev/null")?)))
    }

    /// Takes a descriptor if the reserve is empty and one can be had.
    pub(crate) fn fill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }

    /// Accepts a connection, with the reserve's descriptor if there is no other.
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>) -> Result<Accepted> {
        match Connection::accept(&listener) {
            Ok(Some(connection)) => Ok(Accepted::Connection(connection)),
            Ok(None) => Ok(Accepted::Nobody),
            Err(error) if !is_exhaustion(&error) => Err(error),
            Err(_) if self.0.take().is_none() => Ok(Accepted::Stuck),
            Err(_) => match Connection::accept(&listener) {
                Ok(Some(connection)) => Ok(Accepted::Excess(connection)),
                Ok(None) => Ok(Accepted::Nobody),
                Err(error) if is_exhaustion(&error) => Ok(Accepted::Stuck),
                Err(error) => Err(error),
            },
        }
    }
}

/// Whether a call failed for a lack of descriptors or memory, which may pass.
pub(crate) fn is_exhaustion(error: &Error) -> bool {
    let Error::Io { source, .. } = error else {
        return false;
    };
    matches!(
        source.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC)
    )
}
