//! One handle's membership: its connection to the broker, from opening to the last event.
//!
//! Promises: while the broker lives, every event up to a version that was seen comes; a broker that is gone is
//! noticed, and then the kernel is asked directly whether peers live. Dropping it is leaving.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bus_core::backend::doorbell;
use bus_core::control::{Connection, Event, Request, Role, pidfd_alive};
use bus_core::fork::Birth;
use bus_core::schema::Schema;
use bus_core::wake::Relay;
use bus_core::{TopicName, TopicSettings};

use crate::host::Host;
use crate::{Error, Result, TopicBuilder};

/// How long the broker may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Someone else on the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// A number that no other handle has or had on this broker.
    pub id: u64,
    /// The name under which its process connected.
    pub client: String,
    /// Its process; 0 if that is not visible from here.
    pub pid: u32,
}

/// Who is there, and how to ask the kernel whether they live.
#[derive(Default)]
pub(crate) struct Peers(HashMap<u64, (Peer, OwnedFd)>);

impl Peers {
    pub(crate) fn insert(&mut self, peer: Peer, pidfd: OwnedFd) {
        self.0.insert(peer.id, (peer, pidfd));
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Peer> {
        self.0.get(&id).map(|(peer, _)| peer)
    }

    pub(crate) fn list(&self) -> Vec<Peer> {
        self.0.values().map(|(peer, _)| peer.clone()).collect()
    }

    /// Those whose process is gone.
    pub(crate) fn dead(&self) -> Vec<u64> {
        let dead = self.0.iter().filter(|(_, (_, pidfd))| !pidfd_alive(pidfd));
        dead.map(|(id, _)| *id).collect()
    }
}

/// A handle's connection to the broker.
pub(crate) struct Member {
    connection: Connection,
    topic: TopicName,
    /// The broker is gone; nothing more will be heard from it.
    orphaned: AtomicBool,
    /// Why this handle is of no use any more, if so.
    unusable: OnceLock<String>,
    /// The process that is the member.
    birth: Birth,
    /// Keeps an embedded broker alive.
    host: Arc<Host>,
}

impl Drop for Member {
    fn drop(&mut self) {
        // A forked copy of the handle is no member, and ends nothing.
        if self.is_here() {
            self.connection.shut_down();
        }
    }
}

impl Relay for Member {
    fn relay(&self) {
        // Who parks looks around by itself once the broker is gone.
        if !self.orphaned() {
            let _ = self.connection.try_send(&Request::Wake, &[]);
        }
    }
}

/// What the broker said of a topic at its opening.
pub(crate) struct Opened {
    pub settings: TopicSettings,
    pub index: u16,
    pub id: u64,
    pub registry: OwnedFd,
}

impl Member {
    /// Opens the topic, or creates it.
    pub(crate) fn open(
        builder: &TopicBuilder,
        role: Role,
        schema: &Schema,
    ) -> Result<(Self, Opened)> {
        schema.check().map_err(Error::Argument)?;
        let host = builder.bus.host.clone();
        let member = Self {
            connection: host.connect()?,
            topic: builder.topic.clone(),
            orphaned: AtomicBool::new(false),
            unusable: OnceLock::new(),
            birth: Birth::here(),
            host,
        };
        let open = Request::Open {
            client: member.host.client().to_string(),
            role,
            topic: member.topic.to_string(),
            schema: schema.clone(),
            settings: builder.settings.clone(),
            history: match role {
                Role::Publisher => 0,
                Role::Subscriber => builder.history,
            },
            watched: builder.place.map(|place| place.watched),
        };
        member.ask(&open, &[])?;
        let opened = match member.answer()? {
            (
                Event::Opened {
                    settings,
                    index,
                    id,
                },
                descriptors,
            ) => {
                let settings = settings.check().map_err(|e| member.wrap(e))?;
                let [registry] = member.descriptors(descriptors)?;
                Opened {
                    settings,
                    index,
                    id,
                    registry,
                }
            }
            (event, _) => return Err(member.unexpected(&event)),
        };
        Ok((member, opened))
    }

