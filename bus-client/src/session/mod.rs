//! A process's session with the broker: one connection for all handles of a [`Bus`](crate::Bus).
//!
//! | file | what it holds |
//! | --- | --- |
//! | `state` | behind the lock: the connection, what is sent and received |
//! | `held` | the lock, and who is woken after it |
//! | `interest` | what the thread waits for |
//! | `entry` | one handle: its queue, its peers |
//! | `told` | what a handle takes out of its queue |
//! | `thread` | the thread that reads at all times |
//! | `reclaim` | going to the next broker |
//! | `connector` | finding the broker, or hosting one |
//! | `processes` | peer processes by number |
//! | `reserve` | spare descriptors |
//!
//! ```text
//!  handle                                       thread
//!  a version has moved                          the socket is readable
//!    lock                                         lock
//!    own queue; else the socket                   the socket: each message into its handle's queue
//!    unlock                                       unlock, poke
//!    nothing: sleep, 1 ms, until poked
//! ```
//!
//! Promises: what the broker says is taken out of the kernel at once, however idle a handle is. A handle that sees a
//! version reads what leads to it by itself: no thread of the library has to be scheduled for that. The lock lends its
//! holder the waiter's priority, and nothing is waited for while it is held. Dropping the session ends the thread at once.

mod connector;
mod entry;
mod held;
mod interest;
mod processes;
mod reclaim;
mod reserve;
mod state;
#[cfg(test)]
mod tests;
mod thread;
mod told;

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::Doorbell;
use bus_core::control::{
    Connection, Event, FEATURES, Holder, Refusal, Request, Role, SESSION, Secret, versions,
};
use bus_core::fork::{Birth, Unshared};
use bus_core::schema::Schema;
use bus_core::wake::{Lock, Poked};
use nix::sys::eventfd::{EfdFlags, EventFd};

pub(crate) use connector::{AGAIN, Connector, STARTING};
pub(crate) use entry::{Part, Signals, Standing};
pub(crate) use processes::Process;
pub(crate) use told::{Next, Silence, Told};

use crate::handle::here;
use crate::{Error, Result};
use entry::{Entry, Stage};
use held::{Held, Pokes};
use interest::Interest;
use state::{Carried, State};
use thread::Thread;

/// How long the broker may take for an answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// Until a handle that waits reads the socket itself.
const SELF: Duration = Duration::from_millis(1);

/// A session.
pub(crate) struct Session {
    /// None once it has ended.
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// While it is there, a thread opens a handle.
pub(crate) struct Opening(Arc<Shared>);

/// What the thread has as well.
struct Shared {
    /// Dropped first: the connection is closed before a broker that is hosted here ends.
    state: Lock<State>,
    pokes: Pokes,
    secret: Secret,
    /// The process whose session it is.
    birth: Birth,
    connector: Connector,
}

impl Shared {
    /// The state; those for whom something has changed are woken when it is let go.
    fn lock(&self) -> Held<'_> {
        Held::new(&self.state, &self.pokes)
    }
}

/// What a broker says that lets a session in.
#[derive(Clone, Copy, Debug)]
struct Welcome {
    /// The version of the protocol that both sides speak.
    version: u16,
    generation: u64,
}

/// What a broker says to a newcomer.
enum Greeted {
    Welcome(Welcome),
    Refused(Refusal, String),
    /// It is no broker that this version understands: why.
    Failed(String),
    /// It has closed the connection.
    Closed,
    /// It says nothing, or nobody waits for it any more.
    Silent,
}

impl Session {
    /// Connects, and starts the thread.
    pub(crate) fn start(connector: Connector) -> Result<Self> {
        let failed = |error: bus_core::Error| connector.failed(error.to_string());
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Unshared::of(|| EventFd::from_flags(flags), |bell| bell.as_raw_fd());
        let bell = bell.map_err(|e| failed(bus_core::Error::io("cannot make an eventfd", e)))?;
        let secret = draw_secret().map_err(failed)?;
        let (connection, welcome) = first_connection(&connector, secret)?;
        let interest = Interest::new(&bell).and_then(|mut interest| {
            interest.add(&connection)?;
            Ok(interest)
        });
        let interest =
            interest.map_err(|e| failed(bus_core::Error::io("cannot make an epoll", e)))?;
        let shared = Arc::new(Shared {
            state: Lock::new(State::new(connection, welcome, interest)),
            pokes: Pokes::new(bell),
            secret,
            birth: Birth::here(),
            connector,
        });
        let thread = Thread::new(Arc::clone(&shared));
        let thread = bus_core::thread::spawn_quiet("bus-session", move || thread.run());
        let thread = thread.map_err(|e| {
            let error = bus_core::Error::io("cannot start a thread", e);
            shared.connector.failed(error.to_string())
        })?;
        Ok(Self {
            thread: Some(thread),
            shared,
        })
    }

