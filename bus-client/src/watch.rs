//! A watch: a connection on which the broker tells of the topics that match a pattern.
//!
//! Promises: each topic is told of once by each broker, and its end after it. A broker that is gone ends nothing: the next one tells of all
//! topics again.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bus_core::backend::doorbell::Doorbell;
use bus_core::control::{Connection, Event, Request};
use bus_core::fork::Birth;
use bus_core::schema::Schema;
use bus_core::{Pattern, TopicName};

use crate::host::Host;
use crate::line::{Line, Part, Silence, Told};
use crate::member::{ANSWER, here};
use crate::{Error, Result};

pub(crate) struct Watch {
    line: Arc<Line>,
    /// Rung when the line goes down or moves.
    own: Arc<Doorbell>,
    /// How the keeper knows it.
    kept: OnceLock<u64>,
    /// The process that watches.
    birth: Birth,
    host: Arc<Host>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A forked copy ends nothing; and one that lives on in a child keeps no place.
        if !self.birth.is_here() {
            return;
        }
        match self.kept.get() {
            Some(kept) => self.host.keeper().let_go(*kept, &self.line),
            None => drop(self.line.close()),
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
        host: &Arc<Host>,
        pattern: &Pattern,
        schema: &Schema,
        deadline: Instant,
    ) -> Result<(Self, Vec<Change>)> {
        schema.check().map_err(Error::Argument)?;
        let own = Doorbell::new().map_err(|e| host.failed(e.to_string()))?;
        let part = Part::Watch {
            pattern: pattern.clone(),
        };
        let watch = Self {
            line: Line::new(host.reconnect(deadline)?, part, schema.clone()),
            own: Arc::new(own),
            kept: OnceLock::new(),
            birth: Birth::here(),
            host: Arc::clone(host),
        };
        watch.line.set_doorbell(Arc::clone(&watch.own));
        let request = Request::Watch {
            client: host.client().to_string(),
            pattern: pattern.to_string(),
            schema: schema.clone(),
            resumes: None,
        };
        let sent = watch.line.send(&request, &[]);
        sent.map_err(|e| watch.failed(e))?;
        let mut there = Vec::new();
        loop {
            match watch.line.next(Instant::now() + ANSWER) {
                Ok(Some(Told::Event { event, .. })) => match event {
                    Event::Watching { id } => {
                        watch.line.set_id(id);
                        let kept = host.keeper().keep(&watch.line);
                        let _ = watch.kept.set(kept.map_err(|e| watch.failed(e))?);
                        return Ok((watch, there));
                    }
                    Event::Refused { why, .. } => return Err(Error::Refused(why)),
                    event => there.extend(watch.change(event)?),
                },
                Ok(Some(Told::Resumed { .. }) | None) => {
                    return Err(watch.failed(bus_core::Error::Timeout));
                }
                Err(Silence::Down) => return Err(host.disconnected()),
                Err(Silence::Over(why)) => return Err(Error::Refused(why)),
                Err(Silence::Failed(error)) => return Err(watch.failed(error)),
            }
        }
    }

    fn failed(&self, error: bus_core::Error) -> Error {
        match error {
            bus_core::Error::Closed => self.host.disconnected(),
            bus_core::Error::Timeout => self.host.does_not_answer(&self.line.connection().1),
            error => self.host.failed(error.to_string()),
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> u64 {
        self.line.id().unwrap_or_default()
    }

    /// The next thing that happened, if anything did.
    ///
    /// # Errors
    /// [`Error::Broker`] where no broker tells it anything any more: of the topics that it has, it goes on to receive.
    pub(crate) fn next(&self) -> Result<Option<Change>> {
        here(self.birth)?;
        loop {
            let told = match self.line.try_next() {
                Ok(None) | Err(Silence::Down) => return Ok(None),
                Ok(Some(told)) => told,
                Err(Silence::Over(why)) => return self.over(&why),
                Err(Silence::Failed(error)) => return self.over(&error.to_string()),
            };
            let change = match told {
                Told::Resumed { .. } => Some(Change::Anew),
                Told::Event { event, .. } => self.change(event)?,
            };
            if change.is_some() {
                return Ok(change);
            }
        }
    }

    fn over<T>(&self, why: &str) -> Result<Option<T>> {
        tracing::debug!(
            why,
            "no topic will appear any more; established traffic goes on"
        );
        Ok(None)
    }

    fn change(&self, event: Event) -> Result<Option<Change>> {
        match event {
            Event::TopicAppeared {
                id,
                topic,
                differs,
                kept,
            } => {
                let name = TopicName::new(topic).map_err(|e| self.host.failed(e.to_string()))?;
                Ok(Some(Change::Appeared(id, name, differs, kept)))
            }
            Event::TopicGone { id } => Ok(Some(Change::Gone(id))),
            Event::Watching { .. } => Ok(Some(Change::Complete)),
            // It is its fate.
            Event::Refused { .. } => Ok(None),
            event => Err(self
                .host
                .failed(format!("{event:?} is nothing for a watch"))),
        }
    }

    /// Tells the broker that no subscriber will take the place that it keeps in a topic.
    pub(crate) fn decline(&self, topic: u64) {
        // One that is gone keeps none.
        let _ = self.line.send(&Request::Declined { topic }, &[]);
    }

    /// There is no broker, as far as is known: until there is one, no topic appears.
    pub(crate) fn is_down(&self) -> bool {
        self.line.is_down()
    }

    /// Why no broker will ever tell it of a topic again, if so.
    pub(crate) fn fate(&self) -> Option<String> {
        self.line.fate()
    }

    /// The error of who waits for what cannot come any more.
    pub(crate) fn nobody_can_come(&self, why: &str) -> Error {
        self.host.failed(format!(
            "{why}; all publishers that were followed are gone as well: open another one"
        ))
    }

    /// The connection of now and its number: readable when something happened.
    pub(crate) fn connection(&self) -> (u64, Arc<Connection>) {
        self.line.connection()
    }

    /// What rings when there is another connection, or none.
    pub(crate) fn own(&self) -> &Doorbell {
        &self.own
    }
}
