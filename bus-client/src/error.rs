//! The one error of this crate: what failed, on which topic or at which path, and what to do.

use std::path::PathBuf;

/// What can go wrong for a user of the bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name or a setting is not acceptable.
    #[error(transparent)]
    Argument(#[from] bus_core::Error),

    /// The broker cannot be reached, or could not be started here.
    #[error("no broker at {}: {why}", path.display())]
    Broker {
        /// The path of its socket.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },

    /// Who listens at the broker's path closed the connection while a handle was opened.
    #[error(
        "the broker at {} closed the connection while a handle was opened: it has just stopped, or is no broker; try again",
        path.display()
    )]
    Disconnected {
        /// The path of its socket.
        path: PathBuf,
    },

    /// It belongs to another process, of which this one is a fork: neither it nor the topic has changed. A child of `fork` connects anew, and opens handles
    /// of its own.
    #[error(
        "this belongs to process {process}, of which this one is a fork; call Bus::connect here, and open another one"
    )]
    Forked {
        /// The process.
        process: u32,
    },

    /// The broker refuses what was asked for.
    #[error("refused: {0}")]
    Refused(String),

    /// Something on a topic failed.
    #[error("topic {topic}: {source}")]
    Topic {
        /// The topic.
        topic: String,
        /// What failed.
        source: bus_core::Error,
    },

    /// The handle could not take in a peer that it must know. It sends and receives nothing more, so that nothing is lost unseen.
    #[error(
        "topic {topic}: this handle is of no use any more: {why}; drop it and open another one"
    )]
    Unusable {
        /// The topic.
        topic: String,
        /// Why.
        why: String,
    },

    /// There is no room now: a subscriber has not read what would be overwritten.
    #[error("topic {topic} is full: {slowest}; {advice}, and a larger {room} takes longer bursts")]
    Full {
        /// The topic.
        topic: String,
        /// Who is furthest behind, and how far.
        slowest: String,
        /// What else there is to do.
        advice: &'static str,
        /// The setting of the topic that makes more room: depth, or arena.
        room: &'static str,
    },

    /// This subscriber holds as many messages of a publisher as the topic lets it.
    #[error("topic {topic}: {source}")]
    Holding {
        /// The topic.
        topic: String,
        /// Of which publisher, who holds them, and since when.
        source: bus_core::Error,
    },

    /// A publisher waited for this subscriber as long as the topic says, and then went past it. What is held stays readable; this
    /// handle receives nothing more from that publisher.
    #[error("topic {topic}: {source}")]
    Evicted {
        /// The topic.
        topic: String,
        /// By which publisher.
        source: bus_core::Error,
    },

    /// There was no room, no message, or nobody there in the time allowed.
    #[error("topic {topic}: timed out waiting for {what}")]
    Timeout {
        /// The topic.
        topic: String,
        /// What did not come.
        what: &'static str,
    },

    /// Every publisher that this subscriber followed has ended.
    ///
    /// Only where [`end_with_publishers`](crate::TopicBuilder::end_with_publishers) was asked for.
    #[error("topic {topic}: all its publishers have ended")]
    Ended {
        /// The topic.
        topic: String,
    },

    /// A thread cannot be kept on a processor.
    #[error("cannot keep this thread on processor {cpu}: {why}")]
    Processor {
        /// The processor asked for.
        cpu: usize,
        /// Why, and which there are.
        why: String,
    },

    /// A keyed state has as many keys as it takes. All values stay what they were.
    #[error(
        "state {topic} has {keys} keys, as many as it takes; remove some, or open reader and writer with more keys"
    )]
    Keys {
        /// The state.
        topic: String,
        /// Keys that it takes.
        keys: usize,
    },

    /// The kernel refuses something that a selector is made of.
    #[error("a selector cannot {what}: {source}")]
    Selector {
        /// What it was about to do.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },

    /// A type cannot be built in place, because zeroes are no value of it.
    #[error("{kind} cannot be built in place, for zeroes are no value of it; use send()")]
    NoLoan {
        /// The message type.
        kind: &'static str,
    },
}

impl Error {
    pub(crate) fn selector(what: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self::Selector {
            what,
            source: source.into(),
        }
    }
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
