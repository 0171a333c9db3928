//! What the session's thread waits for: something to read, room in the socket, or its bell.
//!
//! Promise: while a thread opens a handle, that thread reads the socket itself and the session's thread is not woken for
//! what it brings. Opening takes several answers, and each would wake two threads, one after the other, else. The session's
//! thread still hears of a connection that ends.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use bus_core::control::Connection;
use bus_core::fork::Unshared;
use nix::Result;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

/// What the thread sleeps in.
pub(super) struct Ear(Unshared<Epoll>);

/// The epoll, and what it was told of the connection of now.
pub(super) struct Interest {
    ear: Arc<Ear>,
    flags: EpollFlags,
}

impl Interest {
    /// In the bell, and nothing else yet.
    pub(super) fn new(bell: &Unshared<EventFd>) -> Result<Self> {
        let create = || Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        let epoll = Unshared::of(create, |epoll| epoll.0.as_raw_fd())?;
        epoll.add(bell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self {
            ear: Arc::new(Ear(epoll)),
            flags: EpollFlags::empty(),
        })
    }

    /// From now on in this connection.
    pub(super) fn add(&mut self, link: &Connection) -> Result<()> {
        self.flags = EpollFlags::EPOLLIN;
        self.ear.0.add(link.as_fd(), EpollEvent::new(self.flags, 0))
    }

    /// No more in this connection. Where the kernel refuses that, the connection's close does it.
    pub(super) fn remove(&self, link: &Connection) {
        if let Err(error) = self.ear.0.delete(link.as_fd()) {
            tracing::debug!(%error, "a connection that is gone is watched until it is closed");
        }
    }

    /// In reading from the connection, and in writing to it; false where the kernel refuses that for now.
    pub(super) fn set(&mut self, link: &Connection, read: bool, write: bool) -> bool {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, read);
        flags.set(EpollFlags::EPOLLOUT, write);
        if flags == self.flags {
            return true;
        }
        let mut event = EpollEvent::new(flags, 0);
        let modified = self.ear.0.modify(link.as_fd(), &mut event);
        if modified.is_ok() {
            self.flags = flags;
        }
        modified.is_ok()
    }

    /// What the thread sleeps in.
    pub(super) fn ear(&self) -> Arc<Ear> {
        Arc::clone(&self.ear)
    }
}

impl Ear {
    /// Waits for anything that is of interest, or for so long; whether there is any.
    pub(super) fn wait(&self, timeout: EpollTimeout) -> bool {
        // A signal, or an error of the kernel, means the same: look again.
        let events = self.0.wait(&mut [EpollEvent::empty(); 2], timeout);
        events.unwrap_or(0) > 0
    }
}
