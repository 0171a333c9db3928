//! A watch: a handle to which the broker tells of the topics that match a pattern.
//!
//! Promises: each topic is told of once by each broker, and its end after it. A broker that is gone ends nothing: the next one tells of all
//! topics again. Its doorbell is rung with everything that is told.

use std::sync::Arc;
use std::time::Instant;

use bus_core::backend::doorbell::Doorbell;
use bus_core::control::Request;
use bus_core::fork::Birth;
use bus_core::schema::Schema;
use bus_core::{Pattern, TopicName};

use crate::handle::here;
use crate::session::{ANSWER, Next, Part, Session, Signals, Silence, Told};
use crate::{Error, Result};

pub(crate) struct Watch {
    session: Arc<Session>,
    /// Its number in the session.
    handle: u32,
    /// Its number at brokers.
    id: u64,
    signals: Arc<Signals>,
    /// Rung when something was told, or the broker is gone or there again.
    own: Arc<Doorbell>,
    /// The process that watches.
    birth: Birth,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A forked copy ends nothing; and one that lives on in a child keeps no place.
        if self.birth.is_here() {
            self.session.close(self.handle);
        }
    }
}

/// What happened to a topic.
pub(crate) enum Change {
    /// It is there, under this number, and carries another type in the way that is said; whether a place is kept in it.
    Appeared(u64, TopicName, Option<String>, bool),
    /// The one with this number is closed.
    Gone(u64),
    /// Another broker tells of all topics from here on.
    Anew,
    /// It has told of all that were there when it was found.
    Complete,
}

impl Watch {
    /// Begins to watch; also gives what is there already. Waits until `deadline` for a broker.
    pub(crate) fn open(
        session: &Arc<Session>,
        pattern: &Pattern,
        schema: &Schema,
        deadline: Instant,
    ) -> Result<(Self, Vec<Change>)> {
        schema.check().map_err(Error::Argument)?;
        let own = Doorbell::new().map_err(|e| session.failed(e.to_string()))?;
        let own = Arc::new(own);
        let part = Part::Watch {
            pattern: pattern.clone(),
        };
        let (handle, signals) = session.open(part, schema, Some(Arc::clone(&own)), deadline)?;
        let mut watch = Self {
            session: Arc::clone(session),
            handle,
            id: 0,
            signals,
            own,
            birth: Birth::here(),
        };
        let request = Request::Watch {
            pattern: pattern.to_string(),
            schema: schema.clone(),
            reclaims: None,
        };
        session.post(handle, &request);
        let mut there = Vec::new();
        let deadline = Instant::now() + ANSWER;
        loop {
            let moved = session.moved();
            match session.next(handle) {
                Ok(Next::Told(Told::Watching { id })) => {
                    watch.id = id;
                    return Ok((watch, there));
                }
                Ok(Next::Told(Told::Refused { why })) | Err(Silence::Over(why)) => {
                    return Err(Error::Refused(why));
                }
                Ok(Next::Told(told)) => there.push(watch.change(told)?),
                Ok(Next::Nothing { .. }) if Instant::now() < deadline => {
                    session.wait(moved, deadline);
                }
                Ok(Next::Nothing { .. }) => {
                    return Err(session.does_not_answer());
                }
                Err(Silence::Broken(why)) => return Err(session.disconnected(why)),
            }
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The next thing that happened, if anything did.
    ///
    /// # Errors
    /// [`Error::Broker`] where no broker tells it anything any more: of the topics that it has, it goes on to receive.
    pub(crate) fn next(&self) -> Result<Option<Change>> {
        here(self.birth)?;
        match self.session.next(self.handle) {
            Ok(Next::Told(told)) => self.change(told).map(Some),
            Ok(Next::Nothing { .. }) => Ok(None),
            Err(silence) => {
                tracing::debug!(
                    ?silence,
                    "no topic will appear any more; established traffic goes on"
                );
                Ok(None)
            }
        }
    }

    fn change(&self, told: Told) -> Result<Change> {
        match told {
            Told::TopicAppeared {
                id,
                topic,
                differs,
                kept,
            } => {
                let name = TopicName::new(topic).map_err(|e| self.session.failed(e.to_string()))?;
                Ok(Change::Appeared(id, name, differs, kept))
            }
            Told::TopicGone { id } => Ok(Change::Gone(id)),
            Told::Watching { .. } => Ok(Change::Complete),
            Told::Anew => Ok(Change::Anew),
            told => Err(self
                .session
                .failed(format!("{told:?} is nothing for a watch"))),
        }
    }

    /// Tells the broker that no subscriber will take the place that it keeps in a topic.
    pub(crate) fn decline(&self, topic: u64) {
        // One that is gone keeps none.
        self.session.post(self.handle, &Request::Decline { topic });
    }

    /// No broker has it, as far as is known: until one has, no topic appears.
    pub(crate) fn is_down(&self) -> bool {
        self.signals.is_down()
    }

    /// Why no broker will ever tell it of a topic again, if so.
    pub(crate) fn fate(&self) -> Option<String> {
        self.session.fate(self.handle)
    }

    /// The error of whoever waits for what cannot come any more.
    pub(crate) fn nobody_can_come(&self, why: &str) -> Error {
        self.session.failed(format!(
            "{why}; all publishers that were followed are gone as well: open another one"
        ))
    }

    /// What rings when something was told.
    pub(crate) fn own(&self) -> &Doorbell {
        &self.own
    }
}
