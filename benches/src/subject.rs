//! What is measured, and the one place where a transport is plugged in.
//!
//! A transport is a publisher and a subscriber behind [`Publish`] and [`Receive`].
//! Every measuring loop is generic over them and compiled for each, so that the
//! floors and bus run through the very same code. To add one: implement
//! [`Transport`], add it to [`Subject`], its key and [`perform`]; to measure it
//! by default, name it in [`DEFAULT`].

use crate::bus::Bus;
use crate::coalesced::Coalesced;
use crate::compressed::Compressed;
use crate::floor::epoll::Epoll;
use crate::floor::futex::Futex;
use crate::floor::line::Lines;
use crate::floor::memory::Shared;
use crate::floor::packed::Packed;
use crate::floor::stamped::Stamped;
use crate::handoff;
use crate::job::{Job, Role, Work};
use crate::joins;
use crate::measure;
use crate::outcome::Outcome;
use crate::patience::Patience;
use crate::payload::{Payload, Tally};
use crate::placed;
use crate::select::Select;
use crate::side::{Side, Signal};
use crate::tasks::Tasks;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::path::Path;

/// What is measured against the floors unless the command line names another.
pub const DEFAULT: Option<Subject> = Some(Subject::Bus);

/// Everything that can carry messages here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Subject {
    /// A bounced cache line.
    Lines,
    /// A bare futex.
    Futex,
    /// A bare eventfd in a bare epoll.
    Epoll,
    /// The minimal ring of stamped slots.
    Stamped,
    /// The minimal ring of packed messages.
    Packed,
    /// Bus.
    Bus,
    /// Bus, with a publisher that coalesces messages.
    #[value(skip)]
    Coalesced,
    /// Bus, with compressed payloads.
    #[value(skip)]
    Compressed,
    /// Bus through a selector.
    Select,
    /// Bus in tasks of a tokio runtime.
    Tasks,
}

impl Subject {
    /// The name in front of its figures.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Futex => "futex",
            Self::Stamped => "stamped",
            Self::Packed => "packed",
            Self::Bus => "bus",
            Self::Coalesced => "coalesced",
            Self::Compressed => "compressed",
            Self::Epoll => "epoll",
            Self::Select => "select",
            Self::Tasks => "tasks",
        }
    }

    /// Does it need a broker?
    #[must_use]
    pub fn on_bus(self) -> bool {
        matches!(
            self,
            Self::Bus | Self::Select | Self::Tasks | Self::Coalesced | Self::Compressed
        )
    }

    /// Does it carry one word and nothing else, one message at a time?
    #[must_use]
    pub fn fixed_word(self) -> bool {
        matches!(self, Self::Lines | Self::Futex | Self::Epoll)
    }
}

/// Does one side's work with the side's transport.
///
/// # Errors
/// Whatever the transport or the work reports.
pub fn perform(side: &Side, memory: &'static Shared, signal: &mut Signal) -> Result<Outcome> {
    if let (Work::Join { topics }, Role::Joiner) = (side.job.work, side.role) {
        return joins::perform(side, topics, signal);
    }
    if let Work::Place { wish } = side.job.work {
        return placed::perform(side, wish, signal);
    }
    if side.job.work == Work::HandOver {
        return handoff::perform(side, signal);
    }
    match side.job.subject {
        Subject::Lines => measure::perform::<Lines>(side, memory, signal),
        Subject::Futex => measure::perform::<Futex>(side, memory, signal),
        Subject::Stamped => measure::perform::<Stamped>(side, memory, signal),
        Subject::Packed => measure::perform::<Packed>(side, memory, signal),
        Subject::Epoll => measure::perform::<Epoll>(side, memory, signal),
        Subject::Bus => measure::perform::<Bus>(side, memory, signal),
        Subject::Coalesced => measure::perform::<Coalesced>(side, memory, signal),
        Subject::Compressed => measure::perform::<Compressed>(side, memory, signal),
        Subject::Select => measure::perform::<Select>(side, memory, signal),
        Subject::Tasks => measure::perform::<Tasks>(side, memory, signal),
    }
}

/// A way to carry messages from publishers to subscribers in other processes.
pub trait Transport {
    /// The publisher's end.
    type Publisher: Publish + 'static;
    /// The subscriber's end.
    type Subscriber: Receive;

    /// Opens publisher `place.index` of link `place.link`.
    ///
    /// Called in the publisher's process. All ends of a job are open before the first
    /// message is sent.
    ///
    /// # Errors
    /// The end cannot be opened.
    fn publisher(place: &Place<'_>) -> Result<Self::Publisher>;

    /// Opens subscriber `place.index` of link `place.link`, for all its publishers.
    ///
    /// # Errors
    /// The end cannot be opened.
    fn subscriber(place: &Place<'_>) -> Result<Self::Subscriber>;
}

/// Sends messages.
pub trait Publish {
    /// Sends the next `batch` messages of `payload`, waiting for room; loses none.
    ///
    /// # Errors
    /// The transport failed; the run ends.
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()>;

    /// Sends what it has taken and not yet sent, if it does such a thing.
    ///
    /// # Errors
    /// The transport failed; the run ends.
    #[inline]
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Slots of the ring taken so far, where that is not the number of messages.
    fn slots(&self) -> Option<u64> {
        None
    }
}

/// Receives messages.
pub trait Receive {
    /// Waits for a message, then reads what is there, `limit` messages at most, all
    /// bytes of each, into `tally`, and releases it. Messages that came as one are read together,
    /// also beyond the limit.
    ///
    /// # Errors
    /// The transport failed; the run ends.
    fn receive(&mut self, limit: usize, tally: &mut Tally) -> Result<()>;
}

/// Where an end stands in its job.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The job.
    pub job: &'a Job,
    /// The link: 0 for there, 1 for back.
    pub link: usize,
    /// The number of this publisher, or of this subscriber.
    pub index: usize,
    /// The job's shared memory, for the floors.
    pub memory: &'static Shared,
    /// Where the job's broker listens, if it has one.
    pub socket: Option<&'a Path>,
    /// An inherited eventfd for each link.
    pub eventfds: [RawFd; 2],
    /// A name of this job that no other job on the machine has.
    pub name: &'a str,
}

impl Place<'_> {
    /// How an end that polls waits in this job.
    #[must_use]
    pub fn patience(&self) -> Patience {
        Patience::new(self.job.crowded(), self.job.pauses)
    }
}
