//! Descriptors that clients sent and nobody wants: closed where nobody waits for it.
//!
//! To close a descriptor may take as long as whoever made it likes: a TCP socket lingers, a file of a FUSE file
//! system asks its process at each close, and a Unix socket closes what lies in its queue. So the broker closes only
//! what it knows, and leaves the rest to threads, which are started when there is something for them and end when
//! there is nothing for a while. When all threads are busy, descriptors wait.
//!
//! Promises: what waits is counted for the user that sent it, and so are the threads that it keeps busy. A user of
//! whom [`MOST_WAITING`] wait is not served until some are closed: no connection of it is accepted, and none is read.
//! What other users sent is closed meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus_core::backend::doorbell;
use bus_core::control::{Connection, Refusal, Unread};
use bus_core::thread::spawn_quiet;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{setsockopt, sockopt};

use crate::engine::Refused;

/// Descriptors of one user that wait for their close, from which on the user is not served. A packet that was begun
/// with brings up to 253 more than that, and each connection that ends one more.
pub(crate) const MOST_WAITING: usize = 512;
/// Most threads that close what one user sent.
const THREADS_OF_USER: usize = 2;
/// Most threads that close. Each may be one of the process that hosts the broker.
const THREADS: usize = 32;
/// How long a thread waits for something to close before it ends.
const IDLE: Duration = Duration::from_secs(1);

/// A socket is closed without waiting for what it has still to send.
const AT_ONCE: libc::linger = libc::linger {
    l_onoff: 0,
    l_linger: 0,
};

/// The user whose descriptors wait. All users that the policy does not name are one, which is served nothing anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sender(pub(crate) Option<u32>);

/// More packets than a connection's socket has room for.
const UNREAD: usize = 4096;

/// Something to be closed.
enum Waste {
    Descriptor(OwnedFd),
    /// With descriptors that nobody has read. As long as they are not received, it is one descriptor.
    Connection(Connection),
}

/// What can be closed, and may consist of more.
trait Thing: Send + Sized + 'static {
    /// Whether other things may come out of it.
    fn is_many(&self) -> bool {
        false
    }

    /// Closes it; what came out of it is still to be closed.
    fn close(self) -> Vec<Self>;
}

impl Thing for Waste {
    fn is_many(&self) -> bool {
        matches!(self, Self::Connection(_))
    }

    fn close(self) -> Vec<Self> {
        match self {
            Self::Descriptor(descriptor) => {
                // What can be told not to wait is told so; it fails for what is no socket. Whoever could change it back
                // has a descriptor, and then this one is not the last.
                let _ = setsockopt(&descriptor, sockopt::Linger, &AT_ONCE);
                Vec::new()
            }
            Self::Connection(connection) if connection.unread() == Unread::Nothing => Vec::new(),
            Self::Connection(connection) => {
                let unread = connection.take_unread().into_iter();
                let mut all: Vec<_> = unread.map(Self::Descriptor).collect();
                all.push(Self::Connection(connection));
                all
            }
        }
    }
}

static YARD: Yard<Waste> = Yard::new();

/// Whether closing this waits for nobody: it is a memfd, or a doorbell's button, in which nothing can lie.
fn is_harmless(descriptor: &impl AsFd) -> bool {
    fcntl(descriptor, FcntlArg::F_GET_SEALS).is_ok() || doorbell::check(descriptor).is_ok()
}

/// Closes a connection. What it still had to say is thrown away. Of a user of whom enough waits, no more is received.
pub(crate) fn close(sender: Sender, connection: Connection) {
    connection.shut_down();
    for _ in 0..UNREAD {
        match connection.unread() {
            Unread::Nothing => return,
            Unread::Descriptors if YARD.waiting(sender) >= MOST_WAITING => break,
            Unread::Bytes | Unread::Descriptors => throw(sender, connection.take_unread()),
        }
    }
    YARD.take(sender, Waste::Connection(connection));
}

