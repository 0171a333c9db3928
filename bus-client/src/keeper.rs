//! The keeper: a thread that sleeps until a broker goes, and then takes this process's handles to the next one.
//!
//! Promises: it is there while a handle of its [`Bus`](crate::Bus) is open, and no longer; it keeps no process alive and takes no signals; it
//! sleeps in one place, and a handle that is dropped ends whatever it waits for. While there is no broker it looks for one, or hosts one
//! where that is allowed, at first every millisecond and later every 100 ms, for ever; and it rings those that are parked every 100 ms, for
//! nobody else rings for a peer that died.
//!
//! It reads no connection that lives: those are their handles'.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bus_core::control::{Connection, Event, Request};
use bus_core::fork::{Birth, Unshared};
use bus_core::thread::spawn_quiet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::host::Seeker;
use crate::line::{Installed, Line};
use crate::wait::PATROL;

/// First and last time between two looks for a broker.
const SOON: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(100);
/// How long a broker may take to take a handle back before it is asked anew. It answers at once, unless it is stopped.
const ANSWER: Duration = Duration::from_secs(5);
/// How often to try, every millisecond, to say at the end who has ended: a broker that comes or goes is there or gone by then.
const FAREWELLS: u32 = 50;
/// Handles that have ended, and that a broker may not have heard of: as many, and for as long.
const ENDED: usize = 256;
const ENDED_FOR: Duration = Duration::from_secs(60);
/// Events that are taken from the kernel at a time.
const EVENTS: usize = 64;
/// The number of the keeper's own descriptor; lines follow.
const BELL: u64 = 0;

/// The keeper of a host.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    /// The process whose handles it keeps.
    birth: Birth,
}

struct Shared {
    seeker: Arc<Seeker>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    lines: HashMap<u64, Arc<Line>>,
    last: u64,
    /// With when they ended, and whether there was no broker then.
    ended: VecDeque<(u64, Instant, bool)>,
    running: Option<Running>,
}

/// The thread, and how to reach it.
struct Running {
    thread: JoinHandle<()>,
    bell: Arc<Unshared<EventFd>>,
    epoll: Arc<Unshared<Epoll>>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    pub(crate) fn new(seeker: Arc<Seeker>) -> Self {
        Self {
            shared: Arc::new(Shared {
                seeker,
                table: Mutex::default(),
            }),
            birth: Birth::here(),
        }
    }

    /// Keeps this line from now on; its number.
    pub(crate) fn keep(&self, line: &Arc<Line>) -> bus_core::Result<u64> {
        let mut table = self.shared.table();
        let key = table.last + 1;
        let watched = match &table.running {
            Some(running) => watch(&running.epoll, key, line),
            None => {
                let running = table.running.insert(self.start()?);
                watch(&running.epoll, key, line)
            }
        };
        if let Err(error) = watched {
            let needless = table.take_needless();
            drop(table);
            needless.into_iter().for_each(Running::end);
            return Err(io("watching a connection", error));
        }
        table.last = key;
        table.lines.insert(key, Arc::clone(line));
        Ok(key)
    }

    fn start(&self) -> bus_core::Result<Running> {
        let epoll = Unshared::of(
            || Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC),
            |epoll| epoll.0.as_raw_fd(),
        );
        let epoll = Arc::new(epoll.map_err(|e| io("making an epoll", e))?);
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Unshared::new(|| EventFd::from_flags(flags));
        let bell = Arc::new(bell.map_err(|e| io("making an eventfd", e))?);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, BELL);
        epoll
            .add(&**bell, event)
            .map_err(|e| io("watching an eventfd", e))?;
        let round = Round {
            shared: Arc::clone(&self.shared),
            epoll: Arc::clone(&epoll),
            bell: Arc::clone(&bell),
            down: Vec::new(),
            unwatched: Vec::new(),
            misunderstood: false,
        };
        let thread = spawn_quiet("bus-keeper", move || round.run())
            .map_err(|e| bus_core::Error::io("starting a thread", e))?;
        Ok(Running {
            thread,
            bell,
            epoll,
        })
    }

    /// Keeps this line no longer: its handle is dropped. With the last, the thread ends.
    pub(crate) fn let_go(&self, key: u64, line: &Line) {
        let epoll = {
            let mut table = self.shared.table();
            table.lines.remove(&key);
            let running = table.running.as_ref();
            running.map(|running| Arc::clone(&running.epoll))
        };
        // Before it closes: else the thread takes its leaving for the end of a broker, and looks for another one. Where there is no
        // broker it is not watched.
        if let Some(epoll) = epoll {
            let _ = epoll.delete(&*line.connection().1);
        }
        let heard = line.close();
        let mut table = self.shared.table();
        if let Some(id) = line.id() {
            table.remember(id, !heard);
        }
        let needless = table.take_needless();
        if let Some(running) = &table.running {
            if !heard {
                ring(&running.bell);
            }
            return;
        }
        drop(table);
        needless.into_iter().for_each(Running::end);
        self.shared.say_farewell();
    }

    /// A handle that others may have heard of was never kept, for its broker went.
    pub(crate) fn forget(&self, id: u64) {
        let mut table = self.shared.table();
        table.remember(id, true);
        match &table.running {
            Some(running) => ring(&running.bell),
            None => {
                drop(table);
                self.shared.say_farewell();
            }
        }
    }

    /// Says who has ended while there was no broker, before this process opens something there: nobody is to wait for them.
    pub(crate) fn say_ended(&self) {
        if self.shared.table().ended.iter().any(|ended| ended.2)
            && let Ok(Some(connection)) = self.shared.seeker.attempt()
        {
            self.shared.say_ended(&connection);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A fork has no such thread, and one that it has not may have the table.
        if !self.birth.is_here() {
            return;
        }
        let running = self.shared.table().running.take();
        if let Some(running) = running {
            running.end();
        }
    }
}

