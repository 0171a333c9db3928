//! Descriptors that clients sent and nobody wants: closed where nobody waits for it.
//!
//! To close a descriptor may take as long as whoever made it likes: a TCP socket lingers, a file of a FUSE file system asks its process, and a Unix
//! socket closes what lies in its queue. So the broker closes only what it knows, and leaves the rest to threads, which are started when
//! there is something for them and end when there is nothing for a while. A thread that somebody keeps busy is lost to all others.
//! There are at most [`MOST`] threads; when all are busy, descriptors wait.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus_core::backend::doorbell;
use bus_core::control::Connection;
use bus_core::thread::spawn_quiet;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{setsockopt, sockopt};

/// Most threads that close. Each may be one of the process that hosts the broker.
const MOST: usize = 4;
/// How long a thread waits for something to close before it ends.
const IDLE: Duration = Duration::from_secs(1);

/// A socket is closed without waiting for what it has still to send.
const AT_ONCE: libc::linger = libc::linger {
    l_onoff: 0,
    l_linger: 0,
};

/// Whether closing this waits for nobody: it is a memfd, or a doorbell's button, in which nothing can lie.
fn is_harmless(descriptor: &impl AsFd) -> bool {
    fcntl(descriptor, FcntlArg::F_GET_SEALS).is_ok() || doorbell::check(descriptor).is_ok()
}

/// A second descriptor for each that is not known to be harmless, to be [thrown away](throw) when the first is closed.
pub(crate) fn second(descriptors: &[OwnedFd]) -> Vec<OwnedFd> {
    let foul = descriptors.iter().filter(|one| !is_harmless(one));
    // Where there are no descriptors left, the first is all there is.
    foul.filter_map(|one| one.try_clone().ok()).collect()
}

/// Closes a connection. What it still had to say is thrown away.
pub(crate) fn close(connection: &Connection) {
    throw(connection.wind_up());
}

/// Closes descriptors, without waiting for it.
pub(crate) fn throw(descriptors: Vec<OwnedFd>) {
    static YARD: Yard = Yard::new();
    for descriptor in descriptors {
        if !is_harmless(&descriptor) {
            YARD.take(descriptor);
        }
    }
}

/// Where descriptors wait to be closed.
struct Yard {
    state: Mutex<State>,
    /// Rung for each descriptor that comes.
    came: Condvar,
}

struct State {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
    /// Threads that wait for something to close.
    idle: usize,
}

impl Yard {
    const fn new() -> Self {
        let state = State {
            waiting: VecDeque::new(),
            threads: 0,
            idle: 0,
        };
        Self {
            state: Mutex::new(state),
            came: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&'static self, descriptor: OwnedFd) {
        let mut state = self.lock();
        state.waiting.push_back(descriptor);
        if state.waiting.len() > state.idle && state.threads < MOST {
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
            if let Some(descriptor) = state.waiting.pop_front() {
                drop(state);
                // What can be told not to wait is told so; it fails for what is no socket. Whoever could change it back has a
                // descriptor, and then this one is not the last.
                let _ = setsockopt(&descriptor, sockopt::Linger, &AT_ONCE);
                drop(descriptor);
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let waited = self.came.wait_timeout(state, IDLE);
            let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if waited.timed_out() && state.waiting.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