/// Closes descriptors, without waiting for it.
pub(crate) fn throw(sender: Sender, descriptors: Vec<OwnedFd>) {
    for descriptor in descriptors {
        if !is_harmless(&descriptor) {
            YARD.take(sender, Waste::Descriptor(descriptor));
        }
    }
}

/// Closes those that nobody else has kept.
pub(crate) fn throw_unwanted(sender: Sender, descriptors: Vec<Rc<OwnedFd>>) {
    throw(
        sender,
        descriptors.into_iter().filter_map(Rc::into_inner).collect(),
    );
}

/// Refuses a user of whom too many descriptors wait for their close.
pub(crate) fn check(sender: Sender) -> Result<(), Refused> {
    let waiting = YARD.waiting(sender);
    let Some(uid) = sender.0.filter(|_| waiting >= MOST_WAITING) else {
        return Ok(());
    };
    let why = format!(
        "user {uid} has sent {waiting} descriptors that the broker cannot close yet, and the limit is {MOST_WAITING}: end whatever keeps them from being closed (a file system that does not answer, a socket that lingers), and try again"
    );
    Err(Refused::new(Refusal::Limit, why))
}

/// Where things wait to be closed.
struct Yard<T> {
    state: Mutex<State<T>>,
    /// Rung for each thing that comes.
    came: Condvar,
}

struct State<T> {
    senders: BTreeMap<Sender, Heap<T>>,
    /// Whose things were closed last.
    last: Sender,
    threads: usize,
    /// Threads that wait for something to close.
    idle: usize,
}

/// What waits of one sender.
struct Heap<T> {
    waiting: VecDeque<T>,
    /// Things out of which others may come: they are closed when nothing else waits.
    many: VecDeque<T>,
    /// Threads that close something of it.
    closing: usize,
}

impl<T> Default for Heap<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            many: VecDeque::new(),
            closing: 0,
        }
    }
}

impl<T: Thing> Heap<T> {
    fn add(&mut self, thing: T) {
        match thing.is_many() {
            true => self.many.push_back(thing),
            false => self.waiting.push_back(thing),
        }
    }

    /// Things for which it may have a thread.
    fn ready(&self) -> usize {
        let all = self.waiting.len() + self.many.len();
        all.min(THREADS_OF_USER - self.closing)
    }

    fn count(&self) -> usize {
        self.waiting.len() + self.many.len() + self.closing
    }
}

impl<T: Thing> State<T> {
    fn ready(&self) -> usize {
        self.senders.values().map(Heap::ready).sum()
    }

    /// The next thing to close: senders have their turns.
    fn next(&mut self) -> Option<(Sender, T)> {
        let ready = |(sender, heap): (&Sender, &Heap<T>)| (heap.ready() > 0).then_some(*sender);
        let behind = (Bound::Excluded(self.last), Bound::Unbounded);
        let mut in_turn = self
            .senders
            .range(behind)
            .chain(self.senders.range(..=self.last));
        let sender = in_turn.find_map(ready)?;
        let heap = self.senders.get_mut(&sender)?;
        let thing = heap.waiting.pop_front();
        let thing = thing.or_else(|| heap.many.pop_front())?;
        heap.closing += 1;
        self.last = sender;
        Some((sender, thing))
    }

    /// Something of this sender was closed, and this has come out of it.
    fn closed(&mut self, sender: Sender, more: Vec<T>) {
        if let Some(heap) = self.senders.get_mut(&sender) {
            heap.closing -= 1;
            more.into_iter().for_each(|thing| heap.add(thing));
            if heap.count() == 0 {
                self.senders.remove(&sender);
            }
        }
    }
}

