//! A watch: a connection on which the broker tells of the topics that match a pattern.
//!
//! Promises: each topic is told of once, and its end after it. A broker that is gone ends the watch and nothing else.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::control::{Connection, Event, Request};
use bus_core::fork::Birth;
use bus_core::schema::Schema;
use bus_core::{Pattern, TopicName};

use crate::host::Host;
use crate::member::here;
use crate::{Error, Result};

/// How long the broker may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(crate) struct Watch {
    connection: Connection,
    /// As the broker numbers it.
    id: u64,
    lost: Cell<bool>,
    /// The process that watches.
    birth: Birth,
    host: Arc<Host>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A forked copy ends nothing; and one that lives on in a child keeps no place.
        if self.birth.is_here() {
            self.connection.shut_down();
        }
    }
}

/// What happened to a topic.
pub(crate) enum Change {
    /// It is there, under this number, and carries another type in the way that is said; whether a place is kept in it.
    Appeared(u64, TopicName, Option<String>, bool),
    /// The one with this number is closed.
    Gone(u64),
}

impl Watch {
    /// Begins to watch; also gives what is there already.
    pub(crate) fn open(
        host: &Arc<Host>,
        pattern: &Pattern,
        schema: &Schema,
    ) -> Result<(Self, Vec<Change>)> {
        schema.check().map_err(Error::Argument)?;
        let mut watch = Self {
            connection: host.connect()?,
            id: 0,
            lost: Cell::new(false),
            birth: Birth::here(),
            host: Arc::clone(host),
        };
        let request = Request::Watch {
            client: host.client().to_string(),
            pattern: pattern.to_string(),
            schema: schema.clone(),
            resumes: None,
        };
        let sent = watch.connection.send(&request, &[]);
        sent.map_err(|e| host.failed(e.to_string()))?;
        let mut there = Vec::new();
        loop {
            let deadline = Instant::now() + ANSWER;
            match watch.connection.recv::<Event>(Some(deadline)) {
                Ok((Event::Watching { id }, _)) => {
                    watch.id = id;
                    return Ok((watch, there));
                }
                Ok((Event::Refused { why, .. }, _)) => return Err(Error::Refused(why)),
                Ok((event, _)) => there.push(watch.change(event)?),
                Err(bus_core::Error::Closed) => return Err(host.disconnected()),
                Err(error) => return Err(host.failed(error.to_string())),
            }
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The next thing that happened, if anything did.
    pub(crate) fn next(&self) -> Result<Option<Change>> {
        if self.lost() {
            return here(self.birth).map(|()| None);
        }
        match self.connection.try_recv::<Event>() {
            Ok(None) => Ok(None),
            Ok(Some((event, _))) => self.change(event).map(Some),
            Err(error) => {
                here(self.birth)?;
                self.lose(&error);
                Ok(None)
            }
        }
    }

    fn change(&self, event: Event) -> Result<Change> {
        match event {
            Event::TopicAppeared {
                id,
                topic,
                differs,
                kept,
            } => {
                let name = TopicName::new(topic).map_err(|e| self.host.failed(e.to_string()))?;
                Ok(Change::Appeared(id, name, differs, kept))
            }
            Event::TopicGone { id } => Ok(Change::Gone(id)),
            event => Err(self
                .host
                .failed(format!("{event:?} is nothing for a watch"))),
        }
    }

    /// Tells the broker that no subscriber will take the place that it keeps in a topic.
    pub(crate) fn decline(&self, topic: u64) {
        if let Err(error) = self.connection.send(&Request::Declined { topic }, &[]) {
            self.lose(&error);
        }
    }

    /// The broker is gone, or has cut off who did not read, as far as is known: no topic will appear any more.
    pub(crate) fn lost(&self) -> bool {
        self.lost.get()
    }

    fn lose(&self, error: &bus_core::Error) {
        if !self.lost.replace(true) {
            tracing::warn!(%error, "no topic will appear any more; established traffic goes on");
        }
    }

    /// The error of who waits for what cannot come any more.
    pub(crate) fn nobody_can_come(&self) -> Error {
        self.host.failed(
            "it is gone, and so are all publishers that were followed; open another one".into(),
        )
    }

    /// Readable when something happened, and when the broker is gone.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
