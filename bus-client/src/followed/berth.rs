//! Where somebody sleeps who follows many topics: one epoll, at which each topic's subscription is parked.
//!
//! Promises: a sleep ends when a message of any topic comes, its set of publishers moves, a topic appears or is gone, or the time is over. A topic that
//! stays quiet stays parked and costs nothing at the next sleep. One that nobody can ring for, because the broker is gone, is looked at
//! every millisecond.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::Doorbell;
use bus_core::wake::fence_parked;

use super::Entry;
use crate::Result;
use crate::inlet::Inlet;
use crate::selector::poller::{Fired, Poller};

/// Between two looks at topics that nobody can ring for.
const NAP: Duration = Duration::from_millis(1);
/// The number of the watch's doorbell; topics follow.
const WATCH: u32 = 0;

pub(super) struct Berth {
    poller: Poller,
    /// Topics numbered so far.
    numbered: Cell<u32>,
    /// Numbers, for one sleep; empty but for its room.
    numbers: RefCell<Vec<u32>>,
}

/// How a topic's subscription lies at the berth.
#[derive(Debug, Default)]
pub(super) struct Moored {
    /// Its number, once it lies there; [`WATCH`] where nobody can ring for it.
    number: Cell<Option<u32>>,
    parked: Cell<bool>,
}

impl Moored {
    /// It is awake: something was received from it.
    pub(super) fn cast_off(&self, inlet: &Inlet) {
        if self.parked.replace(false) {
            inlet.unpark();
        }
    }

    fn is_one_of(&self, numbers: &[u32]) -> bool {
        let number = self.number.get();
        number.is_some_and(|number| numbers.contains(&number))
    }
}

impl Berth {
    pub(super) fn new(watch: &Doorbell) -> Result<Self> {
        let poller = Poller::new()?;
        poller.watch_doorbell(WATCH, watch)?;
        Ok(Self {
            poller,
            numbered: Cell::new(WATCH),
            numbers: RefCell::default(),
        })
    }

    /// Sleeps until there may be something, or until then.
    pub(super) fn sleep<'a, I: Iterator<Item = &'a Entry>>(
        &self,
        entries: impl Fn() -> I,
        until: Option<Instant>,
    ) -> Result<()> {
        let mut numbers = self.numbers.borrow_mut();
        numbers.clear();
        let mut longest = until.map(|until| until.saturating_duration_since(Instant::now()));
        for entry in entries().filter(|entry| !entry.moored.parked.get()) {
            match self.park(entry) {
                Some(number) => numbers.push(number),
                None => longest = Some(longest.map_or(NAP, |longest| longest.min(NAP))),
            }
        }
        if !numbers.is_empty() {
            fence_parked();
            let mut parked = entries().filter(|entry| entry.moored.is_one_of(&numbers));
            // An error is found by who looks for messages.
            if parked.any(|entry| entry.inlet.ready().unwrap_or(true)) {
                return Ok(());
            }
            numbers.clear();
        }
        self.poller.wait(longest, |fired| {
            if let Fired::Ready(number) = fired {
                numbers.push(number);
            }
        })?;
        for entry in entries().filter(|entry| entry.moored.is_one_of(&numbers)) {
            entry.inlet.drain();
            entry.moored.cast_off(&entry.inlet);
        }
        Ok(())
    }

    /// Parks a topic; its number, unless nobody can ring for it.
    fn park(&self, entry: &Entry) -> Option<u32> {
        let number = match entry.moored.number.get() {
            Some(number) => number,
            None => self.moor(entry),
        };
        if number == WATCH {
            return None;
        }
        entry.inlet.park_at(entry.inlet.own().ok()?);
        entry.moored.parked.set(true);
        Some(number)
    }

    /// Gives a topic its number, where somebody can ring for it.
    fn moor(&self, entry: &Entry) -> u32 {
        let number = self.numbered.get() + 1;
        let own = entry.inlet.own();
        let watched = own.and_then(|own| self.poller.watch_doorbell(number, own));
        let number = match watched {
            Ok(()) => {
                self.numbered.set(number);
                number
            }
            Err(error) => {
                tracing::debug!(%error, "a topic is looked at again and again");
                WATCH
            }
        };
        entry.moored.number.set(Some(number));
        number
    }

    /// A topic is about to be let go of. Others have its doorbell as well, so closing it would not be enough.
    pub(super) fn forget(&self, entry: &Entry) {
        entry.moored.cast_off(&entry.inlet);
        let number = entry.moored.number.take();
        if number.is_some_and(|number| number != WATCH)
            && let Ok(own) = entry.inlet.own()
        {
            self.poller.forget(own.as_fd());
        }
    }
}