impl<T: Thing> Yard<T> {
    const fn new() -> Self {
        let state = State {
            senders: BTreeMap::new(),
            last: Sender(None),
            threads: 0,
            idle: 0,
        };
        Self {
            state: Mutex::new(state),
            came: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Things of this sender that are not closed yet.
    fn waiting(&self, sender: Sender) -> usize {
        let state = self.lock();
        let heap = state.senders.get(&sender);
        heap.map_or(0, Heap::count)
    }

    fn take(&'static self, sender: Sender, thing: T) {
        let mut state = self.lock();
        state.senders.entry(sender).or_default().add(thing);
        if state.ready() > state.idle && state.threads < THREADS {
            state.threads += 1;
            drop(state);
            // Where there can be none, those that are there close it, or the next one.
            if spawn_quiet("bus-waste", || self.close_all()).is_err() {
                self.lock().threads -= 1;
            }
        }
        self.came.notify_one();
    }

    /// Closes what comes, until nothing has come for a while.
    fn close_all(&self) {
        let mut state = self.lock();
        loop {
            if let Some((sender, thing)) = state.next() {
                drop(state);
                let more = thing.close();
                state = self.lock();
                state.closed(sender, more);
                continue;
            }
            state.idle += 1;
            let waited = self.came.wait_timeout(state, IDLE);
            let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if waited.timed_out() && state.ready() == 0 {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender as Tell, channel};

    use super::*;

    const ALICE: Sender = Sender(Some(1));
    const BOB: Sender = Sender(Some(2));

    /// Something whose close tells that it began, and waits.
    struct Slow {
        begun: Tell<()>,
        wait: Receiver<()>,
    }

    impl Thing for Slow {
        fn close(self) -> Vec<Self> {
            let _ = self.begun.send(());
            // Until somebody drops the other end.
            let _ = self.wait.recv();
            Vec::new()
        }
    }

    fn yard() -> &'static Yard<Slow> {
        Box::leak(Box::new(Yard::new()))
    }

    #[test]
    fn who_keeps_its_threads_busy_is_counted_and_what_others_sent_is_closed() {
        let yard = yard();
        let (begun, begins) = channel();
        let throw = |sender| {
            let (release, wait) = channel::<()>();
            let begun = begun.clone();
            yard.take(sender, Slow { begun, wait });
            release
        };
        let kept: Vec<_> = (0..MOST_WAITING).map(|_| throw(ALICE)).collect();
        for _ in 0..THREADS_OF_USER {
            begins.recv().unwrap();
        }
        assert_eq!(yard.waiting(ALICE), MOST_WAITING);
        assert_eq!(yard.waiting(BOB), 0);
        for _ in 0..10 {
            drop(throw(BOB));
            begins.recv().unwrap();
        }
        assert!(begins.try_recv().is_err(), "it has more than its threads");
        assert_eq!(yard.waiting(ALICE), MOST_WAITING);
        assert_eq!(yard.lock().senders[&ALICE].closing, THREADS_OF_USER);
        // Once they are closed, nothing is left of it.
        drop(kept);
        for _ in THREADS_OF_USER..MOST_WAITING {
            begins.recv().unwrap();
        }
        while yard.waiting(ALICE) + yard.waiting(BOB) > 0 {
            std::thread::yield_now();
        }
        assert!(yard.lock().senders.is_empty());
    }

    #[test]
    fn there_are_so_many_threads_and_no_more() {
        let yard = yard();
        let (begun, begins) = channel();
        let mut kept = Vec::new();
        for uid in 0..THREADS as u32 {
            for _ in 0..3 {
                let (release, wait) = channel::<()>();
                let begun = begun.clone();
                yard.take(Sender(Some(uid)), Slow { begun, wait });
                kept.push(release);
            }
        }
        for _ in 0..THREADS {
            begins.recv().unwrap();
        }
        assert_eq!(yard.lock().threads, THREADS);
        drop(kept);
        for _ in THREADS..3 * THREADS {
            begins.recv().unwrap();
        }
    }

    /// What it has in its queue is closed with it.
    #[test]
    fn a_connection_is_closed_with_what_is_unread_in_it() {
        let (_client, broker) = Connection::pair().unwrap();
        let sender = Sender(Some(0xdead_beef));
        close(sender, broker);
        assert_eq!(YARD.waiting(sender), 0);
        let (client, broker) = Connection::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let retell = bus_core::control::Request::Retell {};
        client.send(0, &retell, &[file.as_fd()]).unwrap();
        close(sender, broker);
        while YARD.waiting(sender) > 0 {
            std::thread::yield_now();
        }
    }
}
