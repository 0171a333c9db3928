//! A session with a broker, spoken by hand.
//!
//! It answers for what every session owes: it acknowledges descriptors, keeps the processes that were introduced
//! with their pidfds, and sorts events by their handles. A test may switch the acknowledging off.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bus_core::Error;
use bus_core::control::{
    Connection, Event, Frame, PROTOCOL_VERSIONS, Refusal, Request, SESSION, Secret,
};

use super::deadline;

/// An event of a handle, and the descriptors that came with it.
pub type Told = (Event, Vec<OwnedFd>);

/// A process that the session was told of.
#[derive(Clone, Debug)]
pub struct Introduced {
    pub pid: u32,
    pub user: u32,
    pub client: String,
    pub pidfd: Arc<OwnedFd>,
}

/// What a session introduces itself with.
#[derive(Clone, Debug)]
pub struct Greeting {
    pub client: String,
    pub secret: Secret,
    pub reclaims: u32,
    pub generation: u64,
    /// The number of its first new handle.
    pub first: u32,
}

impl Greeting {
    /// One of a process that was at no broker before.
    pub fn new() -> Self {
        Self {
            client: "test".into(),
            secret: Secret(fastrand::u64(..), fastrand::u64(..)),
            reclaims: 0,
            generation: 0,
            first: 1,
        }
    }

    /// The message.
    pub fn hello(&self) -> Request {
        Request::Hello {
            versions: PROTOCOL_VERSIONS,
            features: 0,
            client: self.client.clone(),
            secret: self.secret,
            reclaims: self.reclaims,
            generation: self.generation,
        }
    }
}

#[derive(Debug)]
struct Inner {
    generation: u64,
    next: u32,
    acknowledges: bool,
    queues: HashMap<u32, VecDeque<Told>>,
    processes: BTreeMap<u64, Introduced>,
}

/// One connection to a broker.
#[derive(Debug)]
pub struct Session {
    pub connection: Connection,
    pub greeting: Greeting,
    pub process: u64,
    inner: Mutex<Inner>,
}

impl Session {
    pub fn connect(path: &Path) -> Arc<Self> {
        Self::greet(path, Greeting::new()).unwrap()
    }

    /// Connects with this greeting; the refusal, if there is one.
    pub fn greet(path: &Path, greeting: Greeting) -> Result<Arc<Self>, (Refusal, String)> {
        Self::greet_over(Connection::connect(path).unwrap(), greeting)
    }

