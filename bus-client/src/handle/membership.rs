//! One handle's membership of a topic: what it says to brokers and hears from them, from opening to the end.
//!
//! Promises: while a broker has the handle, every event up to a version that was seen comes; while none has, the kernel is
//! asked directly whether peers live, and the session looks for the next broker. Dropping it is leaving, and waits for
//! nobody.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::Doorbell;
use bus_core::control::{Request, Role};
use bus_core::fork::Birth;
use bus_core::memory::placement::Placement;
use bus_core::schema::Schema;
use bus_core::wake::{Poked, Relay};
use bus_core::{TopicName, TopicSettings};

use super::here;
use crate::session::{ANSWER, Next, Part, Session, Signals, Silence, Standing, Told};
use crate::{Error, Result, TopicBuilder};

/// For how long places stay that are kept for subscribers to come, while there is no broker that could send them.
const PLACES: Duration = Duration::from_secs(5);

/// A handle's membership.
pub(crate) struct Membership {
    session: Arc<Session>,
    /// The handle's number in the session.
    handle: u32,
    signals: Arc<Signals>,
    role: Role,
    topic: TopicName,
    /// Why this handle is of no use any more, if so.
    unusable: OnceLock<String>,
    /// The process that is the member.
    birth: Birth,
}

impl Drop for Membership {
    fn drop(&mut self) {
        // A forked copy of the handle is no member, and ends nothing.
        if self.is_here() {
            self.session.close(self.handle);
        }
    }
}

impl Relay for Membership {
    fn relay(&self) {
        // Without a broker, the sessions of those that are parked ring for them.
        if self.is_here() {
            self.session.post(self.handle, &Request::Wake {});
        }
    }
}

/// What the broker said of a topic at its opening.
pub(crate) struct Opened {
    pub settings: TopicSettings,
    /// A publisher has decided the settings.
    pub decided: bool,
    pub index: u16,
    pub id: u64,
    pub registry: OwnedFd,
}

/// How long a broker may keep a handle waiting.
pub(crate) struct Patience(Instant);

impl Patience {
    pub(crate) fn new() -> Self {
        Self(Instant::now() + ANSWER)
    }

    /// The broker has said something.
    pub(crate) fn renew(&mut self) {
        *self = Self::new();
    }
}

impl Membership {
    /// Opens the topic, or creates it. Waits until `deadline` for a broker.
    pub(crate) fn open(
        builder: &TopicBuilder,
        role: Role,
        schema: &Schema,
        deadline: Instant,
    ) -> Result<(Self, Opened)> {
        schema.check().map_err(Error::Argument)?;
        let session = Arc::clone(&builder.bus.session);
        let topic = builder.topic.clone();
        let watched = builder.place.map(|place| place.watched);
        let part = Part::Member {
            role,
            topic: topic.clone(),
            watched,
            placed: builder.placement != Placement::default(),
        };
        let (handle, signals) = session.open(part, schema, None, deadline)?;
        let membership = Self {
            session,
            handle,
            signals,
            role,
            topic,
            unusable: OnceLock::new(),
            birth: Birth::here(),
        };
        let open = Request::Open {
            role,
            topic: membership.topic.to_string(),
            schema: schema.clone(),
            settings: builder.settings.clone(),
            history: match role {
                Role::Publisher => 0,
                Role::Subscriber => builder.history,
            },
            watched,
        };
        membership.session.post(handle, &open);
        match membership.answer()? {
            Told::Opened {
                settings,
                decided,
                index,
                id,
                registry,
            } => {
                let settings = settings.check().map_err(|e| membership.wrap(e))?;
                let opened = Opened {
                    settings,
                    decided,
                    index,
                    id,
                    registry,
                };
                Ok((membership, opened))
            }
            told => Err(membership.unexpected(&told)),
        }
    }

    /// Takes part, as this. What is told up to [`Told::Joined`] follows.
    pub(crate) fn join(&self, standing: Standing) {
        self.session.join(self.handle, standing);
    }

    /// Lets this handle park at `doorbell`. What is told up to [`Told::DoorbellRegistered`] follows, or
    /// [`Told::Reclaimed`] with as much.
    pub(crate) fn register(&self, doorbell: &Arc<Doorbell>) {
        self.session.register_doorbell(self.handle, doorbell);
    }

    /// The next thing that is told while the handle is opened.
    pub(crate) fn answer(&self) -> Result<Told> {
        let patience = Patience::new();
        loop {
            let moved = self.moved();
            match self.session.next(self.handle) {
                Ok(Next::Told(Told::Refused { why })) | Err(Silence::Over(why)) => {
                    return Err(Error::Refused(why));
                }
                Ok(Next::Told(told)) => return Ok(told),
                Ok(Next::Nothing { .. }) => self.wait(moved, &patience)?,
                Err(Silence::Broken(why)) => return Err(self.session.disconnected(why)),
            }
        }
    }