    /// Takes part, with this segment. Events up to [`Event::Joined`] follow.
    pub(crate) fn join(&self, segment: BorrowedFd<'_>) -> Result<()> {
        self.ask(&Request::Join, &[segment])
    }

    /// Lets this handle park at `doorbell`. Events up to [`Event::Notified`] follow.
    pub(crate) fn notify(&self, doorbell: BorrowedFd<'_>) -> Result<()> {
        // What a broker that is gone said last is for whoever looks next.
        if self.lost_broker() {
            return Err(self.wrap(bus_core::Error::Closed));
        }
        let asked = self.connection.send(&Request::Notify, &[doorbell]);
        asked.map_err(|e| self.wrap(e))
    }

    fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        match self.connection.send(request, descriptors) {
            // The broker has closed; why, it said before.
            Err(bus_core::Error::Closed) => match self.answer() {
                Ok((event, _)) => Err(self.unexpected(&event)),
                Err(error) => Err(error),
            },
            sent => sent.map_err(|e| self.broken(e)),
        }
    }

    /// The next event of a conversation that the broker owes an answer in.
    pub(crate) fn answer(&self) -> Result<(Event, Vec<OwnedFd>)> {
        let deadline = Instant::now() + ANSWER;
        match self.connection.recv::<Event>(Some(deadline)) {
            Ok((Event::Refused { why, .. }, _)) => Err(Error::Refused(why)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.broken(error)),
        }
    }

    /// An event that is there already.
    pub(crate) fn pending(&self) -> Result<Option<(Event, Vec<OwnedFd>)>> {
        self.connection.try_recv().map_err(|e| self.broken(e))
    }

    /// The next event, waited for while the broker lives: it leads to a version that was seen, so it is on its way. None when the
    /// broker is gone and everything that it said was read.
    ///
    /// # Errors
    /// [`Error::Unusable`] where the event cannot be taken in, now and from then on.
    pub(crate) fn event(&self) -> Result<Option<(Event, Vec<OwnedFd>)>> {
        self.check_here()?;
        if let Some(why) = self.unusable.get() {
            return Err(self.refuse(why));
        }
        let patience = if self.orphaned() {
            Duration::ZERO
        } else {
            ANSWER
        };
        let deadline = Instant::now() + patience;
        match self.connection.recv::<Event>(Some(deadline)) {
            Ok(event) => Ok(Some(event)),
            Err(error @ bus_core::Error::Io { .. }) => Err(self.give_up(error.to_string())),
            // Slow, not dead: the next call asks again.
            Err(error @ bus_core::Error::Timeout) if !self.orphaned() => Err(self.broken(error)),
            Err(_) => {
                self.orphan();
                Ok(None)
            }
        }
    }

    /// This process lacks what it takes to take in a peer. Without it, the handle would lose messages, or overwrite what that
    /// peer has not read. What was received before stays valid, so it does not leave by itself.
    pub(crate) fn give_up(&self, why: String) -> Error {
        self.refuse(self.unusable.get_or_init(|| why))
    }

    /// The broker is gone, and took with it what it had to say of somebody who joined or left.
    pub(crate) fn give_up_on_peers(&self) -> Error {
        self.give_up("the broker went before it had told of everybody who joined or left".into())
    }

    /// Whether this process is the member, and not a fork of it.
    pub(crate) fn is_here(&self) -> bool {
        self.birth.is_here()
    }

    /// That this process is the member.
    ///
    /// # Errors
    /// [`Error::Forked`] in a fork of it.
    pub(crate) fn check_here(&self) -> Result<()> {
        here(self.birth)
    }

    fn refuse(&self, why: &str) -> Error {
        Error::Unusable {
            topic: self.topic.to_string(),
            why: why.to_owned(),
        }
    }