    /// Whether this process hosts the broker.
    pub(crate) fn hosts(&self) -> bool {
        self.shared.connector.hosts()
    }

    /// The path of the broker's socket.
    pub(crate) fn path(&self) -> &Path {
        self.shared.connector.path()
    }

    /// The process that runs the broker, for people.
    pub(crate) fn holder(&self) -> Holder {
        let link = self.shared.lock().link();
        match link {
            Some(link) => Holder::of_connection(&link, self.path()),
            None => Holder::of_lock(self.path()).unwrap_or(Holder { pid: 0, name: None }),
        }
    }

    /// The broker did not answer in time.
    pub(crate) fn does_not_answer(&self) -> Error {
        self.failed(self.holder().does_not_answer())
    }

    /// The connection has ended, for this reason if the broker gave one.
    pub(crate) fn disconnected(&self, why: Option<String>) -> Error {
        match why {
            Some(why) => self.failed(why),
            None => self.shared.connector.disconnected(),
        }
    }

    pub(crate) fn failed(&self, why: String) -> Error {
        self.shared.connector.failed(why)
    }

    /// A new handle, and what it reads without the lock. Waits until then for a broker that has this session.
    ///
    /// # Errors
    /// [`Error::Broker`] where there is none; [`Error::Forked`] in a fork.
    pub(crate) fn open(
        &self,
        part: Part,
        schema: &Schema,
        doorbell: Option<Arc<Doorbell>>,
        deadline: Instant,
    ) -> Result<(u32, Arc<Signals>)> {
        here(self.shared.birth)?;
        self.shared.connector.check_user()?;
        let mut waits = false;
        let opened = loop {
            let moved = self.moved();
            let mut state = self.shared.lock();
            if state.ready {
                let entry = Entry::new(part, schema.clone(), doorbell);
                let signals = Arc::clone(&entry.signals);
                break Ok((state.add(entry), signals));
            }
            if Instant::now() >= deadline {
                break Err(state.refused.clone());
            }
            if !std::mem::replace(&mut waits, true) {
                state.waiting += 1;
            }
            drop(state);
            self.shared.pokes.ring();
            moved.sleep(Some(deadline));
        };
        if waits {
            self.shared.lock().waiting -= 1;
        }
        opened.map_err(|refused| match refused {
            Some(why) => self.failed(why),
            None => self.shared.connector.nobody(),
        })
    }

    /// A handle is being opened, until what this returns is dropped.
    ///
    /// # Errors
    /// [`Error::Forked`] in a fork, where the lock may be held for ever.
    pub(crate) fn opening(&self) -> Result<Opening> {
        here(self.shared.birth)?;
        self.shared.lock().begin_opening();
        Ok(Opening(Arc::clone(&self.shared)))
    }

    /// Sleeps until something was told, but not longer than until this thread is to read the socket itself. While
    /// handles are opened, one of their threads waits at the socket in place of the session's.
    pub(crate) fn wait(&self, moved: Poked<'_>, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + SELF);
        let mut state = self.shared.lock();
        let leads = state.opening > 0 && !state.led && !moved.is_over();
        let Some(link) = state.link().filter(|_| leads) else {
            drop(state);
            return moved.sleep(Some(deadline));
        };
        state.led = true;
        drop(state);
        wait_for_answer(&link, deadline);
        let mut state = self.shared.lock();
        state.led = false;
        // Another one waits at the socket from now on.
        state.due.moved |= state.opening > 1;
    }

