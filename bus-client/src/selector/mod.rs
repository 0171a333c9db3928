//! One sleep over many things: subscriptions of any types, timers, and file descriptors.
//!
//! Promises: what is ready is reported, in turn, so that nothing that is always ready keeps others from being reported; while nothing is
//! ready the thread sleeps. A wake-up costs what has fired, whatever else is watched: a subscription that is quiet stays parked
//! and is not touched. All that were received from since the last sleep share one heavy fence.
//!
//! It asks its owner to receive until nothing is left, or to wait again: what is left is reported again. It receives nothing itself.
//!
//! ```text
//!                 nothing there            at the sleep
//!   hot ------------------------> quiet ----------------> parked
//!    ^  \___ something: reported,  |                         |
//!    |       last in turn again    | something, in a spin    | its doorbell is rung
//!    +-----------------------------+-------------------------+
//! ```

mod places;
pub(crate) mod poller;
mod source;
mod timers;
mod turns;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bus_core::wake::SpinBudget;

use crate::wait::deadline;
use crate::{Error, Result};
use places::{Entry, What};
use poller::Poller;
pub use source::Source;
use timers::Timers;

/// How long to look again before a sleep, unless told otherwise.
const DEFAULT_SPIN: Duration = Duration::from_micros(20);
/// With more than these to look at, looking again takes longer than it is worth.
const SPIN_SOURCES: usize = 8;
/// Who is always ready lets the kernel be asked for others this often.
const ASK: Duration = Duration::from_micros(10);

/// What a [`Selector`] watches: given when it is added, and reported when it is ready. Never used again by its selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

/// What a file descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// That it can be read, or has ended.
    Readable,
    /// That it can be written, or has ended.
    Writable,
    /// Either.
    Both,
}

/// Waits for whatever comes first, of many things.
///
/// It borrows what it watches, shared, so that subscribers are used as before. Who wants to drop subscribers while the
/// selector lives keeps them in an [`Rc`](std::rc::Rc) and adds a [`Weak`](std::rc::Weak): one that was dropped is
/// watched no more.
///
/// ```
/// use std::time::Duration;
/// use bus_client::Selector;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = bus_client::Bus::private("strategy")?;
/// let ticks = bus.subscriber::<u64>("ticks")?;
/// let orders = bus.subscriber::<String>("orders")?;
/// # let mut feed = bus.publisher::<u64>("ticks")?;
/// # feed.send(&7)?;
/// # let mut sum = 0;
///
/// let mut selector = Selector::new()?;
/// let tick = selector.add(&ticks)?;
/// let order = selector.add(&orders)?;
/// let second = selector.every(Duration::from_millis(10))?;
/// loop {
///     match selector.wait()? {
///         ready if ready == tick => {
///             while let Some(tick) = ticks.try_recv()? {
///                 println!("{}", *tick);
/// #               sum += tick.to_native();
///             }
///         }
///         ready if ready == order => {
///             while let Some(order) = orders.try_recv()? {
///                 println!("{}", *order);
///             }
///         }
///         ready if ready == second => println!("still here"),
///         _ => unreachable!("nothing else was added"),
///     }
/// #   if sum > 0 { break; }
/// }
/// # Ok(()) }
/// ```
///
/// One thread uses it: that of its subscribers.
pub struct Selector<'a> {
    poller: Poller,
    timers: Timers,
    entries: Vec<Entry<'a>>,
    free: Vec<u32>,
    /// To be looked at, in turn: what fired, and what was ready the last time.
    hot: VecDeque<u32>,
    /// Looked at in vain, and not parked.
    quiet: Vec<u32>,
    /// Reports since the kernel was last asked, and when that was.
    reports: usize,
    asked: Instant,
    spin: SpinBudget,
}

impl fmt::Debug for Selector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector")
            .field("watched", &(self.entries.len() - self.free.len()))
            .finish_non_exhaustive()
    }
}

