//! One handle's membership: what it says to brokers and hears from them, from opening to the end.
//!
//! Promises: while a broker lives, every event up to a version that was seen comes; while none does, the kernel is asked directly whether peers
//! live, and its [keeper](crate::keeper) looks for the next. Dropping it is leaving.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::{self, Doorbell};
use bus_core::control::{Event, Request, Role, Trust, pidfd_alive};
use bus_core::fork::Birth;
use bus_core::schema::Schema;
use bus_core::wake::Relay;
use bus_core::{TopicName, TopicSettings};

use crate::host::Host;
use crate::line::{Line, Part, Silence, Standing, Told};
use crate::{Error, Result, TopicBuilder};

/// How long the broker may take for an answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// For how long places stay that are kept for who is to come, while there is no broker that could send them.
const PLACES: Duration = Duration::from_secs(5);

/// Why there must be a broker when a handle is to be waited for by its descriptor for the first time.
pub(crate) const NEEDED: &str = "it has to tell others how to wake this handle";

/// Someone else on the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// A number that no other handle has or had, also at brokers before and after this one.
    pub id: u64,
    /// The name under which its process connected.
    pub client: String,
    /// Its process; 0 if that is not visible from here.
    pub pid: u32,
    /// The user of its process, as the broker sees it: a number as in `id -u`.
    pub user: u32,
    /// Of a publisher: how its messages are read. [`Trust::InPlace`] for processes of this user, and where the policy says so;
    /// [`Trust::Copy`] for those of other users. None of a subscriber.
    pub trust: Option<Trust>,
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

/// A handle's membership.
pub(crate) struct Member {
    line: Arc<Line>,
    topic: TopicName,
    /// How the keeper knows it; none before it has joined.
    kept: OnceLock<u64>,
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
        if !self.is_here() {
            return;
        }
        match self.kept.get() {
            Some(kept) => self.host.keeper().let_go(*kept, &self.line),
            // It gave up while it joined: where its broker went, the next one may know of it.
            None => {
                if !self.line.close()
                    && self.line.has_standing()
                    && let Some(id) = self.line.id()
                {
                    self.host.keeper().forget(id);
                }
            }
        }
    }
}

impl Relay for Member {
    fn relay(&self) {
        // What a broker that is gone does not pass on, the next one makes up for: it wakes everybody when this handle is back.
        if self.is_here() {
            let (_, connection) = self.line.connection();
            let _ = connection.try_send(&Request::Wake, &[]);
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
    /// Opens the topic, or creates it. Waits until `deadline` for a broker.
    pub(crate) fn open(
        builder: &TopicBuilder,
        role: Role,
        schema: &Schema,
        deadline: Instant,
    ) -> Result<(Self, Opened)> {
        schema.check().map_err(Error::Argument)?;
        let host = builder.bus.host.clone();
        let topic = builder.topic.clone();
        let part = Part::Member {
            role,
            topic: topic.clone(),
        };
        let member = Self {
            line: Line::new(host.reconnect(deadline)?, part, schema.clone()),
            topic,
            kept: OnceLock::new(),
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
                member.line.set_id(id);
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

    /// Takes part, as this. Events up to [`Event::Joined`] follow.
    pub(crate) fn join(&self, standing: Standing) -> Result<()> {
        let segment = Arc::clone(&standing.segment);
        self.line.set_standing(standing);
        self.ask(&Request::Join, &[segment.as_fd()])
    }

    /// It has joined: from now on it goes from broker to broker.
    pub(crate) fn keep(&self) -> Result<()> {
        let kept = self.host.keeper().keep(&self.line);
        let _ = self.kept.set(kept.map_err(|e| self.wrap(e))?);
        Ok(())
    }

    /// Lets this handle park at `doorbell`. Events up to [`Event::Notified`] follow, or [`Told::Resumed`] with as much.
    pub(crate) fn notify(&self, doorbell: &Arc<Doorbell>) -> Result<()> {
        self.line.notify(doorbell).map_err(|e| self.wrap(e))
    }

    fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        match self.line.send(request, descriptors) {
            // The broker has closed; why, it said before.
            Err(bus_core::Error::Closed) => match self.answer() {
                Ok((event, _)) => Err(self.unexpected(&event)),
                Err(error) => Err(error),
            },
            sent => sent.map_err(|e| self.broken(e)),
        }
    }

    /// The next event of the conversation in which the handle joins.
    pub(crate) fn answer(&self) -> Result<(Event, Vec<OwnedFd>)> {
        match self.line.next(Instant::now() + ANSWER) {
            Ok(Some(Told::Event {
                event: Event::Refused { why, .. },
                ..
            })) => Err(Error::Refused(why)),
            Ok(Some(Told::Event {
                event, descriptors, ..
            })) => Ok((event, descriptors)),
            Ok(Some(Told::Resumed { .. }) | None) => Err(self.broken(bus_core::Error::Timeout)),
            Err(Silence::Down) => Err(self.host.disconnected()),
            Err(Silence::Over(why)) => Err(Error::Refused(why)),
            Err(Silence::Failed(error)) => Err(self.broken(error)),
        }
    }

    /// What was said already, if anything.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub(crate) fn pending(&self) -> Result<Option<Told>> {
        self.usable()?;
        match self.line.try_next() {
            Ok(told) => self.heard(told),
            Err(Silence::Down) => Ok(None),
            Err(silence) => Err(self.no_use(silence)),
        }
    }

    /// The next thing that is said, waited for while a broker lives: it leads to a version that was seen, so it is on its way. None
    /// where there is no broker, and everything that the last one said was told.
    ///
    /// # Errors
    /// [`Error::Unusable`] where it cannot be taken in, or no broker takes this handle any more, now and from then on.
    pub(crate) fn next(&self) -> Result<Option<Told>> {
        self.usable()?;
        match self.line.next(Instant::now() + ANSWER) {
            Ok(Some(told)) => self.heard(Some(told)),
            // Slow, not dead: the next call asks again.
            Ok(None) => Err(self.broken(bus_core::Error::Timeout)),
            Err(Silence::Down) => Ok(None),
            Err(silence) => Err(self.no_use(silence)),
        }
    }

    /// Who has joined and is refused something hears nothing more.
    fn heard(&self, told: Option<Told>) -> Result<Option<Told>> {
        match told {
            Some(Told::Event {
                event: Event::Refused { why, .. },
                ..
            }) if self.kept.get().is_some() => {
                Err(self.give_up(format!("its broker cut it off: {why}")))
            }
            told => Ok(told),
        }
    }

    /// Waits for a broker, where there is none.
    ///
    /// # Errors
    /// [`Error::Broker`] where none comes in time.
    pub(crate) fn await_broker(&self, why: &str) -> Result<()> {
        match self.line.await_broker(Instant::now() + ANSWER) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.host.failed(why.into())),
            Err(silence) => Err(self.no_use(silence)),
        }
    }

