//! The loop: one thread, one epoll.
//!
//! It waits in `epoll_wait` and nowhere else, without a time limit unless the kernel refused something
//! that it may grant a moment later. Each turn does a bounded amount for each who is ready.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bus_core::Error as CoreError;
use bus_core::control::{Connection, Passed, Refusal, Request, SESSION};
use bus_core::fork::{Birth, Unshared};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::endpoint::{BACKLOG, Endpoint};
use crate::engine::{End, Engine, Refused, Start};
use crate::governed::Governed;
use crate::kernel::{Kernel, Token};
use crate::limits::{ACCEPTS_PER_TURN, REQUESTS_PER_TURN, raise_descriptor_limit};
use crate::marker::{self, Marker};
use crate::path_watch::{LOOK, PathWatch};
use crate::policy::{Policy, Source, Subject};
use crate::report;
use crate::reserve::{Accepted, Reserve, is_exhaustion};
use crate::retained::Retained;
use crate::store::{Store, Stored, is_stored};
use crate::systemd::{self, State};
use crate::takeover;
use crate::waste::{self, Sender};
use crate::{Error, Result};

/// After how long to try again what the kernel refused.
const RETRY: Duration = Duration::from_millis(50);
/// How long a stopping broker goes on with clients that keep it busy, or that it still owes something.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Events that are taken from the kernel at a time.
const EVENTS_PER_TURN: usize = 128;

/// A broker that listens, and is yet to run.
///
/// Connections that come before it runs wait to be accepted.
#[derive(Debug)]
pub struct Broker {
    stop: Arc<Unshared<EventFd>>,
    signals: Option<SignalFd>,
    reserve: Reserve,
    governed: Governed,
    /// The process that took the path, and has to run it.
    birth: Birth,
    /// How the broker before it ended.
    before: Marker,
    /// Another broker has asked this one to end.
    yielded: Arc<AtomicBool>,
    service: Service,
    /// Last, for its lock guards the path.
    endpoint: Endpoint,
}

impl Broker {
    /// Takes the path: removes what a killed broker left there, and listens.
    ///
    /// It serves its own user and nobody else, until [`govern`](Self::govern) says otherwise. It has as many descriptors as its process
    /// may have: see [`raise_descriptor_limit`].
    ///
    /// # Errors
    /// [`Error::InUse`] if another broker is there, [`Error::Foreign`] if something else is,
    /// [`Error::Listen`] if the path cannot be used.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self> {
        let reserve = Reserve::new().map_err(|e| Error::io("taking a descriptor in reserve", e))?;
        Self::at(Endpoint::bind(path.as_ref())?, reserve, Service::default())
    }

    /// As [`bind`](Self::bind), for a process of its own that a service manager may have started: its limit of descriptors is raised as
    /// far as it may be; `passed` is what that has passed to it
    /// ([`take_passed`](bus_core::control::take_passed)).
    ///
    /// A socket among it is where the broker listens, and stays when it ends; `path` says where to listen if there is none. The service manager is told when the broker is
    /// ready and when it stops, and keeps the rings of ended publishers that their topics retain, if it was asked to
    /// (`FileDescriptorStoreMax=`).
    ///
    /// A broker that another process hosts at the path is asked to end, and its clients come to this one.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind). [`Error::Foreign`] also where the socket is none that a broker can listen at.
    pub fn bind_service(
        passed: Vec<Passed>,
        path: impl FnOnce() -> Result<PathBuf>,
    ) -> Result<Self> {
        raise_descriptor_limit();
        let reserve = Reserve::new().map_err(|e| Error::io("taking a descriptor in reserve", e))?;
        let (mut sockets, kept) = passed
            .into_iter()
            .partition::<Vec<_>, _>(|passed| !is_stored(&passed.name));
        let endpoint = match (sockets.pop(), sockets.is_empty()) {
            (Some(socket), true) => Endpoint::adopt(socket.descriptor)?,
            (None, _) => takeover::bind(&path()?)?,
            (Some(_), false) => {
                return Err(Error::Foreign {
                    path: "the service manager's socket".into(),
                    why: "there are several, and a broker listens at one",
                });
            }
        };
        let (store, stored) = Store::open(kept);
        let service = Service {
            is_told: true,
            store: Some(store),
            stored,
        };
        Self::at(endpoint, reserve, service)
    }

    fn at(endpoint: Endpoint, reserve: Reserve, service: Service) -> Result<Self> {
        let before = marker::read(endpoint.lock_file());
        let generation = before.generation.saturating_add(1);
        if let Err(error) = marker::write(endpoint.lock_file(), generation, false) {
            tracing::warn!(%error, "cannot write the lock file: the next broker may not know this one");
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = Unshared::new(|| EventFd::from_flags(flags))
            .map_err(|e| Error::io("making the descriptor that stops it", e))?;
        Ok(Self {
            stop: Arc::new(stop),
            signals: None,
            reserve,
            governed: Governed::by_default(),
            birth: Birth::here(),
            before,
            yielded: Arc::default(),
            service,
            endpoint,
        })
    }

    /// Reads the policy, and serves whom it names. Where that is anybody but the broker's own user, everybody may connect to the socket
    /// from now on, and the policy decides who is served.
    ///
    /// # Errors
    /// [`Error::Policy`] with everything that is wrong in the file, [`Error::PolicyFile`] where it cannot be used.
    pub fn govern(&mut self, source: Source) -> Result<()> {
        self.governed.start(source, &mut self.endpoint)
    }

    /// Gives topics what this policy declares of them (`[[topic]]`). The broker serves its own user and nobody else, whatever the policy
    /// says besides.
    pub fn declare(&mut self, policy: Policy) {
        self.governed.declare(policy);
    }

    /// The path on which it listens, absolute.
    pub fn path(&self) -> &Path {
        self.endpoint.path()
    }

    /// Lets `SIGTERM` and `SIGINT` end [`run`](Self::run), and `SIGHUP` read the policy again. Blocks them in this thread: call it
    /// before there are others, and run in this one.
    ///
    /// # Errors
    /// [`Error::Io`] with what the kernel said.
    pub fn stop_on_signals(&mut self) -> Result<()> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals
            .thread_block()
            .map_err(|e| Error::io("blocking signals", e))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals, flags)
            .map_err(|e| Error::io("watching for signals", e))?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Whether it ends because another broker has asked it to.
    pub(crate) fn yielded(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.yielded)
    }

    /// What stops it from another thread, by being written to.
    pub(crate) fn stop_handle(&self) -> Arc<Unshared<EventFd>> {
        Arc::clone(&self.stop)
    }

    /// Serves until it is stopped; then finishes what has happened before that, and removes the socket.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel refuses what a broker cannot do without; [`Error::Core`] in a fork of the process that took the path.
    pub fn run(self) -> Result<()> {
        self.run_and_tell(|| {})
    }

    /// As [`run`](Self::run); says when it has all that it needs.
    pub(crate) fn run_and_tell(self, begun: impl FnOnce()) -> Result<()> {
        let running = Running::start(self)?;
        begun();
        running.run()
    }
}

