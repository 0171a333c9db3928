//! What the engine needs from outside, from the real kernel: one epoll, the connections, shared memory.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use bus_core::backend::doorbell;
use bus_core::control::{Connection, Event, Role, Sent, may_be_pidfd, pidfd_alive};
use bus_core::fork::Unshared;
use bus_core::memory::registry::Registry;
use bus_core::memory::reserve;
use bus_core::memory::segment::{self, Kind};
use bus_core::{Error, Result, TopicSettings};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::engine::World;
use crate::waste::{self, Sender};

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Listener,
    Stop,
    Signal,
    /// The files of the broker's path.
    Path,
    /// A session's connection.
    Connection(u64),
    /// A session's process.
    Process(u64),
    /// A process without a session.
    Absent(u64),
}

/// Numbers of sessions start here, so that their tokens differ from the others.
const FIRST: u64 = 16;

impl Token {
    pub(crate) fn pack(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Stop => 1,
            Self::Signal => 2,
            Self::Path => 3,
            Self::Connection(number) => number * 4,
            Self::Process(number) => number * 4 + 1,
            Self::Absent(number) => number * 4 + 2,
        }
    }

    pub(crate) fn unpack(data: u64) -> Self {
        match (data, data % 4) {
            (0, _) => Self::Listener,
            (1, _) => Self::Stop,
            (2, _) => Self::Signal,
            (3, _) => Self::Path,
            (_, 0) => Self::Connection(data / 4),
            (_, 1) => Self::Process(data / 4),
            _ => Self::Absent(data / 4),
        }
    }
}

/// The real outside.
#[derive(Debug)]
pub(crate) struct Kernel {
    epoll: Rc<Unshared<Epoll>>,
    connections: HashMap<u64, Link>,
    /// Processes without a session that are watched: by token, and by number.
    absent: HashMap<u64, u64>,
    tokens: HashMap<u64, u64>,
    next: u64,
    /// Sessions that are not read for now, whatever they say: of their users too many descriptors wait to be closed.
    held: BTreeSet<u64>,
}

/// A session's connection and process.
#[derive(Debug)]
struct Link {
    connection: Connection,
    pidfd: Rc<OwnedFd>,
    sender: Sender,
    listens: bool,
    awaits_room: bool,
}

impl Kernel {
    pub(crate) fn new(epoll: Rc<Unshared<Epoll>>) -> Self {
        Self {
            epoll,
            connections: HashMap::new(),
            absent: HashMap::new(),
            tokens: HashMap::new(),
            next: FIRST,
            held: BTreeSet::new(),
        }
    }

    /// Watches a new connection and its process; the session's number.
    pub(crate) fn insert(
        &mut self,
        connection: Connection,
        pidfd: &Rc<OwnedFd>,
        sender: Sender,
    ) -> nix::Result<u64> {
        let number = self.next;
        if let Err(error) = self.watch(number, &connection, pidfd) {
            waste::close(sender, connection);
            return Err(error);
        }
        self.next += 1;
        let link = Link {
            connection,
            pidfd: Rc::clone(pidfd),
            sender,
            listens: true,
            awaits_room: false,
        };
        self.connections.insert(number, link);
        Ok(number)
    }

    fn watch(&self, number: u64, connection: &Connection, pidfd: &Rc<OwnedFd>) -> nix::Result<()> {
        let event = |token: Token| EpollEvent::new(EpollFlags::EPOLLIN, token.pack());
        self.epoll
            .add(connection, event(Token::Connection(number)))?;
        if let Err(error) = self.epoll.add(&**pidfd, event(Token::Process(number))) {
            let _ = self.epoll.delete(connection);
            return Err(error);
        }
        Ok(())
    }

    pub(crate) fn connection(&self, session: u64) -> Option<&Connection> {
        self.connections.get(&session).map(|link| &link.connection)
    }

    /// Whether requests of the session are to be read.
    pub(crate) fn listens(&self, session: u64) -> bool {
        let link = self.connections.get(&session);
        link.is_some_and(|link| link.listens) && !self.held.contains(&session)
    }

    /// A session's connection and its user, if it may be read: its user may have sent what cannot be closed.
    pub(crate) fn readable(&mut self, session: u64) -> Option<(&Connection, Sender)> {
        let sender = self.connections.get(&session)?.sender;
        if waste::check(sender).is_err() {
            if self.held.insert(session) {
                self.ask(session);
            }
            return None;
        }
        let link = self.connections.get(&session)?;
        Some((&link.connection, sender))
    }

    /// Whether sessions are not read because of what their users have sent.
    pub(crate) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Reads the sessions again of users whose descriptors were closed.
    pub(crate) fn release_held(&mut self) {
        for session in std::mem::take(&mut self.held) {
            let link = self.connections.get(&session);
            if link.is_some_and(|link| waste::check(link.sender).is_err()) {
                self.held.insert(session);
            } else {
                self.ask(session);
            }
        }
    }

    /// The process without a session that a token stands for.
    pub(crate) fn absent(&self, token: u64) -> Option<u64> {
        self.absent.get(&token).copied()
    }

    /// Asks the kernel for what a session waits for.
    fn ask(&self, session: u64) {
        let Some(link) = self.connections.get(&session) else {
            return;
        };
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.listens(session));
        flags.set(EpollFlags::EPOLLOUT, link.awaits_room);
        let mut event = EpollEvent::new(flags, Token::Connection(session).pack());
        if let Err(error) = self.epoll.modify(&link.connection, &mut event) {
            tracing::error!(session, %error, "cannot watch a session's socket");
        }
    }
}

impl World for Kernel {
    type Fd = Rc<OwnedFd>;
    type Registry = Registry;

