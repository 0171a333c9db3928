//! Notices when somebody removes, moves or replaces the files of the broker's path.
//!
//! Promises: it costs nothing while nobody touches these files; where the kernel gives no notice
//! (no inotify instance is left), it asks for a look each second. It looks at nothing itself: see
//! [`Endpoint::is_there`].

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use bus_core::fork::Unshared;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::endpoint::Endpoint;

/// How often to look where there is no notice, and where the path could not be taken again.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// A watch on the socket, its lock, and their directory.
#[derive(Default)]
pub(crate) struct PathWatch {
    inotify: Option<Unshared<Inotify>>,
}

impl PathWatch {
    /// Watches the files that are at the path now.
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let inotify = watch(endpoint.path(), endpoint.lock_path());
        if let Err(error) = &inotify {
            tracing::debug!(%error, "no notice of a removed socket; looking each second");
        }
        Self {
            inotify: inotify.ok(),
        }
    }

    /// Readable when a file has changed. None where there is no notice.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|inotify| inotify.as_fd())
    }

    /// Takes the notices that have come: one look answers them all.
    pub(crate) fn read(&self) {
        if let Some(inotify) = &self.inotify {
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
    }
}

fn watch(socket: &Path, lock: &Path) -> nix::Result<Unshared<Inotify>> {
    let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
    let inotify = Unshared::new(|| Inotify::init(flags))?;
    // A file that is removed or written over loses a link, which changes its attributes; it lives
    // on while it is open.
    let gone = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
    let file = gone | AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DONT_FOLLOW;
    inotify.add_watch(socket, file)?;
    inotify.add_watch(lock, file)?;
    if let Some(directory) = socket.parent() {
        inotify.add_watch(directory, gone | AddWatchFlags::IN_ONLYDIR)?;
    }
    Ok(inotify)
}