impl Running {
    fn end(self) {
        // It can only fail if the count is at its limit, and then it is being told already.
        ring(&self.bell);
        if self.thread.join().is_err() {
            tracing::error!("the keeper of the handles did not end well");
        }
    }
}

impl Table {
    /// The thread, if it keeps nothing any more.
    fn take_needless(&mut self) -> Option<Running> {
        let needless = self.lines.is_empty();
        self.running.take_if(|_| needless)
    }

    fn remember(&mut self, id: u64, unheard: bool) {
        if self.ended.len() >= ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((id, Instant::now(), unheard));
    }
}

impl Shared {
    /// The last handle is gone. Of those that no broker has heard of, one that is there is told; else it is written down, for this process
    /// may be the last one, and nobody come after it.
    fn say_farewell(&self) {
        let unsaid = |table: &Table| {
            let unsaid = table.ended.iter().filter(|ended| ended.2);
            unsaid.map(|ended| ended.0).collect::<Vec<_>>()
        };
        for _ in 0..FAREWELLS {
            let ended = unsaid(&self.table());
            if ended.is_empty() || self.seeker.farewell(&ended) {
                return;
            }
            // Somebody has the path, and listens there, or will, or has just done so.
            if let Ok(connection) = self.seeker.connect_once() {
                return self.say_ended(&connection);
            }
            std::thread::sleep(SOON);
        }
    }

    fn say_ended(&self, connection: &Connection) {
        let mut ended = std::mem::take(&mut self.table().ended);
        ended.retain(|(_, at, _)| at.elapsed() < ENDED_FOR);
        for entry in &mut ended {
            if connection
                .send(&Request::Ended { id: entry.0 }, &[])
                .is_err()
            {
                break;
            }
            entry.2 = false;
        }
        // Also who was heard by this broker is kept in mind: it may go before it has noticed.
        let mut table = self.table();
        ended.append(&mut table.ended);
        table.ended = ended;
    }
}

fn io(what: &'static str, error: Errno) -> bus_core::Error {
    bus_core::Error::io(what, error)
}

/// Watches for the end of a line's connection.
fn watch(epoll: &Epoll, key: u64, line: &Line) -> nix::Result<()> {
    watch_connection(epoll, key, &line.connection().1)
}

fn watch_connection(epoll: &Epoll, key: u64, connection: &Connection) -> nix::Result<()> {
    epoll.add(connection, EpollEvent::new(EpollFlags::EPOLLRDHUP, key))
}

/// The thread's own.
struct Round {
    shared: Arc<Shared>,
    epoll: Arc<Unshared<Epoll>>,
    bell: Arc<Unshared<EventFd>>,
    /// The lines that have no broker.
    down: Vec<(u64, Arc<Line>)>,
    /// Lines that have one, and whose connection the kernel had no memory to watch.
    unwatched: Vec<(u64, Arc<Line>)>,
    /// The broker that is there speaks another version of the protocol, and that has been told.
    misunderstood: bool,
}

impl Round {
    fn run(mut self) {
        let mut pause = SOON;
        let mut rung = Instant::now();
        while self.is_wanted() {
            self.wait(pause);
            if self.is_idle() {
                pause = SOON;
                continue;
            }
            if self.seek() {
                pause = SOON;
            } else {
                pause = (pause * 2).min(LATER);
            }
            if rung.elapsed() >= PATROL {
                rung = Instant::now();
                self.ring_those_without();
            }
        }
    }

    fn is_wanted(&self) -> bool {
        let table = self.shared.table();
        let running = table.running.as_ref();
        // It may be here before it is written down; then somebody holds the table, and opens a handle.
        running.is_some_and(|running| Arc::ptr_eq(&running.bell, &self.bell))
    }

    /// Whether there is nothing to do until a connection hangs up or somebody calls.
    fn is_idle(&self) -> bool {
        self.down.is_empty() && self.unwatched.is_empty() && !self.has_unsaid()
    }

    /// Whether somebody is waited for who has ended.
    fn has_unsaid(&self) -> bool {
        self.shared.table().ended.iter().any(|ended| ended.2)
    }