    /// What was told already, while the handle is opened, if anything was.
    ///
    /// # Errors
    /// As for [`answer`](Self::answer).
    pub(crate) fn answered(&self) -> Result<Option<Told>> {
        match self.session.next(self.handle) {
            Ok(Next::Told(Told::Refused { why })) | Err(Silence::Over(why)) => {
                Err(Error::Refused(why))
            }
            Ok(Next::Told(told)) => Ok(Some(told)),
            Ok(Next::Nothing { .. }) => Ok(None),
            Err(Silence::Broken(why)) => Err(self.session.disconnected(why)),
        }
    }

    /// The next thing that the handle is told, or which version it knows when it has taken everything.
    ///
    /// # Errors
    /// [`Error::Unusable`] where no broker takes this handle any more, now and from then on.
    pub(crate) fn next(&self) -> Result<Next> {
        self.usable()?;
        self.session.next(self.handle).map_err(|silence| {
            self.give_up(match silence {
                Silence::Over(why) => why,
                Silence::Broken(_) => "it was never opened".into(),
            })
        })
    }

    /// To be taken before [`next`](Self::next), for a [`wait`](Self::wait) behind it.
    pub(crate) fn moved(&self) -> Poked<'_> {
        self.session.moved()
    }

    /// Waits until the handle may have been told something.
    ///
    /// # Errors
    /// [`Error::Broker`] where the broker has kept it waiting for too long. The next call goes on.
    pub(crate) fn wait(&self, moved: Poked<'_>, patience: &Patience) -> Result<()> {
        if Instant::now() >= patience.0 {
            return Err(self.broken(bus_core::Error::Timeout));
        }
        self.session.wait(moved, patience.0);
        Ok(())
    }

    /// Waits until the handle may have been told something, or until then.
    pub(crate) fn wait_until(&self, moved: Poked<'_>, until: Instant) {
        self.session.wait(moved, until);
    }

    /// Waits for a broker that has the handle, where none has.
    ///
    /// # Errors
    /// [`Error::Broker`] with `why` where none comes in time.
    pub(crate) fn await_broker(
        &self,
        moved: Poked<'_>,
        patience: &Patience,
        why: &str,
    ) -> Result<()> {
        if Instant::now() >= patience.0 {
            return Err(self.session.failed(why.into()));
        }
        moved.sleep(Some(patience.0));
        Ok(())
    }

    /// What changes when a broker goes or comes, and again and again while none has the handle. To be taken before the
    /// look that precedes a sleep.
    pub(crate) fn news(&self) -> Poked<'_> {
        self.session.news()
    }

    fn usable(&self) -> Result<()> {
        self.check_here()?;
        match self.unusable.get() {
            Some(why) => Err(self.refuse(why)),
            None => Ok(()),
        }
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

    /// Tells the broker that the ring of this publisher is read no more.
    pub(crate) fn released(&self, publisher: u64) {
        self.session.release(self.handle, publisher);
    }

    /// The handle has found out by itself that this peer is gone.
    pub(crate) fn forget_peer(&self, peer: u64) {
        self.session.forget_peer(self.handle, peer, self.role);
    }

    /// The number of the topic at the broker of now, if that is known: for a watch, or because that broker took the
    /// handle back.
    pub(crate) fn topic_number(&self) -> Option<u64> {
        self.session.topic_number(self.handle)
    }

    /// Why no broker takes this handle any more, if so.
    pub(crate) fn fate(&self) -> Option<String> {
        self.session.fate(self.handle)
    }

    /// Whether no broker has the handle, as far as is known.
    pub(crate) fn is_down(&self) -> bool {
        self.signals.is_down()
    }

    /// Whether there has been no broker for so long that nobody takes a place any more that was kept before.
    pub(crate) fn is_long_down(&self) -> bool {
        self.session.down_for().is_some_and(|time| time >= PLACES)
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

    pub(crate) fn unexpected(&self, told: &Told) -> Error {
        self.broken(bus_core::Error::Control(format!(
            "{told:?} is no answer here"
        )))
    }

    fn broken(&self, error: bus_core::Error) -> Error {
        if !matches!(error, bus_core::Error::Timeout) {
            return self.session.failed(error.to_string());
        }
        match self.session.shortage(self.handle) {
            Some(why) => self.session.failed(why),
            None => self.session.does_not_answer(),
        }
    }
}
