//! Newcomers who wait for members of an earlier broker.
//!
//! Who opens a topic whose members are away, or returning, or begins to watch for such topics, is answered when all of them are back or gone, at the latest after
//! [`GRACE`](crate::awaited::GRACE), and twice that where members keep coming back and going away: else a publisher could not know the subscriber that joins, and write over what that one has yet to read.
//!
//! Promises: nobody else waits; a client that waits is not listened to, so that it costs one request; one that hangs up is let go.

use std::os::fd::OwnedFd;
use std::time::Instant;

use bus_core::Pattern;
use bus_core::control::Request;

use crate::awaited::GRACE;
use crate::hub::Hub;
use crate::waste;

/// A request that is to be served later.
pub(crate) struct Parked {
    request: Request,
    pub(crate) descriptors: Vec<OwnedFd>,
    awaits: Awaits,
    /// One of those for whom it waits.
    blocker: u64,
    /// Until when it waits for that one.
    until: Instant,
    /// Until when it waits for anybody: who resumes again and again holds nobody up for ever.
    last: Instant,
}

/// What the members have open for whom a newcomer waits.
enum Awaits {
    Topic(String),
    /// Any topic that a watch would be told of: one that is told of later would be taken for new.
    Matching(Pattern),
}

impl Hub {
    /// Puts a request aside if it is to wait; else gives it back.
    pub(crate) fn park(
        &mut self,
        id: u64,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Option<(Request, Vec<OwnedFd>)> {
        if self.awaited.is_empty() {
            return Some((request, descriptors));
        }
        let opened = self
            .clients
            .get(id)
            .and_then(|client| client.topic.as_ref());
        let awaits = match (&request, opened) {
            (Request::Open { topic, .. }, None) => Awaits::Topic(topic.clone()),
            (Request::Join, Some(topic)) => Awaits::Topic(topic.to_string()),
            (
                Request::Watch {
                    pattern,
                    resumes: None,
                    ..
                },
                None,
            ) => match Pattern::new(pattern.as_str()) {
                Ok(pattern) => Awaits::Matching(pattern),
                // It is refused for that, at once.
                Err(_) => return Some((request, descriptors)),
            },
            _ => return Some((request, descriptors)),
        };
        let now = self.awaited.now();
        let Some((blocker, until)) = self.held_up(&awaits, now) else {
            return Some((request, descriptors));
        };
        tracing::debug!(id, blocker, "waits for members of an earlier broker");
        let parked = Parked {
            request,
            descriptors,
            awaits,
            blocker,
            until,
            last: now + 2 * GRACE,
        };
        self.parked.insert(id, parked);
        self.clients.park(id, true);
        None
    }

    fn held_up(&self, awaits: &Awaits, now: Instant) -> Option<(u64, Instant)> {
        let blocker = match awaits {
            Awaits::Topic(topic) => self.awaited.hold_up(topic, now),
            Awaits::Matching(pattern) => self.awaited.hold_up_watch(pattern, now),
        }?;
        Some((blocker, self.awaited.holds_up_until(blocker, now)?))
    }

    /// Until when the first of those who wait does, by the time that counts.
    fn next_due(&self) -> Option<Instant> {
        self.parked.values().map(|parked| parked.until).min()
    }

    /// Serves those who need not wait any longer, and strikes out members of whom everybody knows that they left.
    pub(crate) fn settle(&mut self) {
        let changed = self.awaited.has_changed();
        if changed {
            for id in self.awaited.forget() {
                self.census.strike(id);
            }
        }
        if self.parked.is_empty() {
            return;
        }
        let now = self.awaited.now();
        let due = self.next_due().is_some_and(|due| now >= due);
        if due {
            for id in self.awaited.unwatched_and_dead() {
                self.lose(id, true);
            }
        }
        if changed || due {
            self.unpark(now);
        }
    }

    fn unpark(&mut self, now: Instant) {
        let waiting: Vec<_> = self.parked.keys().copied().collect();
        for id in waiting {
            let Some(parked) = self.parked.get(&id) else {
                continue;
            };
            let next = if now >= parked.last {
                None
            } else {
                self.held_up(&parked.awaits, now)
            };
            if let (Some((blocker, until)), Some(parked)) = (next, self.parked.get_mut(&id)) {
                (parked.blocker, parked.until) = (blocker, until.min(parked.last));
                continue;
            }
            if let Some(parked) = self.parked.remove(&id) {
                self.clients.park(id, false);
                let second = waste::second(&parked.descriptors);
                self.serve_now(id, parked.request, parked.descriptors);
                waste::throw(second);
                self.bury();
            }
        }
    }
}