    /// Sleeps until a connection hangs up or somebody calls; where there is something to do anyway, no longer than this.
    fn wait(&mut self, pause: Duration) {
        let timeout = if self.is_idle() {
            EpollTimeout::NONE
        } else {
            EpollTimeout::try_from(pause.as_millis() as u64).unwrap_or(EpollTimeout::ZERO)
        };
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => {
                tracing::error!(%error, "the keeper cannot wait");
                std::thread::sleep(LATER);
                0
            }
        };
        for event in &events[..count] {
            match event.data() {
                BELL => drop(self.bell.read()),
                key => self.lose(key),
            }
        }
    }

    /// A connection has hung up.
    fn lose(&mut self, key: u64) {
        let line = self.shared.table().lines.get(&key).cloned();
        let Some(line) = line else {
            return;
        };
        let (_, connection) = line.connection();
        let _ = self.epoll.delete(&*connection);
        tracing::debug!("a broker is gone; established traffic goes on");
        line.lose();
        self.down.push((key, line));
    }

    /// Looks for a broker, and takes all there that have none; whether it has found one.
    fn seek(&mut self) -> bool {
        if !self.shared.table().ended.is_empty() {
            let Some(connection) = self.attempt() else {
                return false;
            };
            self.shared.say_ended(&connection);
        }
        let mut found = true;
        let mut later = Vec::new();
        for (key, line) in std::mem::take(&mut self.down) {
            // Its handle may be gone, or this thread no longer wanted.
            let connection = if self.is_wanted() {
                self.attempt()
            } else {
                None
            };
            let Some(connection) = connection else {
                found = false;
                later.push((key, line));
                continue;
            };
            match self.resume(&line, connection) {
                Installed::Never => {}
                // One that is not taken yet keeps no other from being asked for.
                Installed::Later => {
                    found = false;
                    later.push((key, line));
                }
                Installed::Yes => self.unwatched.push((key, line)),
            }
        }
        let table = self.shared.table();
        later.retain(|(key, _)| table.lines.contains_key(key));
        drop(table);
        self.down = later;
        self.watch_unwatched() && found
    }

    /// Watches the connections that are not watched yet; whether it does. A broker that went meanwhile is noticed then.
    fn watch_unwatched(&mut self) -> bool {
        let unwatched = std::mem::take(&mut self.unwatched);
        for (key, line) in unwatched {
            let (_, connection) = line.connection();
            // Under the lock: one that is let go of is watched no more.
            let table = self.shared.table();
            if !table.lines.contains_key(&key) {
                continue;
            }
            if let Err(error) = watch_connection(&self.epoll, key, &connection) {
                tracing::warn!(%error, "cannot watch a broker yet");
                self.unwatched.push((key, Arc::clone(&line)));
            }
        }
        self.unwatched.is_empty()
    }

    /// Rings those that are parked while they have no broker: they look around then.
    fn ring_those_without(&self) {
        let table = self.shared.table();
        let without = table.lines.values().filter(|line| line.is_down());
        without.for_each(|line| line.ring());
    }

    fn attempt(&self) -> Option<Connection> {
        match self.shared.seeker.attempt() {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%error, "no broker yet");
                None
            }
        }
    }

    fn resume(&mut self, line: &Line, connection: Connection) -> Installed {
        let Some(prepared) = line.prepare(self.shared.seeker.client().as_str()) else {
            line.conclude();
            return Installed::Never;
        };
        if prepared.send(&connection).is_err() {
            return Installed::Later;
        }
        let answer = if prepared.is_answered() {
            match self.answer(&connection) {
                Some(answer) => Some(answer),
                None => return Installed::Later,
            }
        } else {
            None
        };
        line.install(connection, &prepared, answer)
    }

    /// The one event that answers; none where it does not come, or nobody wants it any more.
    fn answer(&mut self, connection: &Connection) -> Option<(Event, Vec<std::os::fd::OwnedFd>)> {
        let deadline = Instant::now() + ANSWER;
        loop {
            match connection.try_recv::<Event>() {
                Ok(Some(answer)) => return Some(answer),
                Ok(None) => {}
                Err(error @ bus_core::Error::Version { .. }) => {
                    if !std::mem::replace(&mut self.misunderstood, true) {
                        tracing::warn!(%error, "the broker that is there now takes no handle back; those who have met go on");
                    }
                    return None;
                }
                Err(error) => {
                    tracing::debug!(%error, "the next broker is gone as well");
                    return None;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.is_wanted() {
                return None;
            }
            let left = left.min(PATROL);
            let millis = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            let mut fds = [
                PollFd::new(connection.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            ];
            if poll(&mut fds, millis) == Ok(0) {
                // A broker that is stopped keeps nobody from looking around.
                self.ring_those_without();
            }
            if fds[1].any() == Some(true) {
                // Whoever calls for something else is heard behind this.
                let _ = self.bell.read();
            }
        }
    }
}

/// Wakes the keeper, also where a signal comes in between.
fn ring(bell: &EventFd) {
    while bell.write(1) == Err(Errno::EINTR) {}
}