    /// The handle is dropped: the broker is told, if there is one.
    pub(crate) fn close(&self, handle: u32) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.handles.remove(&handle)
            && (entry.is_on_link() || entry.may_still_read())
        {
            state.post(handle, &Request::Close {}, Vec::new());
        }
        state.answered(handle);
        state.complete();
        self.hand_over(state);
    }

    /// Where something could not be sent at once, the thread sends it.
    fn hand_over(&self, mut state: Held<'_>) {
        state.due.thread |= state.unsent() > 0;
    }

    /// Sends a request about a handle, if a broker has it.
    pub(crate) fn post(&self, handle: u32, request: &Request) {
        let mut state = self.shared.lock();
        if state.handles.get(&handle).is_some_and(Entry::is_on_link) {
            state.post(handle, request, Vec::new());
        }
        self.hand_over(state);
    }

    /// Asks to be a member, as this.
    pub(crate) fn join(&self, handle: u32, standing: Standing) {
        let mut state = self.shared.lock();
        let segment = Carried::Segment(Arc::clone(&standing.segment));
        if let Some(entry) = state.handles.get_mut(&handle) {
            entry.stand(standing);
            if entry.is_on_link() {
                state.post(handle, &Request::Join {}, vec![segment]);
            }
        }
        self.hand_over(state);
    }

    /// Tells the broker, and all that come later, how to wake this handle. [`Told::DoorbellRegistered`] follows, or
    /// [`Told::Reclaimed`] that says so.
    pub(crate) fn register_doorbell(&self, handle: u32, doorbell: &Arc<Doorbell>) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.handles.get_mut(&handle)
            && entry.doorbell.is_none()
        {
            entry.doorbell = Some(Arc::clone(doorbell));
            if entry.is_on_link() {
                let button = Carried::Button(Arc::clone(doorbell));
                state.post(handle, &Request::RegisterDoorbell {}, vec![button]);
            }
        }
        self.hand_over(state);
    }

    /// The subscriber reads this ring no more.
    pub(crate) fn release(&self, handle: u32, ring: u64) {
        let mut state = self.shared.lock();
        state.release(handle, ring);
        self.hand_over(state);
    }

    /// The handle has found out by itself that this peer is gone: the next broker is not told of it.
    pub(crate) fn forget_peer(&self, handle: u32, peer: u64, role: Role) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.handles.get_mut(&handle) {
            match role {
                Role::Publisher => drop(entry.known.remove(&peer)),
                Role::Subscriber => {
                    if let Some(known) = entry.known.get_mut(&peer) {
                        known.left = true;
                    }
                }
            }
        }
    }

    /// The next thing that a handle is told. Reads the socket where nothing was told yet.
    ///
    /// # Errors
    /// Why there is nothing, and will be nothing.
    pub(crate) fn next(&self, handle: u32) -> Result<Next, Silence> {
        let mut state = self.shared.lock();
        loop {
            let Some(entry) = state.handles.get_mut(&handle) else {
                return Err(Silence::Broken(None));
            };
            if let Some(told) = entry.take() {
                return Ok(Next::Told(told));
            }
            match entry.stage {
                Stage::Broken => return Err(Silence::Broken(entry.fate.clone())),
                Stage::Over => {
                    let why = entry.fate.clone().unwrap_or_default();
                    return Err(Silence::Over(why));
                }
                _ => {}
            }
            if state.receive(1) > 0 {
                continue;
            }
            let Some(entry) = state.handles.get_mut(&handle) else {
                return Err(Silence::Broken(None));
            };
            if entry.stage == Stage::Broken {
                continue;
            }
            let version = entry.version();
            let down = entry.is_waiting();
            entry.seen = version;
            self.hand_over(state);
            return Ok(Next::Nothing { version, down });
        }
    }

    /// What changes with everything that handles are told; to be taken before [`next`](Self::next).
    pub(crate) fn moved(&self) -> Poked<'_> {
        self.shared.pokes.moved.seen()
    }

    /// What changes when a broker goes or comes, and again and again while there is none.
    pub(crate) fn news(&self) -> Poked<'_> {
        self.shared.pokes.news.seen()
    }

    /// For how long there has been no broker that has the handles.
    pub(crate) fn down_for(&self) -> Option<Duration> {
        self.shared.lock().down.map(|since| since.elapsed())
    }

    /// Why a handle waits, where that is for want of descriptors.
    pub(crate) fn shortage(&self, handle: u32) -> Option<String> {
        let state = self.shared.lock();
        if state.is_stuck() {
            return Some("too many descriptors of this user are on their way between processes; raise the limit (ulimit -n), or find the program that does not take its own".into());
        }
        state.handles.get(&handle)?.shortage()
    }

    /// Why no broker takes this handle any more, if so.
    pub(crate) fn fate(&self, handle: u32) -> Option<String> {
        let state = self.shared.lock();
        let entry = state.handles.get(&handle)?;
        (entry.stage == Stage::Over).then(|| entry.fate.clone().unwrap_or_default())
    }

    /// The number of the topic at the broker of now, if that is known: for a watch, or because that broker took the
    /// handle back.
    pub(crate) fn topic_number(&self, handle: u32) -> Option<u64> {
        let state = self.shared.lock();
        state.handles.get(&handle)?.topic
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.lock().end_opening();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if !self.shared.birth.is_here() {
            // In a fork there is no such thread, and one that is not there may have the lock.
            std::mem::forget(thread);
            return;
        }
        self.shared.lock().end();
        if thread.join().is_err() {
            tracing::error!("the thread of the session did not end well");
        }
        if let Some(link) = self.shared.lock().link.take() {
            link.shut_down();
        }
    }
}

