//! A handle's line to its broker, whichever that is: shared by the handle, which reads it, and the keeper, which moves it to the next
//! broker when the old one is gone.
//!
//! Promises: all that any broker said is heard, in order: what the old one said last, then [`Told::Resumed`], then what the new one says. A line
//! that nobody reads keeps no more than there is to know. A line that no broker takes any more says why, at every call.
//!
//! Nothing of this is on the way of a message: a handle comes here when a version has moved, or when it waits in vain.

mod resume;

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::Doorbell;
use bus_core::control::{Connection, Event, Refusal, Request, Role};
use bus_core::fork::Unshared;
use bus_core::memory::registry::Seat;
use bus_core::schema::Schema;
use bus_core::{Pattern, TopicName, TopicSettings};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub(crate) use resume::Installed;

/// What a line is for.
pub(crate) enum Part {
    /// A publisher or subscriber.
    Member { role: Role, topic: TopicName },
    /// A watch.
    Watch { pattern: Pattern },
}

/// What a member is known by, from the moment at which it asks to join.
pub(crate) struct Standing {
    pub(crate) settings: TopicSettings,
    pub(crate) index: u16,
    pub(crate) segment: Arc<Unshared<OwnedFd>>,
    pub(crate) seat: Seat,
}

/// Something that a broker said.
pub(crate) enum Told {
    /// An event, with its descriptors. It tells `again` of somebody who was told of before.
    Event {
        event: Event,
        descriptors: Vec<OwnedFd>,
        again: bool,
    },
    /// From here on another broker speaks.
    Resumed {
        /// As in [`Event::Resumed`].
        version: u32,
        /// The one before went before it had told of everybody.
        behind: bool,
        /// The new one knows the handle's doorbell.
        notified: bool,
    },
}

/// Why nothing is told.
#[derive(Debug)]
pub(crate) enum Silence {
    /// There is no broker, and all that the last one said was told.
    Down,
    /// No broker takes this handle any more: why.
    Over(String),
    /// The connection failed otherwise.
    Failed(bus_core::Error),
}

struct State {
    connection: Arc<Connection>,
    /// Which connection it is; counts from 0.
    number: u64,
    /// Said by brokers that are gone, and not yet told.
    told: VecDeque<Told>,
    /// Everybody on the other side who was told of, and not to have left.
    known: HashSet<u64>,
    /// By index: the rings that a subscriber follows, or will when it has heard all of `told`.
    rings: u64,
    /// The version that the last event led to.
    heard: u32,
    /// Versions up to this one, of the registry of now, are of members that this handle knew before.
    told_before: u32,
    /// The broker before this one had not told of everybody, and this one has not made up for it yet.
    behind: bool,
    /// Since when there is no broker.
    down: Option<Instant>,
    /// No broker takes this handle any more.
    fate: Option<String>,
    /// Why the broker of now has cut it off, as that said last.
    cut_off: Option<String>,
    /// The handle was dropped.
    gone: bool,
    /// The number of its topic at the last broker that took it back, if one did.
    topic: Option<u64>,
}

/// The line.
pub(crate) struct Line {
    part: Part,
    schema: Schema,
    id: OnceLock<u64>,
    standing: OnceLock<Standing>,
    doorbell: OnceLock<Arc<Doorbell>>,
    state: Mutex<State>,
    /// Another connection is there, or none will be.
    moved: Condvar,
    /// As `State::down`, for who only wants a hint.
    down: AtomicBool,
}

