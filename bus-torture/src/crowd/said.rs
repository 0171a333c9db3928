//! What workers and the run say to each other: a line of JSON each.

use serde::{Deserialize, Serialize};

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It has a handle now.
    Joined {
        /// When the opening began.
        opened: u64,
        /// When it was over.
        joined: u64,
        /// How often it was refused for want of a broker, and tried again.
        again: u64,
    },
    /// A publisher has sent all messages below `next`, and began to send the last of them at `began`.
    Sent {
        /// The next one.
        next: u64,
        /// When it began to send the last one.
        began: u64,
    },
    /// As `Sent`, at the end: there will be no more. It is the last word of a handle, and of a reader too (with zeroes).
    Left {
        /// The next one.
        next: u64,
        /// When it began to send the last one.
        began: u64,
        /// Messages of a lossy topic that found no room anywhere.
        nowhere: u64,
        /// Times that a `send` found no room at once.
        full: u64,
    },
    /// A reader got these of a publisher.
    Run(Run),
    /// A reader saw the end of a publisher, and all before it.
    Ended {
        /// As the broker numbers it.
        publisher: u64,
        /// As the run numbers it.
        tag: u32,
        /// The number after all that was received and lost; none where losses cannot be told apart from those of another that ended.
        end: Option<u64>,
    },
    /// A reader was evicted. It checked what it held; it joins again.
    Evicted,
    /// A handle is of no use any more, for this reason. It joins again.
    Unusable {
        /// Why.
        why: String,
    },
    /// How far it is: messages sent, or received.
    At {
        /// Messages.
        at: u64,
        /// Whether this process hosts the broker.
        hosts: bool,
    },
    /// Whom it knows on the other side of its topic.
    Peers {
        /// Their names.
        names: Vec<String>,
    },
    /// The value of a state that a reader sees now, or a writer set last.
    Value {
        /// Its writer, as the run numbers it.
        tag: u32,
        /// Its number.
        number: u64,
    },
    /// Something is not as it should be.
    Wrong {
        /// What.
        what: String,
    },
}

/// Messages of one publisher, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// As the broker numbers it.
    pub publisher: u64,
    /// As the run numbers it.
    pub tag: u32,
    /// The first one.
    pub first: u64,
    /// The number after the last one.
    pub next: u64,
    /// How many of them were lost.
    pub lost: u64,
    /// Bytes of those that came.
    pub bytes: u64,
    /// Longest time between two of them, in nanoseconds.
    pub pause: u64,
}

/// What the run tells a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Say `At`.
    Where,
    /// Say `Peers`.
    Peers,
    /// Say all that there is to say, then `Left`, and end.
    Leave,
}