    /// The same over a connection that is there.
    pub fn greet_over(
        connection: Connection,
        greeting: Greeting,
    ) -> Result<Arc<Self>, (Refusal, String)> {
        // A client that was turned away has its answer before it asks.
        let _ = connection.send(SESSION, &greeting.hello(), &[]);
        let answer = connection.recv::<Event>(deadline()).unwrap();
        assert_eq!(answer.handle, SESSION);
        let (process, generation) = match answer.message {
            Event::Welcome {
                process,
                generation,
                ..
            } => (process, generation),
            Event::Refused { kind, why } => {
                ended(&connection);
                return Err((kind, why));
            }
            other => panic!("not welcome but {other:?}"),
        };
        assert_eq!(process, greeting.secret.process());
        let inner = Inner {
            generation,
            next: greeting.first,
            acknowledges: true,
            queues: HashMap::new(),
            processes: BTreeMap::new(),
        };
        Ok(Arc::new(Self {
            connection,
            greeting,
            process,
            inner: Mutex::new(inner),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// With what its process introduces itself to a later broker.
    pub fn returns(&self, reclaims: u32) -> Greeting {
        let inner = self.inner();
        Greeting {
            reclaims,
            generation: inner.generation,
            first: inner.next,
            ..self.greeting.clone()
        }
    }

    /// The newest generation that it was told of.
    pub fn generation(&self) -> u64 {
        self.inner().generation
    }

    /// A handle number that is new.
    pub fn number(&self) -> u32 {
        let mut inner = self.inner();
        inner.next += 1;
        inner.next - 1
    }

    /// From now on it does not say that it has taken descriptors.
    pub fn stop_acknowledging(&self) {
        self.inner().acknowledges = false;
    }

    /// The processes that it knows.
    pub fn processes(&self) -> BTreeMap<u64, Introduced> {
        self.inner().processes.clone()
    }

    pub fn send(&self, handle: u32, request: &Request, descriptors: &[BorrowedFd<'_>]) {
        self.connection.send(handle, request, descriptors).unwrap();
    }

    /// Sends a request as a new handle; the handle's number.
    pub fn ask(&self, request: &Request) -> u32 {
        let handle = self.number();
        self.send(handle, request, &[]);
        handle
    }

    /// The next event of a handle.
    pub fn next(&self, handle: u32) -> Told {
        self.try_next_until(handle, true)
            .unwrap_or_else(|error| panic!("handle {handle}: {error}"))
            .unwrap_or_else(|| panic!("handle {handle}: nothing is said"))
    }

    /// The next event of a handle, or the end of the session.
    pub fn hear(&self, handle: u32) -> Result<Told, Error> {
        let told = self.try_next_until(handle, true)?;
        Ok(told.unwrap_or_else(|| panic!("handle {handle}: nothing is said")))
    }

    /// The next event of a handle, if one is there already.
    pub fn try_next(&self, handle: u32) -> Option<Told> {
        self.try_next_until(handle, false).unwrap()
    }

    /// The next event of a handle; waits for it if asked to.
    fn try_next_until(&self, handle: u32, waits: bool) -> Result<Option<Told>, Error> {
        let deadline = deadline();
        let mut inner = self.inner();
        loop {
            let queue = inner.queues.entry(handle).or_default();
            if let Some(told) = queue.pop_front() {
                return Ok(Some(told));
            }
            let frame = match waits {
                true => self.connection.recv::<Event>(deadline)?,
                false => match self.connection.try_recv::<Event>()? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            self.sort(&mut inner, frame);
        }
    }

    /// Takes what is in the socket, and says so.
    pub fn drain(&self) {
        let mut inner = self.inner();
        while let Some(frame) = self.connection.try_recv::<Event>().unwrap() {
            self.sort(&mut inner, frame);
        }
    }

    fn sort(&self, inner: &mut Inner, frame: Frame<Event>) {
        let Frame {
            handle,
            message,
            mut descriptors,
        } = frame;
        if inner.acknowledges && !descriptors.is_empty() {
            let received = Request::Received {
                descriptors: descriptors.len() as u32,
            };
            // The broker may be gone, and what it said last is still to be read.
            let _ = self.connection.send(SESSION, &received, &[]);
        }
        match message {
            Event::Process {
                process,
                pid,
                user,
                client,
            } => {
                assert_eq!((handle, descriptors.len()), (SESSION, 1));
                let introduced = Introduced {
                    pid,
                    user,
                    client,
                    pidfd: Arc::new(descriptors.remove(0)),
                };
                inner.processes.insert(process, introduced);
            }
            Event::ProcessGone { process } => {
                let known = inner.processes.remove(&process);
                assert!(known.is_some(), "a process goes that never came");
            }
            Event::Generation { generation } => inner.generation = generation,
            message => {
                if let Event::PublisherJoined { process, .. }
                | Event::SubscriberJoined { process, .. } = &message
                {
                    let known = inner.processes.contains_key(process);
                    assert!(known, "a peer is told ahead of its process: {message:?}");
                }
                let queue = inner.queues.entry(handle).or_default();
                queue.push_back((message, descriptors));
            }
        }
    }

    /// The refusal of a handle, which must be its next event.
    pub fn refusal(&self, handle: u32) -> (Refusal, String) {
        match self.next(handle).0 {
            Event::Refused { kind, why } => {
                // A client that breaks the protocol does not know what it says.
                if handle == SESSION || kind == Refusal::Protocol {
                    self.ends();
                }
                (kind, why)
            }
            other => panic!("not refused but {other:?}"),
        }
    }

    /// Asks for something as a new handle, which must be refused.
    pub fn refused(&self, request: &Request) -> (Refusal, String) {
        self.refusal(self.ask(request))
    }

    /// Waits until the broker has closed the connection.
    pub fn ends(&self) {
        let deadline = deadline();
        let mut inner = self.inner();
        loop {
            match self.connection.recv::<Event>(deadline) {
                Ok(frame) => self.sort(&mut inner, frame),
                Err(Error::Closed) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits until the broker has served everything that was sent so far.
    pub fn barrier(&self) {
        let nothing = Request::Open {
            role: bus_core::control::Role::Subscriber,
            topic: "No Name".into(),
            schema: bus_core::schema::Schema::bytes(),
            settings: bus_core::Settings::default(),
            history: 0,
            watched: None,
        };
        assert_eq!(self.refused(&nothing).0, Refusal::BadName);
    }

    /// Presents processes that it knows from an earlier broker.
    pub fn present(&self, processes: &BTreeMap<u64, Introduced>) {
        for (&process, introduced) in processes {
            let present = Request::PresentProcess {
                process,
                pid: introduced.pid,
                user: introduced.user,
                client: introduced.client.clone(),
            };
            self.send(SESSION, &present, &[introduced.pidfd.as_fd()]);
            self.inner().processes.insert(process, introduced.clone());
        }
    }

    /// It has presented everything.
    pub fn complete(&self) {
        self.send(SESSION, &Request::ReclaimComplete {}, &[]);
    }
}

/// Waits for the end of a connection.
pub fn ended(connection: &Connection) {
    let end = connection.recv::<Event>(deadline()).unwrap_err();
    assert!(matches!(end, Error::Closed), "{end}");
}