impl Line {
    pub(crate) fn new(connection: Connection, part: Part, schema: Schema) -> Arc<Self> {
        Arc::new(Self {
            part,
            schema,
            id: OnceLock::new(),
            standing: OnceLock::new(),
            doorbell: OnceLock::new(),
            state: Mutex::new(State {
                connection: Arc::new(connection),
                number: 0,
                told: VecDeque::new(),
                known: HashSet::new(),
                rings: 0,
                heard: 0,
                told_before: 0,
                behind: false,
                down: None,
                fate: None,
                cut_off: None,
                gone: false,
                topic: None,
            }),
            moved: Condvar::new(),
            down: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the handle or watch, as the broker gave it, once it did.
    pub(crate) fn id(&self) -> Option<u64> {
        self.id.get().copied()
    }

    pub(crate) fn set_id(&self, id: u64) {
        let _ = self.id.set(id);
    }

    pub(crate) fn set_standing(&self, standing: Standing) {
        let _ = self.standing.set(standing);
    }

    /// Whether others may have heard of it.
    pub(crate) fn has_standing(&self) -> bool {
        self.standing.get().is_some() || matches!(self.part, Part::Watch { .. })
    }

    /// The connection of now, and its number.
    pub(crate) fn connection(&self) -> (u64, Arc<Connection>) {
        let state = self.state();
        (state.number, Arc::clone(&state.connection))
    }

    /// Whether there is no broker, as far as is known.
    pub(crate) fn is_down(&self) -> bool {
        // ORDERING: a hint; what it stands for is behind the lock.
        self.down.load(Ordering::Relaxed)
    }

    /// Why no broker takes this line any more, if so.
    pub(crate) fn fate(&self) -> Option<String> {
        self.state().fate.clone()
    }

    /// The number of its topic at the last broker that took it back: one that no topic has where it was closed. None where it is still at its first broker.
    pub(crate) fn topic(&self) -> Option<u64> {
        self.state().topic
    }

    /// Whether the broker of now is at the other end, as the kernel knows it.
    pub(crate) fn has_broker(&self) -> bool {
        let state = self.state();
        state.down.is_none() && !has_hung_up(&state.connection)
    }

    /// For how long there has been no broker.
    pub(crate) fn down_for(&self) -> Option<Duration> {
        self.state().down.map(|since| since.elapsed())
    }

    /// Sends a request to the broker of now.
    pub(crate) fn send(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> bus_core::Result<()> {
        self.connection().1.send(request, descriptors)
    }

    /// The next thing that was said, if something was.
    ///
    /// # Errors
    /// Why there is nothing, and will not be without another broker.
    pub(crate) fn try_next(&self) -> Result<Option<Told>, Silence> {
        let mut state = self.state();
        if let Some(told) = state.told.pop_front() {
            return Ok(Some(told));
        }
        if let Some(why) = &state.fate {
            return Err(Silence::Over(why.clone()));
        }
        if state.down.is_some() {
            return Err(Silence::Down);
        }
        match state.connection.try_recv::<Event>() {
            Ok(None) => Ok(None),
            Ok(Some((event, descriptors))) => {
                let again = state.note(&event);
                if let (Event::PublisherJoined { index, .. }, true) = (&event, again) {
                    // One more than for the ring itself, and this broker is the one to hear it.
                    let released = Request::Released { index: *index };
                    let _ = state.connection.send(&released, &[]);
                }
                Ok(Some(Told::Event {
                    event,
                    descriptors,
                    again,
                }))
            }
            Err(bus_core::Error::Closed) => {
                self.hang_up(&mut state);
                Err(Silence::Down)
            }
            Err(error) => Err(Silence::Failed(error)),
        }
    }

    /// As [`try_next`](Self::try_next); waits for it until then, while there is a broker.
    pub(crate) fn next(&self, deadline: Instant) -> Result<Option<Told>, Silence> {
        loop {
            if let Some(told) = self.try_next()? {
                return Ok(Some(told));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // One that was replaced meanwhile has hung up, which ends this.
            let (_, connection) = self.connection();
            let millis = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            let _ = poll(
                &mut [PollFd::new(connection.as_fd(), PollFlags::POLLIN)],
                millis,
            );
        }
    }

    /// Waits for a broker until then; whether there is one.
    ///
    /// # Errors
    /// Why there will be none for this handle.
    pub(crate) fn await_broker(&self, deadline: Instant) -> Result<bool, Silence> {
        let mut state = self.state();
        loop {
            if let Some(why) = &state.fate {
                return Err(Silence::Over(why.clone()));
            }
            if state.down.is_none() {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let waited = self.moved.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The broker that was there has told of everybody.
    pub(crate) fn caught_up(&self) {
        self.state().behind = false;
    }

    /// A subscriber reads the ring with this index no more. A broker that comes later learns it from what the line knows.
    pub(crate) fn released(&self, index: u16) {
        let connection = {
            let mut state = self.state();
            state.rings &= !bit(index);
            Arc::clone(&state.connection)
        };
        let _ = connection.send(&Request::Released { index }, &[]);
    }

    /// Tells the broker, and all that come later, how to wake this handle. [`Event::Notified`] follows, or [`Told::Resumed`] that says so.
    pub(crate) fn notify(&self, doorbell: &Arc<Doorbell>) -> bus_core::Result<()> {
        // Under the lock, so that a broker that comes just now learns it in one of the two ways.
        let state = self.state();
        if self.doorbell.get().is_some() {
            return Ok(());
        }
        match state
            .connection
            .send(&Request::Notify, &[doorbell.button()])
        {
            Ok(()) | Err(bus_core::Error::Closed) => {}
            failed => return failed,
        }
        let _ = self.doorbell.set(Arc::clone(doorbell));
        Ok(())
    }

    /// What rings when the line goes down or moves.
    pub(crate) fn set_doorbell(&self, doorbell: Arc<Doorbell>) {
        let _ = self.doorbell.set(doorbell);
    }

    /// Rings, so that who is parked looks around.
    pub(crate) fn ring(&self) {
        if let Some(doorbell) = self.doorbell.get() {
            doorbell.ring();
        }
    }

    /// The connection has closed, as far as the handle has read it.
    fn hang_up(&self, state: &mut State) {
        if state.down.is_none() {
            state.down = Some(Instant::now());
            // ORDERING: a hint, as in `is_down`.
            self.down.store(true, Ordering::Relaxed);
        }
    }

    /// The handle is dropped; whether its broker hears of that.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state();
        let heard = state.down.is_none() && !has_hung_up(&state.connection);
        state.gone = true;
        state.told.clear();
        state.connection.shut_down();
        heard
    }
}

impl State {
    /// Remembers what an event says of others; whether it tells of somebody again.
    fn note(&mut self, event: &Event) -> bool {
        match event {
            Event::PublisherJoined {
                version, id, index, ..
            } => {
                self.heard = *version;
                let again = !self.known.insert(*id);
                if !again {
                    self.rings |= bit(*index);
                }
                return again;
            }
            Event::SubscriberJoined { version, id, .. } => {
                self.heard = *version;
                return !self.known.insert(*id);
            }
            Event::PublisherLeft { version, id, .. }
            | Event::SubscriberLeft { version, id, .. } => {
                self.heard = *version;
                self.known.remove(id);
            }
            Event::Joined { version }
            | Event::Notified { version }
            | Event::PublisherNotify { version, .. }
            | Event::SubscriberNotify { version, .. } => self.heard = *version,
            Event::Refused { kind, why } if is_final(*kind) => self.fate = Some(why.clone()),
            Event::Refused { why, .. } => self.cut_off = Some(why.clone()),
            _ => {}
        }
        false
    }
}

/// Whether nobody is at the other end any more, though there may be something to read.
fn has_hung_up(connection: &Connection) -> bool {
    let mut fds = [PollFd::new(connection.as_fd(), PollFlags::empty())];
    // A hang-up is told whatever is asked for.
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Whether a refusal is for ever: asked again, the broker would say the same.
fn is_final(kind: Refusal) -> bool {
    !matches!(kind, Refusal::Limit | Refusal::Broker)
}

fn bit(index: u16) -> u64 {
    1_u64.checked_shl(index.into()).unwrap_or(0)
}