/// What a service manager has to do with a broker.
#[derive(Debug, Default)]
struct Service {
    is_told: bool,
    store: Option<Store>,
    /// What it has kept.
    stored: Vec<Stored>,
}

/// A broker at work.
struct Running {
    stop: Arc<Unshared<EventFd>>,
    signals: Option<SignalFd>,
    governed: Governed,
    epoll: Rc<Unshared<Epoll>>,
    reserve: Reserve,
    engine: Engine<Kernel>,
    retained: Retained,
    generation: u64,
    yielded: Arc<AtomicBool>,
    /// A service manager hears of it.
    is_told: bool,
    /// The listener is not watched, because connections cannot be accepted for now.
    paused: bool,
    /// When to try again what the kernel refused.
    retry_at: Option<Instant>,
    path_watch: PathWatch,
    /// When to look whether the path is still this broker's, where no notice tells it.
    look_at: Option<Instant>,
    /// The path could not be taken again, and that has been logged.
    is_lost: bool,
    /// Until when to go on, once it was stopped.
    end: Option<Instant>,
    /// When the engine was told the time last.
    looked: Instant,
    /// Last, for its lock guards the path.
    endpoint: Endpoint,
}

impl Running {
    fn start(broker: Broker) -> Result<Self> {
        let Broker {
            stop,
            signals,
            reserve,
            mut governed,
            birth,
            before,
            yielded,
            service,
            endpoint,
        } = broker;
        birth.check()?;
        let epoll = Unshared::of(
            || Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC),
            |epoll| epoll.0.as_raw_fd(),
        )
        .map_err(|e| Error::io("making an epoll", e))?;
        let epoll = Rc::new(epoll);
        let watch = |fd: &dyn AsFd, token: Token| {
            epoll
                .add(
                    fd.as_fd(),
                    EpollEvent::new(EpollFlags::EPOLLIN, token.pack()),
                )
                .map_err(|e| Error::io("watching its own descriptors", e))
        };
        watch(&**stop, Token::Stop)?;
        if let Some(signals) = &signals {
            watch(signals, Token::Signal)?;
        }
        if let Some(listener) = endpoint.listener() {
            watch(&listener, Token::Listener)?;
        }
        let generation = before.generation.saturating_add(1);
        let start = Start {
            policy: governed.take_policy(),
            // The hasher's keys are random.
            ids: RandomState::new().build_hasher().finish(),
            generation,
            unclean: !before.clean,
            gives_way: !service.is_told,
            #[cfg(feature = "simulator")]
            planted: None,
        };
        let mut engine = Engine::new(Kernel::new(Rc::clone(&epoll)), start);
        let retained = match service.store {
            Some(store) => Retained::restore(&mut engine, store, service.stored),
            None => Retained::none(),
        };
        Ok(Self {
            engine,
            retained,
            generation,
            yielded,
            is_told: service.is_told,
            stop,
            signals,
            governed,
            epoll,
            reserve,
            paused: false,
            retry_at: None,
            path_watch: PathWatch::default(),
            look_at: None,
            is_lost: false,
            end: None,
            looked: Instant::now(),
            endpoint,
        })
    }

    fn run(mut self) -> Result<()> {
        tracing::info!("listening on {}", self.endpoint.path().display());
        self.tell(State::Ready);
        // What a service manager has kept and nobody wants goes now; no event may come for long.
        self.retained.update(&mut self.engine);
        self.retry()?;
        self.watch_path()?;
        let mut events = [EpollEvent::empty(); EVENTS_PER_TURN];
        loop {
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(Error::io("waiting for events", e)),
            };
            let now = Instant::now();
            self.engine.tick(now - self.looked);
            self.looked = now;
            for event in &events[..ready] {
                self.handle(Token::unpack(event.data()), event.events())?;
            }
            self.engine.settle();
            self.engine.end_turn();
            self.retained.update(&mut self.engine);
            if self.engine.yields && self.end.is_none() {
                tracing::info!("another broker takes this path over");
                // ORDERING: pairs with the load in `BrokerThread::has_yielded`; nothing else is published by it.
                self.yielded.store(true, Ordering::Release);
                self.begin_to_stop()?;
            }
            self.retry()?;
            if self.look_at.is_some_and(|at| Instant::now() >= at) {
                self.look_at_path()?;
            }
            if let Some(end) = self.end
                && ((ready == 0 && !self.engine.owes_anything()) || Instant::now() >= end)
            {
                return self.finish();
            }
        }
    }

    /// Says in the lock file whether any member is left.
    fn finish(mut self) -> Result<()> {
        let clean = !self.engine.has_members();
        self.endpoint.close();
        self.mark(clean);
        tracing::info!("stopped");
        Ok(())
    }

    fn mark(&self, clean: bool) {
        if let Err(error) = marker::write(self.endpoint.lock_file(), self.generation, clean) {
            tracing::warn!(%error, "cannot write the lock file: the next broker waits for members that may be left");
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if self.end.is_some() && !self.engine.owes_anything() {
            return EpollTimeout::ZERO;
        }
        let wakeup = self.engine.next_wakeup().map(|after| self.looked + after);
        let due = self.retry_at.into_iter().chain(self.look_at);
        let due = due.chain(self.end).chain(wakeup);
        let Some(at) = due.min() else {
            return EpollTimeout::NONE;
        };
        let millis = at.saturating_duration_since(Instant::now()).as_millis() + 1;
        EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
    }

    fn handle(&mut self, token: Token, flags: EpollFlags) -> Result<()> {
        match token {
            Token::Listener => drop(self.accept()?),
            Token::Stop => {
                // Read, so that it does not look like something that is left to do.
                let _ = self.stop.read();
                self.begin_to_stop()?;
            }
            Token::Signal => {
                while let Some(Ok(Some(signal))) = self.signals.as_ref().map(SignalFd::read_signal)
                {
                    if signal.ssi_signo == Signal::SIGHUP as u32 {
                        self.reload();
                    } else {
                        tracing::info!(signal = signal.ssi_signo, "told to stop");
                        self.begin_to_stop()?;
                    }
                }
            }
            Token::Path => {
                self.path_watch.read();
                self.look_at_path()?;
            }
            Token::Connection(session) => self.ready(session, flags),
            Token::Process(session) => self.engine.ended(session, End::Died),
            Token::Absent(token) => {
                if let Some(process) = self.engine.world.absent(token) {
                    self.engine.process_died(process);
                }
            }
        }
        Ok(())
    }

    /// A connection is ready: sends what waits, serves some requests.
    fn ready(&mut self, session: u64, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.engine.writable(session);
        }
        if !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        if !self.engine.world.listens(session) {
            // It is not read, because it does not read its answers. It may have hung up.
            if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                self.engine.ended(session, End::Closed);
            }
            return;
        }
        for _ in 0..REQUESTS_PER_TURN {
            let Some((connection, sender)) = self.engine.world.readable(session) else {
                return;
            };
            let mut refused = Vec::new();
            let received = connection.try_recv_or::<Request>(&mut refused);
            waste::throw(sender, refused);
            match received {
                Ok(Some(frame)) => {
                    let descriptors: Vec<_> = frame.descriptors.into_iter().map(Rc::new).collect();
                    // So that the engine closes none of them.
                    let unwanted = descriptors.clone();
                    self.engine
                        .received(session, frame.handle, frame.message, descriptors);
                    waste::throw_unwanted(sender, unwanted);
                }
                Ok(None) => return,
                Err(CoreError::Closed) => return self.engine.ended(session, End::Closed),
                Err(error) => {
                    let lost = matches!(error, CoreError::DescriptorsLost { .. });
                    let kind = match &error {
                        CoreError::Version { .. } | CoreError::UnknownMessage { .. } => {
                            Refusal::Version
                        }
                        error if lost || is_exhaustion(error) => Refusal::Limit,
                        _ => Refusal::Protocol,
                    };
                    let why = if lost {
                        "the broker has no descriptors left; raise its limit (ulimit -n), or use fewer handles".to_owned()
                    } else {
                        error.to_string()
                    };
                    return self.engine.malformed(session, Refused::new(kind, why));
                }
            }
        }
    }

    /// Takes a new connection in, or turns it away.
    fn admit(&mut self, connection: Connection) {
        let identified = connection.credentials().and_then(|peer| {
            let who = Subject::of_peer(&connection)?;
            Ok((peer, who, Rc::new(connection.peer_pidfd()?)))
        });
        let (peer, who, pidfd) = match identified {
            Ok(peer) => peer,
            // It is gone already.
            Err(CoreError::Closed) => return waste::close(Sender(None), connection),
            Err(error) => {
                let refused = Refused::new(Refusal::Limit, error.to_string());
                return turn_away(connection, &refused);
            }
        };
        let sender = Sender(self.engine.may_connect(&who).then_some(who.uid));
        if let Err(refused) = waste::check(sender) {
            report::refused(peer.uid, peer.pid, refused.kind, &refused.why);
            say(&connection, &refused);
            return waste::close(sender, connection);
        }
        let session = match self.engine.world.insert(connection, &pidfd, sender) {
            Ok(session) => session,
            Err(error) => {
                return tracing::warn!(pid = peer.pid, %error, "cannot watch a new connection");
            }
        };
        let connected = self.engine.connected(session, peer, who, pidfd);
        let Some(connection) = self.engine.world.connection(session) else {
            return;
        };
        match connected {
            Ok(()) => connection.take_descriptors(true),
            Err(refused) => {
                report::refused(peer.uid, peer.pid, refused.kind, &refused.why);
                say(connection, &refused);
                self.engine.forget_connection(session);
            }
        }
    }

    /// Reads the policy again. One with a mistake changes nothing.
    fn reload(&mut self) {
        if let Some(policy) = self.governed.reload(&mut self.endpoint) {
            self.engine.set_policy(policy);
        }
    }

    fn tell(&self, state: State) {
        if self.is_told {
            systemd::tell(state);
        }
    }

    /// Hears from now on when the files at the path change.
    fn watch_path(&mut self) -> Result<()> {
        self.path_watch = PathWatch::of(&self.endpoint);
        self.look_at = match self.path_watch.descriptor() {
            Some(notices) => {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Path.pack());
                self.epoll
                    .add(notices, event)
                    .map_err(|e| Error::io("watching its path", e))?;
                None
            }
            None => Some(Instant::now() + LOOK),
        };
        // What has happened before that is seen now.
        if self.look_at.is_none() && !self.endpoint.is_there() {
            self.look_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Takes the path again where somebody has removed its socket or its lock; ends where another broker has it.
    fn look_at_path(&mut self) -> Result<()> {
        self.look_at = None;
        if self.end.is_some() {
            return Ok(());
        }
        if self.endpoint.is_there() {
            return match self.path_watch.descriptor() {
                Some(_) => Ok(()),
                None => self.watch_path(),
            };
        }
        let path = self.endpoint.path().display().to_string();
        if self.endpoint.is_kept() {
            if !std::mem::replace(&mut self.is_lost, true) {
                tracing::error!(
                    path,
                    "somebody has removed the socket; nobody new finds this broker until the socket unit is restarted"
                );
            }
            return Ok(());
        }
        match self.listen_anew() {
            Ok(()) => {
                self.is_lost = false;
                tracing::warn!(
                    path,
                    "somebody had removed the socket or its lock; listening there again"
                );
                self.watch_path()
            }
            Err(error @ Error::InUse { .. }) => {
                tracing::error!(%error, "somebody had removed the socket, and another broker has come; this one stops");
                self.begin_to_stop()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_lost, true) {
                    tracing::error!(%error, "somebody has removed the socket; nobody new finds this broker until it can listen again");
                }
                self.look_at = Some(Instant::now() + LOOK);
                Ok(())
            }
        }
    }

    fn listen_anew(&mut self) -> Result<()> {
        // Connections that wait at the old socket find nothing at the new one.
        let mut turns = 0..=BACKLOG as usize / ACCEPTS_PER_TURN;
        while turns.next().is_some() && self.accept()? {}
        let before = self.endpoint.renew()?;
        self.mark(false);
        let Some(before) = before else {
            return Ok(());
        };
        // One that is not watched for now is not there to be deleted.
        let _ = self.epoll.delete(&*before);
        self.paused = false;
        if let Some(listener) = self.endpoint.listener() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener.pack());
            self.epoll
                .add(listener, event)
                .map_err(|e| Error::io("watching its new socket", e))?;
        }
        Ok(())
    }

    /// Nobody new comes in; what has happened so far is still told. Who has connected may have said something: that a handle has ended, for
    /// instance. At a socket that is kept they wait for the next broker.
    fn begin_to_stop(&mut self) -> Result<()> {
        if self.end.is_none() {
            self.tell(State::Stopping);
            if !self.endpoint.is_kept() {
                let mut turns = 0..=BACKLOG as usize / ACCEPTS_PER_TURN;
                while turns.next().is_some() && self.accept()? {}
            }
            self.endpoint.close();
            self.engine.begin_to_stop();
            self.end = Some(Instant::now() + LAST_WORDS);
        }
        Ok(())
    }

    /// Accepts some; whether there may be more.
    fn accept(&mut self) -> Result<bool> {
        for _ in 0..ACCEPTS_PER_TURN {
            self.reserve.fill();
            let Some(listener) = self.endpoint.listener() else {
                return Ok(false);
            };
            match self.reserve.accept(listener) {
                Ok(Accepted::Connection(connection)) => self.admit(connection),
                Ok(Accepted::Excess(connection)) => {
                    let why = "the broker has no descriptors left; raise its limit (ulimit -n), or use fewer handles";
                    turn_away(connection, &Refused::new(Refusal::Limit, why));
                }
                Ok(Accepted::Nobody) => return Ok(false),
                Ok(Accepted::Stuck) => {
                    self.pause("no descriptors are left")?;
                    return Ok(false);
                }
                Err(error) => {
                    self.pause(&error.to_string())?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Stops watching the listener for a while: it stays ready, and there is nothing to do about it.
    fn pause(&mut self, why: &str) -> Result<()> {
        tracing::warn!(why, "cannot accept connections for now");
        if let Some(listener) = self.endpoint.listener() {
            self.epoll
                .delete(listener)
                .map_err(|e| Error::io("unwatching its socket", e))?;
            self.paused = true;
        }
        Ok(())
    }

    /// Tries again what the kernel refused, when it is time to.
    fn retry(&mut self) -> Result<()> {
        if self.retry_at.is_some_and(|at| Instant::now() >= at) {
            self.retry_at = None;
            if self.paused
                && let Some(listener) = self.endpoint.listener()
            {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener.pack());
                self.epoll
                    .add(listener, event)
                    .map_err(|e| Error::io("watching its socket again", e))?;
                self.paused = false;
            }
            self.engine.try_later();
            self.engine.world.release_held();
        }
        let waits = self.paused || self.engine.world.holds_any() || !self.engine.later.is_empty();
        if self.retry_at.is_none() && (waits || self.retained.is_behind()) {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        Ok(())
    }
}

/// Refuses a connection of whose client nothing is known, and closes it.
fn turn_away(connection: Connection, refused: &Refused) {
    let peer = connection.credentials().ok();
    let (uid, pid) = peer.map_or((u32::MAX, 0), |peer| (peer.uid, peer.pid));
    report::refused(uid, pid, refused.kind, &refused.why);
    say(&connection, refused);
    waste::close(Sender(None), connection);
}

/// Tells a client that it is refused, of which nothing was read. Its socket is empty, so there is room.
fn say(connection: &Connection, refused: &Refused) {
    if let Err(error) = connection.try_send(SESSION, &refused.event(), &[]) {
        tracing::debug!(%error, "a client that was turned away did not wait for the answer");
    }
}
