//! A line's way from a broker that is gone to the next one: the keeper's half.
//!
//! ```text
//!  keeper                              handle, at any time
//!  lock: the old connection is read to its end
//!  Resume -> the new broker
//!  <- Resumed + registry
//!  lock
//!    Told::Resumed, the new connection
//!    the new registry in place           its version moves: it comes here, and finds the line moved
//!    Released, Notify: what was said to nobody
//!    Back -> the new broker
//!  unlock
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bus_core::control::{Connection, Event, Refusal, Request, Role};
use bus_core::fork::Unshared;

use super::{Line, Part, State, Told, is_final};

/// What to say to a new broker.
pub(crate) struct Prepared {
    request: Request,
    descriptors: Vec<Arc<dyn AsDescriptor>>,
    /// The request brings the handle's doorbell.
    notified: bool,
}

/// Something with a descriptor that goes with a request.
trait AsDescriptor: Send + Sync {
    fn descriptor(&self) -> BorrowedFd<'_>;
}

impl AsDescriptor for Unshared<OwnedFd> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

impl AsDescriptor for bus_core::backend::doorbell::Doorbell {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.button()
    }
}

impl Prepared {
    pub(crate) fn send(&self, to: &Connection) -> bus_core::Result<()> {
        let descriptors: Vec<_> = self.descriptors.iter().map(|d| d.descriptor()).collect();
        to.send(&self.request, &descriptors)
    }

    /// Whether an answer comes before the line can move.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.request, Request::Resume { .. })
    }
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installed {
    /// It has a broker again.
    Yes,
    /// It is not to be kept any more: no broker takes it, or its handle is gone.
    Never,
    /// The broker went meanwhile, or lacks something: to be tried again.
    Later,
}

impl Line {
    /// Puts together what to say to the next broker. None where none is to come.
    pub(crate) fn prepare(&self, client: &str) -> Option<Prepared> {
        let state = self.state();
        if state.gone || state.fate.is_some() {
            return None;
        }
        let client = client.to_owned();
        let schema = self.schema.clone();
        let (request, descriptors, notified): (_, Vec<Arc<dyn AsDescriptor>>, _) = match &self.part
        {
            Part::Member { role, topic } => {
                let standing = self.standing.get()?;
                let request = Request::Resume {
                    client,
                    role: *role,
                    topic: topic.to_string(),
                    schema,
                    settings: standing.settings,
                    id: self.id()?,
                    index: standing.index,
                    rings: state.rings,
                };
                let mut descriptors: Vec<Arc<dyn AsDescriptor>> = vec![standing.segment.clone()];
                let doorbell = self.doorbell.get();
                descriptors.extend(doorbell.map(|d| d.clone() as Arc<dyn AsDescriptor>));
                (request, descriptors, doorbell.is_some())
            }
            Part::Watch { pattern } => {
                let request = Request::Watch {
                    client,
                    pattern: pattern.to_string(),
                    schema,
                    resumes: Some(self.id()?),
                };
                (request, Vec::new(), false)
            }
        };
        Some(Prepared {
            request,
            descriptors,
            notified,
        })
    }

    /// The connection has hung up: what the broker said last is read, so that the next one can be told what this handle knows.
    pub(crate) fn lose(&self) {
        let mut state = self.state();
        self.hang_up(&mut state);
        self.read_to_the_end(&mut state);
        drop(state);
        self.ring();
    }

    /// What is left in the socket of a broker that is gone. Nothing comes there any more.
    fn read_to_the_end(&self, state: &mut State) {
        // Also a broken end is one: no more is to be had.
        while let Ok(Some((event, descriptors))) = state.connection.try_recv::<Event>() {
            let again = state.note(&event);
            let matters = match &event {
                // The next broker tells of them again.
                _ if again => false,
                // Nobody needs to hear of who came and went. A publisher may have left messages.
                Event::SubscriberLeft { id, .. } => !state.forget_untold(*id),
                Event::Refused { .. } => false,
                _ => true,
            };
            if !matters {
                continue;
            }
            state.told.push_back(Told::Event {
                event,
                descriptors,
                again,
            });
        }
        if let (Part::Member { role, .. }, Some(standing)) = (&self.part, self.standing.get()) {
            // It may have been further than its last words: what it had still to say is lost.
            let reached = standing.seat.watched_by(*role);
            let newer = |than: u32| reached.wrapping_sub(than) as i32 > 0;
            state.behind |= newer(state.heard) && newer(state.told_before);
        }
    }

