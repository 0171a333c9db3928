//! The outside that the engine runs over here: sockets, segments, doorbells and processes, all in memory.
//!
//! Nothing happens by itself. A socket has room for a few messages and may refuse more; a process dies when the script
//! says so. Every message that the engine sends passes through the [`Books`], which hold the promises against it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use bus_core::control::{Event, Request, Role, Sent};
use bus_core::memory::reader_bytes;
use bus_core::memory::segment::Kind;
use bus_core::{Error, Result, TopicSettings};

use super::books::Books;
use crate::engine::World;

/// A descriptor.
#[derive(Clone, Debug)]
pub(crate) enum Fd {
    /// A registry.
    Registry(Rc<Words>),
    /// A ring or a reader segment, and its size in bytes.
    Segment(Kind, u64),
    /// The sending end of a doorbell.
    Doorbell,
    /// A pidfd; 0, or the connection whose peer the broker has asked the kernel for.
    Pidfd(Rc<Life>, u64),
}

/// The words of a registry.
#[derive(Debug)]
pub(crate) struct Words {
    /// Which registry this is.
    pub(crate) number: u64,
    publishers: Cell<u32>,
    subscribers: Cell<u32>,
    /// Members are to park at their own doorbells.
    foreign: Cell<bool>,
    /// The user to whom it was handed first.
    user: Cell<Option<u32>>,
}

impl Words {
    /// The version of the set of members with this role.
    pub(crate) fn version_of(&self, role: Role) -> u32 {
        match role {
            Role::Publisher => self.publishers.get(),
            Role::Subscriber => self.subscribers.get(),
        }
    }

    /// Whether members are to park at their own doorbells.
    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign.get()
    }

    /// It is handed to a process of this user: whether members sleep on words which another user
    /// maps.
    pub(crate) fn is_stolen_by(&self, uid: u32) -> bool {
        let first = self.user.get().unwrap_or(uid);
        self.user.set(Some(first));
        first != uid && !self.foreign.get()
    }

    fn set(&self, role: Role, version: u32) -> u32 {
        match role {
            Role::Publisher => self.publishers.replace(version),
            Role::Subscriber => self.subscribers.replace(version),
        }
    }
}

/// Whether a process runs.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// The slot of the script that it runs in.
    pub(crate) slot: usize,
    pub(crate) alive: Cell<bool>,
}

/// A connection between a client and the broker.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) life: Rc<Life>,
    /// Messages on their way to the client.
    pub(crate) to_client: VecDeque<(u32, Event, Vec<Fd>)>,
    /// Requests on their way to the broker.
    pub(crate) to_broker: VecDeque<(u32, Request, Vec<Fd>)>,
    /// Messages to the client that it has room for.
    pub(crate) room: usize,
    /// So many sends are refused with [`Sent::Later`].
    pub(crate) later: u32,
    pub(crate) listens: bool,
    pub(crate) awaits_room: bool,
    /// The client has not closed it.
    pub(crate) client: bool,
    /// The broker has not closed it.
    pub(crate) broker: bool,
    /// The broker has accepted it.
    pub(crate) accepted: bool,
    /// The last message was refused.
    pub(crate) refuses: bool,
}

/// Everything outside the engine that is not a client.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) sockets: BTreeMap<u64, Socket>,
    pub(crate) books: Books,
    /// Processes without a session whose end is reported.
    pub(crate) watched: BTreeMap<u64, Rc<Life>>,
    /// So many registries cannot be made.
    pub(crate) no_memory: u32,
    /// The time of the broker.
    pub(crate) now: Duration,
    numbers: u64,
}

impl Host {
    /// A number that nothing else has.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A client connects; the connection's number.
    pub(crate) fn connect(&mut self, life: &Rc<Life>, room: usize) -> u64 {
        let number = self.number();
        let socket = Socket {
            life: Rc::clone(life),
            to_client: VecDeque::new(),
            to_broker: VecDeque::new(),
            room,
            later: 0,
            listens: true,
            awaits_room: false,
            client: true,
            broker: true,
            accepted: false,
            refuses: false,
        };
        self.sockets.insert(number, socket);
        number
    }
}

/// The engine's side of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outside(pub(crate) Rc<RefCell<Host>>);

impl World for Outside {
    type Fd = Fd;
    type Registry = Rc<Words>;

    fn create_registry(&mut self, version: u32) -> Result<(Rc<Words>, Fd)> {
        let mut host = self.0.borrow_mut();
        if host.no_memory > 0 {
            host.no_memory -= 1;
            let error = io::Error::from_raw_os_error(libc::EMFILE);
            return Err(Error::io("cannot make a registry", error));
        }
        let words = Rc::new(Words {
            number: host.number(),
            publishers: Cell::new(version),
            subscribers: Cell::new(version),
            foreign: Cell::new(false),
            user: Cell::new(None),
        });
        Ok((Rc::clone(&words), Fd::Registry(words)))
    }

