//! The session's thread: it reads what the broker says at all times, and goes to the next broker when one is gone.
//!
//! Promises: with nothing to do it sleeps without a time limit; it waits in one place only, where a byte of the session
//! ends the wait. While there is no broker it looks for one, at first every millisecond and later every 100 ms, for ever,
//! and makes handles without a broker look around every 100 ms. It is no part of the life of a message, and no handle
//! waits for it to be scheduled.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::control::Connection;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::EpollTimeout;

use super::interest::Ear;
use super::{Greeted, Shared, greet};

/// First and last time between two looks for a broker.
const SOON: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(100);
/// Messages that are taken before others get the lock.
const AT_ONCE: usize = 32;

/// The thread's own.
pub(super) struct Thread {
    shared: Arc<Shared>,
    pause: Duration,
    /// The broker that is there speaks another version, and that has been said.
    misunderstood: bool,
}

/// What to do next.
enum Plan {
    /// The session is over.
    End,
    /// Wait for the broker of now, until then at the latest.
    Listen {
        ear: Arc<Ear>,
        until: Option<Instant>,
    },
    /// Look for a broker; until then others are looked after.
    Seek { until: Option<Instant>, hurry: bool },
}

impl Thread {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            pause: SOON,
            misunderstood: false,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.plan() {
                Plan::End => return self.send_the_rest(),
                Plan::Listen { ear, until } => {
                    self.pause = SOON;
                    ear.wait(EpollTimeout::try_from(millis(until)).unwrap_or(EpollTimeout::NONE));
                    self.shared.pokes.drain();
                    self.shared.lock().receive(AT_ONCE);
                }
                Plan::Seek { until, hurry } => self.seek(until, hurry),
            }
        }
    }

    /// The broker is to hear that the handles were closed, unless it takes nothing.
    fn send_the_rest(&self) {
        let deadline = Instant::now() + LATER;
        loop {
            let mut state = self.shared.lock();
            state.flush();
            let Some(link) = state.link.clone().filter(|_| state.unsent() > 0) else {
                return;
            };
            drop(state);
            if Instant::now() >= deadline {
                return;
            }
            self.wait(Some((&link, true)), Some(deadline));
        }
    }

    fn plan(&self) -> Plan {
        let mut state = self.shared.lock();
        if state.closing {
            return Plan::End;
        }
        let mut until = state.attend(Instant::now());
        if !state.update_interest() {
            let again = Instant::now() + LATER;
            until = Some(until.map_or(again, |until| until.min(again)));
        }
        match &state.link {
            Some(_) => Plan::Listen {
                ear: state.interest.ear(),
                until,
            },
            None => Plan::Seek {
                until,
                hurry: state.waiting > 0,
            },
        }
    }

    /// Waits until the connection has something to read, or room where that is wanted, until somebody rings, or until then.
    fn wait(&self, link: Option<(&Connection, bool)>, until: Option<Instant>) {
        let timeout = PollTimeout::try_from(millis(until)).unwrap_or(PollTimeout::NONE);
        let bell = PollFd::new(self.shared.pokes.bell.as_fd(), PollFlags::POLLIN);
        // A signal, or an error of the kernel, means the same: look again.
        let _ = match link {
            Some((link, full)) => {
                let mut flags = PollFlags::POLLIN;
                flags.set(PollFlags::POLLOUT, full);
                poll(&mut [PollFd::new(link.as_fd(), flags), bell], timeout)
            }
            None => poll(&mut [bell], timeout),
        };
        self.shared.pokes.drain();
    }

    /// Looks for a broker once, and goes there, or waits until the next look.
    fn seek(&mut self, until: Option<Instant>, hurry: bool) {
        let found = match self.shared.connector.attempt() {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "no broker yet");
                None
            }
        };
        if let Some(connection) = found
            && self.enter(connection)
        {
            return;
        }
        let pause = if hurry { SOON } else { self.pause };
        self.pause = (pause * 2).min(LATER);
        let next = Instant::now() + pause;
        let until = until.map_or(next, |until| until.min(next));
        // Others are looked after meanwhile, but the broker is looked for no sooner.
        while Instant::now() < next {
            self.wait(None, Some(until.min(next)));
            let mut state = self.shared.lock();
            if state.closing || (state.waiting > 0 && !hurry) {
                return;
            }
            state.attend(Instant::now());
        }
    }

    /// Enters the session at a broker; whether that lets it in.
    fn enter(&mut self, connection: Connection) -> bool {
        let (reclaims, generation) = {
            let state = self.shared.lock();
            (state.to_reclaim(), state.generation)
        };
        let greeted = greet(
            &self.shared,
            &connection,
            reclaims,
            generation,
            |connection| {
                let patrol = Instant::now() + LATER;
                self.wait(Some((connection, false)), Some(patrol));
                let mut state = self.shared.lock();
                // A broker that is stopped keeps nobody from looking around.
                state.attend(Instant::now());
                !state.closing
            },
        );
        match greeted {
            Greeted::Welcome(welcome) => {
                let mut state = self.shared.lock();
                self.misunderstood = false;
                state.begin_reclaim(connection, welcome, reclaims)
            }
            Greeted::Refused(_, why) | Greeted::Failed(why) => {
                if !std::mem::replace(&mut self.misunderstood, true) {
                    tracing::warn!(
                        why,
                        "the broker that is there now does not let this process in; those who have met go on"
                    );
                }
                self.shared.lock().refused = Some(why);
                false
            }
            Greeted::Closed | Greeted::Silent => false,
        }
    }
}

/// Milliseconds until then, or -1 for ever. Rounded up, so that the last bit of the time is slept and not spun away.
fn millis(until: Option<Instant>) -> i32 {
    let Some(until) = until else {
        return -1;
    };
    let left = until.saturating_duration_since(Instant::now());
    i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
}
