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
//!    |       last in turn again    | something, in a spin    | its eventfd is rung
//!    +-----------------------------+-------------------------+
//! ```

pub(crate) mod poller;
mod source;
mod timers;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::backend::Native;
use bus_core::wake::{Spin, SpinBudget, fence_parked};

use crate::inlet::Inlet;
use crate::wait::{PATROL, deadline};
use crate::{Error, Result};
use poller::{Fired, Poller};
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

enum What<'a> {
    /// Nothing: the place is free.
    Free,
    Subscription {
        source: Box<dyn Source + 'a>,
        /// Its eventfd, open for as long as it is watched.
        own: Arc<OwnedFd>,
        parked: bool,
        /// Its broker is gone.
        orphaned: bool,
    },
    Timer,
    Descriptor(BorrowedFd<'a>),
}

struct Entry<'a> {
    generation: u32,
    what: What<'a>,
    /// It is in the list of the hot.
    hot: bool,
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
/// # let dir = tempfile::tempdir()?;
/// # let bus = bus_client::Bus::builder("strategy").socket(dir.path().join("bus.sock")).connect()?;
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
    /// How many have no broker any more, and when those were last looked after.
    orphans: usize,
    patrolled: Instant,
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
            orphans: 0,
            patrolled: now,
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
    /// [`Error::Topic`] where the broker is gone: it has to tell publishers how to wake this subscriber. [`Error::Selector`] where there is
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
                poller.watch_subscription(place, own, inlet.connection())?;
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
            orphaned: false,
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
        let period = period.max(Duration::from_micros(1));
        let first = Instant::now() + period;
        self.timer(first, Some(period))
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
        self.at(Instant::now() + time)
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

    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<Option<Token>> {
        self.let_others_in()?;
        if let Some(token) = self.next_hot() {
            return Ok(Some(token));
        }
        let spin = self.look_again(deadline);
        let found = self.sleep_until(deadline);
        if let Some(spin) = spin {
            self.spin.learn(&spin);
        }
        found
    }

    /// Sleeps until something is ready, with all that is quiet parked.
    fn sleep_until(&mut self, deadline: Option<Instant>) -> Result<Option<Token>> {
        loop {
            if let Some(token) = self.next_hot() {
                return Ok(Some(token));
            }
            self.park_quiet();
            if !self.hot.is_empty() {
                continue;
            }
            let now = Instant::now();
            let patrol = (self.orphans > 0).then(|| self.patrolled + PATROL);
            let until = [deadline, patrol].into_iter().flatten().min();
            self.timers.set(&self.poller, now)?;
            self.ask(until.map(|until| until.saturating_duration_since(now)))?;
            if let Some(token) = self.next_hot() {
                return Ok(Some(token));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    }

    /// When all that is hot has had its turn: what else has fired, if that was not asked just now.
    #[inline]
    fn let_others_in(&mut self) -> Result<()> {
        if self.hot.is_empty() || self.reports < self.hot.len() {
            return Ok(());
        }
        if self.asked.elapsed() >= ASK {
            self.ask(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    /// Asks the kernel what has fired, and waits for it as long as it may.
    fn ask(&mut self, timeout: Option<Duration>) -> Result<()> {
        let (hot, entries) = (&mut self.hot, &mut self.entries);
        let mut hung_up = Vec::new();
        self.poller.wait(timeout, |fired| match fired {
            Fired::Timers => {}
            Fired::Ready(place) => heat(hot, entries, place),
            Fired::HungUp(place) => hung_up.push(place),
        })?;
        let now = Instant::now();
        (self.asked, self.reports) = (now, 0);
        while let Some(token) = self.timers.due(now) {
            self.heat(token.index);
        }
        for place in hung_up {
            self.orphan(place);
        }
        if self.orphans > 0 && now >= self.patrolled + PATROL {
            self.patrolled = now;
            self.patrol();
        }
        Ok(())
    }

    /// Looks again for a while, where there is little to look at.
    fn look_again(&mut self, deadline: Option<Instant>) -> Option<Spin> {
        let quiet = self.quiet.len();
        let no_time = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if quiet == 0 || quiet > SPIN_SOURCES || no_time {
            return None;
        }
        let mut spin = self.spin.start();
        while spin.turn::<Native>() {
            let found = self.quiet.iter().position(|place| {
                let entry = &self.entries[*place as usize];
                entry.looks(|inlet| inlet.glance())
            });
            if let Some(at) = found {
                let place = self.quiet.swap_remove(at);
                self.heat(place);
                break;
            }
        }
        Some(spin)
    }

    /// The next in turn that is ready.
    #[inline]
    fn next_hot(&mut self) -> Option<Token> {
        while let Some(index) = self.hot.pop_front() {
            let entry = &mut self.entries[index as usize];
            entry.hot = false;
            let generation = entry.generation;
            let token = Token { index, generation };
            match &mut entry.what {
                What::Free => continue,
                What::Descriptor(_) => {}
                What::Timer => {
                    if !self.timers.has(token) {
                        self.release(index);
                    }
                }
                What::Subscription { source, parked, .. } => {
                    let mut ready = false;
                    let there = source.with(&mut |inlet| {
                        if *parked {
                            inlet.unpark();
                            *parked = false;
                        }
                        // An error is there to be told, by the subscriber.
                        ready = inlet.ready().unwrap_or(true);
                    });
                    if !there {
                        self.release(index);
                        continue;
                    }
                    if !ready {
                        self.quiet.push(index);
                        continue;
                    }
                    entry.hot = true;
                    self.hot.push_back(index);
                }
            }
            self.reports += 1;
            return Some(token);
        }
        None
    }

    /// Parks all that are quiet, with one fence; what has something by then is hot again.
    fn park_quiet(&mut self) {
        if self.quiet.is_empty() {
            return;
        }
        let mut quiet = std::mem::take(&mut self.quiet);
        for place in &quiet {
            if let What::Subscription {
                source,
                parked,
                own,
                ..
            } = &mut self.entries[*place as usize].what
            {
                source.with(&mut |inlet| inlet.park_at(own));
                *parked = true;
            }
        }
        fence_parked();
        for place in quiet.drain(..) {
            if self.entries[place as usize].looks(|inlet| inlet.ready().unwrap_or(true)) {
                self.heat(place);
            }
        }
        // Its room is for the next time.
        self.quiet = quiet;
    }

    /// Looks after those without a broker: who of their publishers is gone, only the kernel can say.
    fn patrol(&mut self) {
        for place in 0..self.entries.len() as u32 {
            let entry = &self.entries[place as usize];
            if let What::Subscription {
                source,
                orphaned: true,
                ..
            } = &entry.what
            {
                // An error is told by the subscriber.
                source.with(&mut |inlet| drop(inlet.patrol()));
                self.heat(place);
            }
        }
    }

    fn orphan(&mut self, place: u32) {
        if let What::Subscription {
            source, orphaned, ..
        } = &mut self.entries[place as usize].what
            && !*orphaned
        {
            *orphaned = true;
            self.orphans += 1;
            source.with(&mut |inlet| drop(inlet.patrol()));
            self.heat(place);
        }
    }

    fn heat(&mut self, place: u32) {
        heat(&mut self.hot, &mut self.entries, place);
    }

    /// A place for something new.
    fn place(&mut self) -> u32 {
        if self.free.is_empty() {
            self.sweep();
        }
        self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                generation: 0,
                what: What::Free,
                hot: false,
            });
            self.entries.len() as u32 - 1
        })
    }

    /// Frees the places of subscribers that were dropped.
    fn sweep(&mut self) {
        for place in 0..self.entries.len() as u32 {
            if let What::Subscription { source, .. } = &self.entries[place as usize].what
                && !source.with(&mut |_| ())
            {
                self.release(place);
            }
        }
    }

    fn fill(&mut self, index: u32, what: What<'a>) -> Token {
        let entry = &mut self.entries[index as usize];
        entry.what = what;
        entry.generation = entry.generation.wrapping_add(1);
        Token {
            index,
            generation: entry.generation,
        }
    }

    /// Frees a place. It may still be in a list, where it is passed over, or looked at for whatever comes there next.
    fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let generation = entry.generation;
        match std::mem::replace(&mut entry.what, What::Free) {
            What::Free => return,
            What::Timer => self.timers.remove(Token { index, generation }),
            What::Descriptor(fd) => self.poller.forget(fd),
            What::Subscription {
                source,
                own,
                parked,
                orphaned,
            } => {
                self.poller.forget(own.as_fd());
                source.with(&mut |inlet| {
                    self.poller.forget(inlet.connection());
                    if parked {
                        inlet.unpark();
                    }
                });
                self.quiet.retain(|place| *place != index);
                self.orphans -= usize::from(orphaned);
            }
        }
        self.free.push(index);
    }
}

impl Entry<'_> {
    /// What a look at a subscription says; false for everything else.
    fn looks(&self, look: impl Fn(&Inlet) -> bool) -> bool {
        let mut found = false;
        if let What::Subscription { source, .. } = &self.what {
            source.with(&mut |inlet| found = look(inlet));
        }
        found
    }
}

fn heat(hot: &mut VecDeque<u32>, entries: &mut [Entry<'_>], place: u32) {
    let entry = &mut entries[place as usize];
    if !entry.hot {
        entry.hot = true;
        hot.push_back(place);
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