    /// A broker went and took with it what it had to say of somebody who joined: nothing may be written over what that one reads.
    pub(crate) fn give_up_on_peers(&self) -> Error {
        self.give_up("a broker went before it had told of everybody who joined".into())
    }

    fn usable(&self) -> Result<()> {
        self.check_here()?;
        match self.unusable.get() {
            Some(why) => Err(self.refuse(why)),
            None => Ok(()),
        }
    }

    fn no_use(&self, silence: Silence) -> Error {
        self.give_up(match silence {
            Silence::Over(why) => {
                format!("its broker cut it off, or was restarted and does not take it back: {why}")
            }
            Silence::Failed(error) => error.to_string(),
            Silence::Down => "there is no broker".into(),
        })
    }

    /// This process lacks what it takes to take in a peer. Without it, the handle would lose messages, or overwrite what that
    /// peer has not read. What was received before stays valid, so it does not leave by itself.
    pub(crate) fn give_up(&self, why: String) -> Error {
        self.refuse(self.unusable.get_or_init(|| why))
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
        self.line.released(index);
    }

    /// Whether the broker of now is at the other end.
    pub(crate) fn has_broker(&self) -> bool {
        self.line.has_broker()
    }

    /// The number of the topic at the last broker that took this handle back; see [`Line::topic`].
    pub(crate) fn topic_number(&self) -> Option<u64> {
        self.line.topic()
    }

    /// Why no broker takes this handle any more, if so.
    pub(crate) fn fate(&self) -> Option<String> {
        self.line.fate()
    }

    /// Whether there is no broker, as far as is known.
    pub(crate) fn is_down(&self) -> bool {
        self.line.is_down()
    }

    /// Whether there has been no broker for so long that nobody takes a place any more that was kept before.
    pub(crate) fn is_long_down(&self) -> bool {
        self.line.down_for().is_some_and(|time| time >= PLACES)
    }

    /// The broker of now has told of everybody.
    pub(crate) fn caught_up(&self) {
        self.line.caught_up();
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

    /// The button of who may park from now on. None where it is of another user, who is rung through the broker.
    pub(crate) fn button(&self, descriptors: Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
        if descriptors.is_empty() {
            return Ok(None);
        }
        let [button] = self.descriptors(descriptors)?;
        Ok(self.doorbell(button))
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
        if matches!(error, bus_core::Error::Timeout) {
            return self.host.does_not_answer(&self.line.connection().1);
        }
        self.host.failed(error.to_string())
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
