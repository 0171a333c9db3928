//! The directory of a private bus.
//!
//! Promises: only this user can enter it; it goes with the last handle, unless the process is
//! killed.

use std::fs;
use std::path::PathBuf;

use bus_core::control::variable;
use bus_core::fork::Birth;
use nix::unistd::mkdtemp;

use crate::{Error, Result};

/// A directory that is removed with all that is in it.
pub(crate) struct PrivateDirectory {
    path: PathBuf,
    /// A fork of this process removes nothing.
    birth: Birth,
}

impl PrivateDirectory {
    pub(crate) fn new() -> Result<Self> {
        let tmp = variable("TMPDIR").map_or_else(|| "/tmp".into(), PathBuf::from);
        let template = tmp.join("bus-private-XXXXXX");
        let path = mkdtemp(&template).map_err(|error| Error::Broker {
            path: template,
            why: format!("cannot make a directory for a private bus: {error}"),
        })?;
        Ok(Self {
            path,
            birth: Birth::here(),
        })
    }

    /// Where the socket of its broker is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("bus.sock")
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        if self.birth.is_here()
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot remove the directory of a private bus");
        }
    }
}