    fn create_registry(&mut self, version: u32) -> Result<(Registry, Rc<OwnedFd>)> {
        let registry = Registry::starting_at(version)?;
        let fd = registry.fd().try_clone_to_owned();
        let fd = fd.map_err(|e| Error::io("cannot duplicate a registry", e))?;
        Ok((registry, Rc::new(fd)))
    }

    fn set_version(&mut self, registry: &mut Registry, of: Role, version: u32) {
        let moved = match of {
            Role::Publisher => registry.bump_publishers(),
            Role::Subscriber => registry.bump_subscribers(),
        };
        assert_eq!(moved, version, "the engine and the registry count alike");
    }

    fn set_foreign(&mut self, registry: &mut Registry) {
        registry.set_foreign();
    }

    fn create_place(&mut self, settings: &TopicSettings) -> Result<Rc<OwnedFd>> {
        reserve(settings).map(Rc::new)
    }

    fn check_segment(
        &self,
        fd: &Rc<OwnedFd>,
        kind: Kind,
        bytes: RangeInclusive<u64>,
    ) -> Result<u64> {
        segment::check_within(&**fd, kind, bytes)
    }

    fn check_doorbell(&self, fd: &Rc<OwnedFd>) -> Result<()> {
        doorbell::check(&**fd)
    }

    fn ring(&self, doorbell: &Rc<OwnedFd>) {
        doorbell::ring(&**doorbell);
    }

    fn is_alive(&self, pidfd: &Rc<OwnedFd>) -> bool {
        is_pidfd(pidfd) && pidfd_alive(&**pidfd)
    }

    fn send(
        &mut self,
        session: u64,
        handle: u32,
        event: &Event,
        descriptors: &[Rc<OwnedFd>],
    ) -> Result<Sent> {
        use bus_core::control::Message;
        let Some(link) = self.connections.get(&session) else {
            return Err(Error::Closed);
        };
        let packet = event.pack(handle)?;
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        link.connection.try_send_packet(&packet, &descriptors)
    }

    fn await_room(&mut self, session: u64, wanted: bool) {
        if let Some(link) = self.connections.get_mut(&session) {
            link.awaits_room = wanted;
            self.ask(session);
        }
    }

    fn listen(&mut self, session: u64, wanted: bool) {
        if let Some(link) = self.connections.get_mut(&session) {
            link.listens = wanted;
            self.ask(session);
        }
    }

    fn is_gone(&self, session: u64) -> bool {
        let Some(link) = self.connections.get(&session) else {
            return true;
        };
        let mut fds = [
            PollFd::new(link.connection.as_fd(), PollFlags::empty()),
            PollFd::new(link.pidfd.as_fd(), PollFlags::POLLIN),
        ];
        while poll(&mut fds, PollTimeout::ZERO) == Err(Errno::EINTR) {}
        fds.iter().any(|fd| fd.any().unwrap_or(false))
    }

    fn close(&mut self, session: u64) {
        let Some(link) = self.connections.remove(&session) else {
            return;
        };
        // Others hold the pidfd too, so that closing ours would not end its being watched.
        for deleted in [
            self.epoll.delete(&link.connection),
            self.epoll.delete(&*link.pidfd),
        ] {
            if let Err(error) = deleted {
                tracing::error!(session, %error, "cannot stop watching a session");
            }
        }
        self.held.remove(&session);
        waste::close(link.sender, link.connection);
    }

    fn watch_process(&mut self, process: u64, pidfd: &Rc<OwnedFd>) -> bool {
        let token = self.next;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Absent(token).pack());
        if self.tokens.contains_key(&process) {
            return true;
        }
        match self.epoll.add(&**pidfd, event) {
            Ok(()) => {
                self.next += 1;
                self.absent.insert(token, process);
                self.tokens.insert(process, token);
                true
            }
            Err(error) => {
                tracing::warn!(process, %error, "cannot watch an absent process");
                false
            }
        }
    }

    fn unwatch_process(&mut self, process: u64, pidfd: &Rc<OwnedFd>) {
        if let Some(token) = self.tokens.remove(&process) {
            self.absent.remove(&token);
            if let Err(error) = self.epoll.delete(&**pidfd) {
                tracing::error!(process, %error, "cannot stop watching a process");
            }
        }
    }
}

impl Drop for Kernel {
    /// What lies in the connections is somebody else's: the process that hosts the broker does not wait for it.
    fn drop(&mut self) {
        for link in std::mem::take(&mut self.connections).into_values() {
            waste::close(link.sender, link.connection);
        }
    }
}

/// Whether a descriptor is a pidfd. Closing anything else that a client sent, or asking whether it is ready, may take
/// as long as its maker likes.
fn is_pidfd(fd: &Rc<OwnedFd>) -> bool {
    if !may_be_pidfd(&**fd) {
        return false;
    }
    match fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())) {
        Ok(info) => info.lines().any(|line| line.starts_with("Pid:")),
        // Without a descriptor to look with, nobody is taken for dead.
        Err(error) => matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_out_as_they_went_in() {
        for token in [
            Token::Listener,
            Token::Stop,
            Token::Signal,
            Token::Path,
            Token::Connection(FIRST),
            Token::Process(FIRST),
            Token::Absent(FIRST),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }

    #[test]
    fn only_a_pidfd_is_taken_for_one() {
        let own = bus_core::control::open_pidfd(std::process::id()).unwrap();
        assert!(is_pidfd(&Rc::new(own.unwrap())));
        let file = tempfile::tempfile().unwrap();
        let file = Rc::new(file.into());
        assert!(!is_pidfd(&file) && !may_be_pidfd(&*file));
    }
}
