//! How long each subscriber has kept a publisher waiting.
//!
//! Promises: all time that a publisher slept for room is counted, for the subscriber that was furthest behind then, and the time that it
//! spun before. A wait that is over within the first turns of the spin, less than a microsecond, asks for no time and is not counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::Peer;

/// How long a subscriber has kept this publisher waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The subscriber.
    pub peer: Peer,
    /// All the time that this publisher waited for it.
    pub time: Duration,
    /// Whether this publisher has evicted it: see [`Delivery::Evict`](crate::Delivery::Evict).
    pub evicted: bool,
}

/// A publisher's count.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    times: HashMap<u64, Duration>,
    /// Since when it waits now, and for whom.
    waits: Option<(Instant, Option<u64>)>,
}

impl Stalls {
    /// It is about to sleep for this subscriber, having spun since `began`.
    pub(crate) fn begin(&mut self, began: Option<Instant>, id: Option<u64>) {
        let now = Instant::now();
        let since = match self.waits {
            Some(_) => self.charge(now),
            None => began.unwrap_or(now),
        };
        self.waits = Some((since, id));
    }

    /// It waits no more.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        if self.waits.is_some() {
            self.charge(Instant::now());
            self.waits = None;
        }
    }

    #[cold]
    fn charge(&mut self, now: Instant) -> Instant {
        if let Some((since, Some(id))) = self.waits
            && let Some(time) = self.times.get_mut(&id)
        {
            *time += now.duration_since(since);
        }
        now
    }

    /// Counts for this subscriber from now on: a wait allocates nothing.
    pub(crate) fn add(&mut self, id: u64) {
        self.times.insert(id, Duration::ZERO);
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.times.remove(&id);
    }

    pub(crate) fn of(&self, id: u64) -> Duration {
        self.times.get(&id).copied().unwrap_or_default()
    }
}