/// A first connection, over which the broker has let the session in.
fn first_connection(connector: &Connector, secret: Secret) -> Result<(Connection, Welcome)> {
    let deadline = Instant::now() + ANSWER;
    let mut met = None;
    loop {
        let connection = match connector.connect() {
            Ok(connection) => connection,
            // No other came: the one that was there says more.
            Err(error @ Error::Broker { .. }) => return Err(met.unwrap_or(error)),
            Err(error) => return Err(error),
        };
        let wait = |connection: &Connection| wait_for_answer(connection, deadline);
        match say_hello(connector, secret, &connection, 0, 0, wait) {
            Greeted::Welcome(welcome) => return Ok((connection, welcome)),
            Greeted::Refused(Refusal::Version, why) | Greeted::Failed(why) => {
                return Err(connector.failed(why));
            }
            Greeted::Refused(_, why) => return Err(Error::Refused(why)),
            // It met a broker on its way out.
            Greeted::Closed if Instant::now() < deadline => {
                met = Some(connector.disconnected());
                std::thread::sleep(AGAIN);
            }
            Greeted::Closed => return Err(connector.disconnected()),
            Greeted::Silent => {
                let holder = Holder::of_connection(&connection, connector.path());
                return Err(connector.failed(holder.does_not_answer()));
            }
        }
    }
}

/// Waits for something to read until then; whether there is time left.
fn wait_for_answer(connection: &Connection, deadline: Instant) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    let _ = poll(
        &mut [PollFd::new(connection.as_fd(), PollFlags::POLLIN)],
        timeout,
    );
    Instant::now() < deadline
}

fn greet(
    shared: &Shared,
    connection: &Connection,
    reclaims: u32,
    generation: u64,
    wait: impl FnMut(&Connection) -> bool,
) -> Greeted {
    let (connector, secret) = (&shared.connector, shared.secret);
    say_hello(connector, secret, connection, reclaims, generation, wait)
}

/// Introduces this process to a broker. `wait` waits for an answer, and says whether to go on waiting.
fn say_hello(
    connector: &Connector,
    secret: Secret,
    connection: &Connection,
    reclaims: u32,
    generation: u64,
    mut wait: impl FnMut(&Connection) -> bool,
) -> Greeted {
    let hello = Request::Hello {
        versions: versions(),
        features: FEATURES,
        client: connector.client().to_string(),
        secret,
        reclaims,
        generation,
    };
    // An empty socket has room for one packet, but the kernel may lack memory. Then the next connection says it. A broker
    // that is gone may have said why.
    if let Ok(false) = connection.try_send(SESSION, &hello, &[]) {
        return Greeted::Closed;
    }
    loop {
        match connection.try_recv::<Event>() {
            Ok(Some(frame)) => {
                #[cfg(feature = "next-build")]
                bus_core::control::next::address(connection, &frame.message);
                return match frame.message {
                    Event::Welcome {
                        version,
                        generation,
                        ..
                    } => Greeted::Welcome(Welcome {
                        version,
                        generation,
                    }),
                    Event::Refused { kind, why } => Greeted::Refused(kind, why),
                    event => Greeted::Failed(format!("{event:?} is no answer to a greeting")),
                };
            }
            Ok(None) => {
                if !wait(connection) {
                    return Greeted::Silent;
                }
            }
            Err(bus_core::Error::Closed) => return Greeted::Closed,
            Err(error @ bus_core::Error::Version { .. }) => {
                return Greeted::Refused(Refusal::Version, error.to_string());
            }
            Err(error) => return Greeted::Failed(error.to_string()),
        }
    }
}

/// A secret that nobody else has.
fn draw_secret() -> bus_core::Result<Secret> {
    use std::io::Read;

    let failed = |e| bus_core::Error::io("cannot read random numbers", e);
    let mut bytes = [0; 16];
    let mut source = std::fs::File::open("/dev/urandom").map_err(failed)?;
    source.read_exact(&mut bytes).map_err(failed)?;
    let (low, high) = bytes.split_at(8);
    let number = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
    Ok(Secret(number(low), number(high)))
}