    fn set_version(&mut self, registry: &mut Rc<Words>, of: Role, version: u32) {
        let before = registry.set(of, version);
        let mut host = self.0.borrow_mut();
        let host = &mut *host;
        if version != before.wrapping_add(1) {
            host.books
                .fail(format!("a version moved from {before} to {version}"));
        }
        host.books
            .version_moved(&host.sockets, registry, of, version);
    }

    fn set_foreign(&mut self, registry: &mut Rc<Words>) {
        registry.foreign.set(true);
    }

    fn create_place(&mut self, settings: &TopicSettings) -> Result<Fd> {
        Ok(Fd::Segment(Kind::Reader, reader_bytes(settings)))
    }

    fn check_segment(&self, fd: &Fd, kind: Kind, bytes: RangeInclusive<u64>) -> Result<u64> {
        match fd {
            Fd::Segment(is, has) if *is == kind && bytes.contains(has) => Ok(*has),
            _ => Err(Error::Control(format!(
                "{fd:?} is no {} of {bytes:?} bytes",
                kind.name()
            ))),
        }
    }

    fn check_doorbell(&self, fd: &Fd) -> Result<()> {
        match fd {
            Fd::Doorbell => Ok(()),
            fd => Err(Error::Control(format!("{fd:?} is no doorbell"))),
        }
    }

    fn ring(&self, _doorbell: &Fd) {}

    fn is_alive(&self, pidfd: &Fd) -> bool {
        matches!(pidfd, Fd::Pidfd(life, _) if life.alive.get())
    }

    fn send(
        &mut self,
        session: u64,
        handle: u32,
        event: &Event,
        descriptors: &[Fd],
    ) -> Result<Sent> {
        let mut host = self.0.borrow_mut();
        let host = &mut *host;
        let Some(socket) = host.sockets.get_mut(&session).filter(|s| s.broker) else {
            return Err(Error::Closed);
        };
        if !socket.client {
            return Err(Error::Closed);
        }
        if socket.later > 0 {
            socket.later -= 1;
            socket.refuses = true;
            return Ok(Sent::Later);
        }
        if socket.to_client.len() >= socket.room {
            socket.refuses = true;
            return Ok(Sent::Full);
        }
        socket.refuses = false;
        let uid = socket.life.uid;
        let registries = descriptors
            .iter()
            .filter_map(|descriptor| match descriptor {
                Fd::Registry(words) => Some(words),
                _ => None,
            });
        for words in registries.filter(|words| words.is_stolen_by(uid)) {
            let number = words.number;
            host.books.fail(format!(
                "user {uid} gets registry {number}, and members of another user sleep on its words"
            ));
        }
        let packet = (handle, event.clone(), descriptors.to_vec());
        socket.to_client.push_back(packet);
        host.books.sent(session, handle, event, descriptors);
        Ok(Sent::Yes)
    }

    fn await_room(&mut self, session: u64, wanted: bool) {
        if let Some(socket) = self.0.borrow_mut().sockets.get_mut(&session) {
            socket.awaits_room = wanted;
        }
    }

    fn listen(&mut self, session: u64, wanted: bool) {
        if let Some(socket) = self.0.borrow_mut().sockets.get_mut(&session) {
            socket.listens = wanted;
        }
    }

    fn is_gone(&self, session: u64) -> bool {
        let host = self.0.borrow();
        host.sockets
            .get(&session)
            .is_none_or(|socket| !socket.client)
    }

    fn close(&mut self, session: u64) {
        let mut host = self.0.borrow_mut();
        if let Some(socket) = host.sockets.get_mut(&session) {
            socket.broker = false;
            socket.to_broker.clear();
            if !socket.client {
                host.sockets.remove(&session);
            }
        }
        host.books.session_ended(session);
    }

    fn watch_process(&mut self, process: u64, pidfd: &Fd) -> bool {
        let Fd::Pidfd(life, of) = pidfd else {
            return false;
        };
        let mut host = self.0.borrow_mut();
        // The kernel watches a descriptor once, and this one is watched for its session.
        if host.sockets.get(of).is_some_and(|socket| socket.broker) {
            return false;
        }
        let before = host.watched.insert(process, Rc::clone(life));
        if before.is_some() {
            host.books
                .fail(format!("process {process} is watched twice"));
        }
        true
    }

    fn unwatch_process(&mut self, process: u64, _pidfd: &Fd) {
        self.0.borrow_mut().watched.remove(&process);
    }
}
