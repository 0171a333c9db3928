//! Descriptors that clients sent and nobody wants: closed where nobody waits for it.
//!
//! To close a descriptor may take as long as whoever made it likes: a TCP socket lingers, a file of a FUSE file system asks its process, and a Unix
//! socket closes what lies in its queue. So the broker closes only what it knows, and leaves the rest to threads, which are started when
//! there is something for them. Those that somebody keeps busy are lost to everybody who comes after them; more than [`MOST`] there
//! are not, and then descriptors pile up, up to the quota of who sent them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use bus_core::backend::doorbell;
use bus_core::control::Connection;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{setsockopt, sockopt};

/// Threads that close.
const MOST: usize = 16;

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
    static YARD: OnceLock<Yard> = OnceLock::new();
    for descriptor in descriptors {
        if !is_harmless(&descriptor) {
            YARD.get_or_init(Yard::new).take(descriptor);
        }
    }
}

/// Where descriptors wait to be closed.
struct Yard {
    sender: Sender<OwnedFd>,
    receiver: Arc<Mutex<Receiver<OwnedFd>>>,
    /// How many there are that nobody has closed yet, and threads.
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    open: usize,
    threads: usize,
}

impl Yard {
    fn new() -> Self {
        let (sender, receiver) = channel();
        Self {
            sender,
            receiver: Arc::new(Mutex::new(receiver)),
            state: Arc::default(),
        }
    }

    fn take(&self, descriptor: OwnedFd) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open += 1;
        if state.open > state.threads && state.threads < MOST {
            state.threads += usize::from(self.start());
        }
        drop(state);
        // The receiver lives as long as this.
        let _ = self.sender.send(descriptor);
    }

    /// Starts a thread; false where there can be none.
    fn start(&self) -> bool {
        let (receiver, state) = (Arc::clone(&self.receiver), Arc::clone(&self.state));
        let closes = move || {
            loop {
                let next = receiver
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .recv();
                let Ok(descriptor) = next else { return };
                // What can be told not to wait is told so; it fails for what is no socket. Whoever could change it back has a descriptor,
                // and then this one is not the last.
                let _ = setsockopt(&descriptor, sockopt::Linger, &AT_ONCE);
                drop(descriptor);
                state.lock().unwrap_or_else(PoisonError::into_inner).open -= 1;
            }
        };
        let thread = thread::Builder::new().name("bus-waste".into());
        thread.spawn(closes).is_ok()
    }
}
