//! Starting the processes of a crowd.

use anyhow::Result;

use super::books::Follows;
use super::company::Company;
use super::lie::Lie;
use super::member::Member;
use super::post::Base;
use super::reader::Waits;
use super::topic::{Kind, Topic};
use super::{pattern, reader, sender, states};
use crate::process::Worker;

/// How fast a publisher sends.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Most messages at a time.
    pub burst: u64,
    /// Most microseconds between.
    pub rest: u64,
}

/// As fast as there is room.
pub const FLOOD: Pace = Pace { burst: 32, rest: 0 };

impl Company {
    fn base(&mut self, what: &str, on: &str) -> (u32, Base) {
        self.number += 1;
        let base = Base {
            socket: self.socket().display().to_string(),
            name: format!("{what}/{}/{on}", self.number),
            embedded: self.embedded,
            seed: self.random.u64(..),
        };
        (self.number, base)
    }

    fn admit(&mut self, number: u32, name: String, worker: Worker) -> u32 {
        self.outcome.count("started", 1);
        self.members.insert(number, Member::new(worker, name));
        number
    }

    /// Starts a publisher; its number.
    ///
    /// # Errors
    /// No process can be started.
    pub fn sender(&mut self, topic: &Topic, pace: Pace, lie: Option<Lie>) -> Result<u32> {
        let (number, base) = self.base("sender", &topic.name);
        let name = base.name.clone();
        self.books.publisher(number, topic);
        let given = sender::Given {
            base,
            topic: topic.clone(),
            tag: number,
            burst: pace.burst,
            rest: pace.rest,
            lie,
        };
        let worker = Worker::start(sender::ROLE, &given)?;
        Ok(self.admit(number, name, worker))
    }

    /// Starts a publisher on a topic of its own, of those that begin with this; its number.
    ///
    /// # Errors
    /// No process can be started.
    pub fn lone_sender(&mut self, prefix: &str, kind: Kind, pace: Pace) -> Result<u32> {
        let topic = Topic::new(pattern::topic(prefix, self.number + 1), kind);
        self.sender(&topic, pace, None)
    }

    /// Starts a subscriber; its number.
    ///
    /// # Errors
    /// No process can be started.
    pub fn reader(&mut self, topic: &Topic, lie: Option<Lie>) -> Result<u32> {
        let (number, base) = self.base("reader", &topic.name);
        let name = base.name.clone();
        self.books.reader(number, Follows::Topic(topic.clone()));
        let given = reader::Given {
            base,
            topic: topic.clone(),
            waits: Waits::any(&mut self.random),
            lie,
        };
        let worker = Worker::start(reader::ROLE, &given)?;
        Ok(self.admit(number, name, worker))
    }

    /// Starts a subscriber to all topics that begin with this; its number. `whole` where no broker goes meanwhile.
    ///
    /// # Errors
    /// No process can be started.
    pub fn pattern(&mut self, prefix: &str, whole: bool) -> Result<u32> {
        let (number, base) = self.base("pattern", prefix);
        let name = base.name.clone();
        let follows = Follows::Prefix {
            prefix: format!("{prefix}/"),
            whole,
        };
        self.books.reader(number, follows);
        let given = pattern::Given {
            base,
            prefix: prefix.to_owned(),
            whole,
            lie: None,
        };
        let worker = Worker::start(pattern::ROLE, &given)?;
        Ok(self.admit(number, name, worker))
    }

    /// Starts a reader or the writer of a state; its number.
    ///
    /// # Errors
    /// No process can be started.
    pub fn state(&mut self, state: &str, writes: bool) -> Result<u32> {
        let role = if writes {
            states::WRITER
        } else {
            states::READER
        };
        let (number, base) = self.base(role, state);
        let name = base.name.clone();
        let given = states::Given {
            base,
            state: state.to_owned(),
            tag: number,
        };
        let worker = Worker::start(role, &given)?;
        Ok(self.admit(number, name, worker))
    }
}