    /// Tells the broker that a ring is read no more.
    pub(crate) fn released(&self, index: u16) {
        if self.orphaned() {
            return;
        }
        if self
            .connection
            .send(&Request::Released { index }, &[])
            .is_err()
        {
            self.orphan();
        }
    }

    /// Whether the broker is gone, as far as is known.
    pub(crate) fn orphaned(&self) -> bool {
        // ORDERING: a hint that one thread at a time writes and reads.
        self.orphaned.load(Ordering::Relaxed)
    }

    fn orphan(&self) {
        // ORDERING: as above.
        if !self.orphaned.swap(true, Ordering::Relaxed) {
            tracing::warn!(topic = %self.topic, "the broker is gone; established traffic goes on");
        }
    }

    /// Whether the broker is gone, asking the socket.
    pub(crate) fn lost_broker(&self) -> bool {
        if !self.orphaned() && hung_up(&self.connection) {
            self.orphan();
        }
        self.orphaned()
    }

    /// The connection: its other end hangs up when the broker is gone.
    pub(crate) fn connection(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// Exactly as many descriptors as an event must carry.
    pub(crate) fn descriptors<const N: usize>(
        &self,
        descriptors: Vec<OwnedFd>,
    ) -> Result<[OwnedFd; N]> {
        descriptors.try_into().map_err(|got: Vec<OwnedFd>| {
            self.broken(bus_core::Error::Control(format!(
                "it came with {} descriptors instead of {N}",
                got.len()
            )))
        })
    }

    /// The descriptors of who has joined: two, and its doorbell if it may park.
    pub(crate) fn introduction(
        &self,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<([OwnedFd; 2], Option<OwnedFd>)> {
        let third = (descriptors.len() == 3).then(|| descriptors.pop());
        let third = third.flatten().and_then(|fd| self.doorbell(fd));
        Ok((self.descriptors(descriptors)?, third))
    }

    /// A peer's doorbell, if it is one. One that is not hurts that peer only: it is woken through the broker.
    pub(crate) fn doorbell(&self, fd: OwnedFd) -> Option<OwnedFd> {
        match doorbell::check(&fd) {
            Ok(()) => Some(fd),
            Err(error) => {
                tracing::warn!(topic = %self.topic, %error, "a doorbell is not used");
                None
            }
        }
    }

    pub(crate) fn topic(&self) -> String {
        self.topic.to_string()
    }

    /// Nobody came in time.
    pub(crate) fn timeout(&self, what: &'static str) -> Error {
        Error::Timeout {
            topic: self.topic.to_string(),
            what,
        }
    }

    /// An error of this topic.
    pub(crate) fn wrap(&self, source: bus_core::Error) -> Error {
        let topic = self.topic.to_string();
        match source {
            bus_core::Error::Holding { .. } => Error::Holding { topic, source },
            bus_core::Error::Evicted { .. } => Error::Evicted { topic, source },
            source => Error::Topic { topic, source },
        }
    }

    pub(crate) fn unexpected(&self, event: &Event) -> Error {
        self.broken(bus_core::Error::Control(format!(
            "{event:?} is no answer here"
        )))
    }

    fn broken(&self, error: bus_core::Error) -> Error {
        if matches!(error, bus_core::Error::Closed) {
            return self.host.disconnected();
        }
        self.host.failed(match error {
            bus_core::Error::Timeout => {
                "who listens there did not answer in 5 seconds; it may be stopped, or no broker"
                    .into()
            }
            error => error.to_string(),
        })
    }
}

/// That this process is the one where something was born.
///
/// # Errors
/// [`Error::Forked`] in a fork of it.
pub(crate) fn here(birth: Birth) -> Result<()> {
    if birth.is_here() {
        return Ok(());
    }
    Err(Error::Forked {
        process: birth.process(),
    })
}

fn hung_up(connection: &Connection) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(connection.as_fd(), PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    let events = fds[0].revents().unwrap_or(PollFlags::empty());
    polled.is_ok_and(|n| n > 0) && events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)
}