impl<'a> Selector<'a> {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// [`Error::Selector`] where this process has no descriptor left.
    pub fn new() -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            poller: Poller::new()?,
            timers: Timers::default(),
            entries: Vec::new(),
            free: Vec::new(),
            hot: VecDeque::new(),
            quiet: Vec::new(),
            reports: 0,
            asked: now,
            spin: SpinBudget::new(DEFAULT_SPIN),
        })
    }

    /// How long it looks again before it sleeps, at most; 20 microseconds by default, and not at all with more than eight
    /// subscriptions to look at. As for [`BusBuilder::spin`](crate::BusBuilder::spin).
    #[must_use]
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = SpinBudget::new(spin);
        self
    }

    /// Watches a subscriber, typed or raw: a reference to it, or a `Weak` one. It is ready when there is something to receive, or an error to
    /// be told: when `try_recv` would say something else than nothing. One that has [`Ended`](Error::Ended) is always ready: remove it.
    ///
    /// # Errors
    /// [`Error::Broker`] where there is none for 5 seconds: it has to tell publishers how to wake this subscriber. [`Error::Selector`] where there is
    /// no descriptor left, or this subscriber is watched here already.
    pub fn add(&mut self, source: impl Source + 'a) -> Result<Token> {
        let place = self.place();
        let mut added = Err(Error::selector(
            "watch a subscriber that was dropped",
            nix::errno::Errno::EBADF,
        ));
        let poller = &self.poller;
        source.with(&mut |inlet| {
            added = inlet.own().and_then(|own| {
                poller.watch_doorbell(place, own)?;
                Ok(own.clone())
            });
        });
        let own = match added {
            Ok(own) => own,
            Err(error) => {
                self.free.push(place);
                return Err(error);
            }
        };
        let what = What::Subscription {
            source: Box::new(source),
            own,
            parked: false,
        };
        self.heat(place);
        Ok(self.fill(place, what))
    }

    /// Watches a descriptor for as long as it is ready: who does not read what there is has it reported again.
    ///
    /// A publisher's room is watched so as well: with a copy of its [`poll_fd`](crate::Publisher::poll_fd), and `arm` after
    /// [`Error::Full`].
    ///
    /// # Errors
    /// [`Error::Selector`] where it is watched here already, or is none that can be waited for, such as a file's.
    pub fn add_fd(&mut self, fd: &'a (impl AsFd + ?Sized), interest: Interest) -> Result<Token> {
        let place = self.place();
        let fd = fd.as_fd();
        if let Err(error) = self.poller.watch_descriptor(place, fd, interest) {
            self.free.push(place);
            return Err(error);
        }
        Ok(self.fill(place, What::Descriptor(fd)))
    }

    /// Is ready once every `period`, first after one; a microsecond at least. A time that was missed is not made up for.
    ///
    /// # Errors
    /// [`Error::Selector`] where there is no descriptor left.
    pub fn every(&mut self, period: Duration) -> Result<Token> {
        let period = period.clamp(Duration::from_micros(1), YEAR);
        self.timer(reach(period), Some(period))
    }

    /// Is ready once, at that time. Then it is removed.
    ///
    /// # Errors
    /// As for [`every`](Self::every).
    pub fn at(&mut self, time: Instant) -> Result<Token> {
        self.timer(time, None)
    }

    /// Is ready once, after this time. Then it is removed.
    ///
    /// # Errors
    /// As for [`every`](Self::every).
    pub fn after(&mut self, time: Duration) -> Result<Token> {
        self.at(reach(time))
    }

    fn timer(&mut self, first: Instant, period: Option<Duration>) -> Result<Token> {
        self.poller.watch_timers()?;
        let place = self.place();
        let token = self.fill(place, What::Timer);
        self.timers.add(token, first, period);
        Ok(token)
    }

    /// Watches it no more; whether it did. What it says of a subscriber's messages is as before.
    pub fn remove(&mut self, token: Token) -> bool {
        let there = self
            .entries
            .get(token.index as usize)
            .is_some_and(|e| e.generation == token.generation && !matches!(e.what, What::Free));
        if there {
            self.release(token.index);
        }
        there
    }

    /// Waits until something is ready, and says what.
    ///
    /// # Errors
    /// [`Error::Selector`] where the kernel refuses to wait. What is wrong with a subscription is said by that one: it is reported as ready.
    pub fn wait(&mut self) -> Result<Token> {
        loop {
            if let Some(token) = self.wait_until(None)? {
                return Ok(token);
            }
        }
    }

    /// What is ready, if anything is.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<Token>> {
        self.wait_until(Some(Instant::now()))
    }

    /// Waits until something is ready; none if that takes longer than `timeout`.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Token>> {
        self.wait_until(deadline(Some(timeout)))
    }
}

impl Drop for Selector<'_> {
    fn drop(&mut self) {
        // Nobody rings for who is not waited for.
        for entry in &self.entries {
            if let What::Subscription {
                source,
                parked: true,
                ..
            } = &entry.what
            {
                source.with(&mut |inlet| inlet.unpark());
            }
        }
    }
}

/// Longest time that a timer takes: no selector waits longer, and each clock reaches it.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// This time from now.
fn reach(time: Duration) -> Instant {
    Instant::now() + time.min(YEAR)
}
