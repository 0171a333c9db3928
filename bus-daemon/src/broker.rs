//! The loop: one thread, one epoll.
//!
//! It waits in `epoll_wait` and nowhere else, without a time limit unless the kernel refused something
//! that it may grant a moment later. Each turn does a bounded amount for each who is ready.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::control::{Passed, Refusal};
use bus_core::fork::{Birth, Unshared};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::census::{Census, Record};
use crate::client::Token;
use crate::endpoint::{BACKLOG, Endpoint};
use crate::governed::Governed;
use crate::hub::{Hub, turn_away};
use crate::limits::{ACCEPTS_PER_TURN, raise_descriptor_limit};
use crate::policy::Source;
use crate::reserve::{Accepted, Reserve};
use crate::store::{Store, Stored, is_stored};
use crate::systemd::{self, State};
use crate::{Error, Result};

/// After how long to try again what the kernel refused.
const RETRY: Duration = Duration::from_millis(50);
/// How long a stopping broker goes on with clients that keep it busy.
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
    census: Census,
    /// Who was written down before.
    before: Vec<Record>,
    service: Service,
    /// Last, for its lock guards the census.
    endpoint: Endpoint,
}

impl Broker {
    /// Takes the path: removes what a killed broker left there, and listens.
    ///
    /// Raises this process's limit of descriptors as far as it may. It serves its own user and nobody else, until
    /// [`govern`](Self::govern) says otherwise.
    ///
    /// # Errors
    /// [`Error::InUse`] if another broker is there, [`Error::Foreign`] if something else is,
    /// [`Error::Listen`] if the path cannot be used.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self> {
        raise_descriptor_limit();
        let reserve = Reserve::new().map_err(|e| Error::io("taking a descriptor in reserve", e))?;
        Self::at(Endpoint::bind(path.as_ref())?, reserve, Service::default())
    }

    /// As [`bind`](Self::bind), for a process that a service manager may have started; `passed` is what that has passed to it
    /// ([`take_passed`](bus_core::control::take_passed)).
    ///
    /// A socket among it is where the broker listens, and stays when it ends; `path` says where to listen if there is none. The service manager is told when the broker is
    /// ready and when it stops, and keeps the rings of ended publishers that their topics retain, if it was asked to
    /// (`FileDescriptorStoreMax=`).
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
            (None, _) => Endpoint::bind(&path()?)?,
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
        let known = service.stored.iter().map(|stored| stored.about.id >> 32);
        let (census, before) = Census::open(endpoint.path(), known.max().unwrap_or(0))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = Unshared::new(|| EventFd::from_flags(flags))
            .map_err(|e| Error::io("making the descriptor that stops it", e))?;
        Ok(Self {
            stop: Arc::new(stop),
            signals: None,
            reserve,
            governed: Governed::by_default(),
            birth: Birth::here(),
            census,
            before,
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
        self.governed.start(source, &self.endpoint)
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
    hub: Hub,
    /// A service manager hears of it.
    is_told: bool,
    /// The listener is not watched, because connections cannot be accepted for now.
    paused: bool,
    /// When to try again what the kernel refused.
    retry_at: Option<Instant>,
    /// Until when to go on, once it was stopped.
    end: Option<Instant>,
    /// Last, for its lock guards the census.
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
            census,
            before,
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
        let policy = governed.take_policy();
        let mut hub = Hub::new(Rc::clone(&epoll), policy, census, before);
        if let Some(store) = service.store {
            hub.restore(store, service.stored);
        }
        Ok(Self {
            hub,
            is_told: service.is_told,
            stop,
            signals,
            governed,
            epoll,
            reserve,
            paused: false,
            retry_at: None,
            end: None,
            endpoint,
        })
    }

    fn run(mut self) -> Result<()> {
        tracing::info!("listening on {}", self.endpoint.path().display());
        self.tell(State::Ready);
        // What a service manager has kept and nobody wants goes now; no event may come for long.
        self.hub.update_store();
        self.retry()?;
        let mut events = [EpollEvent::empty(); EVENTS_PER_TURN];
        loop {
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(Error::io("waiting for events", e)),
            };
            self.hub.awaited.look();
            for event in &events[..ready] {
                self.handle(Token::unpack(event.data()), event.events())?;
                self.hub.bury();
            }
            self.hub.settle();
            self.hub.update_store();
            self.retry()?;
            if self
                .end
                .is_some_and(|end| ready == 0 || Instant::now() >= end)
            {
                tracing::info!("stopped");
                return Ok(());
            }
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if self.end.is_some() {
            return EpollTimeout::ZERO;
        }
        let due = self
            .retry_at
            .into_iter()
            .chain(self.hub.awaited.next_look());
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
            Token::Connection(id) => self.hub.ready(id, flags),
            Token::Process(id) => self.hub.process_ended(id),
        }
        Ok(())
    }

    /// Reads the policy again. One with a mistake changes nothing.
    fn reload(&mut self) {
        if let Some(policy) = self.governed.reload(&self.endpoint) {
            self.hub.set_policy(policy);
        }
    }

    fn tell(&self, state: State) {
        if self.is_told {
            systemd::tell(state);
        }
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
                Ok(Accepted::Connection(connection)) => self.hub.admit(connection),
                Ok(Accepted::Excess(connection)) => {
                    let why = "the broker has no descriptors left; raise its limit (ulimit -n), or use fewer handles";
                    turn_away(&connection, Refusal::Limit, why);
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
            self.hub.clients.flush_later();
            self.hub.bury();
        }
        if self.retry_at.is_none()
            && (self.paused || self.hub.clients.any_later() || self.hub.store.is_behind())
        {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        Ok(())
    }
}