    /// The new broker has answered: the line moves to it.
    pub(crate) fn install(
        &self,
        connection: Connection,
        prepared: &Prepared,
        answer: Option<(Event, Vec<OwnedFd>)>,
    ) -> Installed {
        let mut state = self.state();
        if state.gone {
            return Installed::Never;
        }
        let (version, rings) = match answer {
            None => (0, 0),
            Some((
                Event::Resumed {
                    version,
                    rings,
                    topic,
                },
                registry,
            )) => {
                let (Ok([registry]), Some(standing)) =
                    (<[OwnedFd; 1]>::try_from(registry), self.standing.get())
                else {
                    return self.condemn(&mut state, "the broker sent no registry");
                };
                match standing.seat.replace(&registry) {
                    Ok(()) => {
                        state.topic = Some(topic);
                        // Newcomers wait until this handle is back, which it has not said yet: whatever this broker has counted so far is of those
                        // who came back, or left, and the next one would tell of them again.
                        if let Part::Member { role, .. } = &self.part {
                            state.told_before = standing.seat.watched_by(*role);
                        }
                        (version, rings)
                    }
                    Err(error @ bus_core::Error::Segment { .. }) => {
                        return self.condemn(&mut state, &error.to_string());
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot follow to the next broker yet");
                        return Installed::Later;
                    }
                }
            }
            Some((Event::Refused { kind, why }, _)) => {
                return self.refused(&mut state, kind, &why);
            }
            Some((event, _)) => {
                return self.condemn(&mut state, &format!("the broker answered {event:?}"));
            }
        };
        match &self.part {
            // Only the last counts, and it makes up for what was missed at any before.
            Part::Member { .. } => state
                .told
                .retain(|told| !matches!(told, Told::Resumed { .. })),
            // All topics are told again, by other numbers.
            Part::Watch { .. } => state.told.clear(),
        }
        let behind = state.behind;
        state.told.push_back(Told::Resumed {
            version,
            behind,
            notified: prepared.notified,
        });
        state.heard = version;
        state.connection = Arc::new(connection);
        state.number += 1;
        state.down = None;
        state.cut_off = None;
        // ORDERING: a hint, as in `is_down`.
        self.down.store(false, Ordering::Relaxed);
        self.catch_up(&state, prepared, rings);
        self.moved.notify_all();
        drop(state);
        self.ring();
        Installed::Yes
    }

    /// Says to the new broker what the handle said while there was none, and that it is back. Where that broker is gone as well, the next one
    /// hears it.
    fn catch_up(&self, state: &State, prepared: &Prepared, rings: u64) {
        let Part::Member { role, .. } = &self.part else {
            return;
        };
        if *role == Role::Subscriber {
            let done = rings & !state.rings;
            for index in (0..64_u16).filter(|index| done >> index & 1 != 0) {
                let _ = state.connection.send(&Request::Released { index }, &[]);
            }
        }
        if let Some(doorbell) = self.doorbell.get().filter(|_| !prepared.notified) {
            let _ = state
                .connection
                .send(&Request::Notify, &[doorbell.button()]);
        }
        let _ = state.connection.send(&Request::Back, &[]);
        // Whom it found parked and asked the old broker to ring, when that was gone already.
        let _ = state.connection.send(&Request::Wake, &[]);
    }

    fn refused(&self, state: &mut State, kind: Refusal, why: &str) -> Installed {
        if is_final(kind) {
            return self.condemn(state, why);
        }
        tracing::warn!(why, "the next broker does not take a handle yet");
        Installed::Later
    }

    /// No broker will take this handle: it says so from its next call on.
    fn condemn(&self, state: &mut State, why: &str) -> Installed {
        tracing::warn!(why, "a handle is of no use any more");
        // What a living broker said first is the cause.
        state.fate = Some(state.cut_off.take().unwrap_or_else(|| why.to_owned()));
        self.over(state);
        Installed::Never
    }

    /// Sees to it that a handle whose fate is known comes to hear of it.
    pub(crate) fn conclude(&self) {
        let state = self.state();
        if state.fate.is_some() {
            self.over(&state);
        }
    }

    fn over(&self, _state: &State) {
        if let Some(standing) = self.standing.get()
            && let Err(error) = standing.seat.outdate()
        {
            tracing::warn!(%error, "a handle may not notice that it is of no use any more");
        }
        self.moved.notify_all();
        self.ring();
    }
}

impl State {
    /// Takes back the joining of somebody, if it was not told yet.
    fn forget_untold(&mut self, id: u64) -> bool {
        let of = |told: &Told| matches!(told, Told::Event { event: Event::SubscriberJoined { id: joined, .. }, .. } if *joined == id);
        let there = self.told.iter().any(of);
        if there {
            self.told.retain(|told| {
                let notify = matches!(told, Told::Event { event: Event::SubscriberNotify { id: parked, .. }, .. } if *parked == id);
                !of(told) && !notify
            });
        }
        there
    }
}
