//! The one error of this crate. Each message says what failed, where, and what to do about it.

use std::io;

/// What can go wrong below the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name breaks the rules of [`TopicName`](crate::TopicName).
    #[error(
        "bad name {name:?}: {why}; a name is 1 to 127 bytes of [a-z0-9_.-] in non-empty parts separated by '/'"
    )]
    Name {
        /// The name as given, shortened.
        name: String,
        /// Which rule it breaks.
        why: String,
    },

    /// A pattern breaks the rules of [`Pattern`](crate::Pattern).
    #[error(
        "bad pattern {pattern:?}: {why}; a pattern is a name of up to 127 bytes in which a part may be '*', for any one part, or '**', for any number of them"
    )]
    Pattern {
        /// The pattern as given, shortened.
        pattern: String,
        /// Which rule it breaks.
        why: String,
    },

    /// A setting is outside its limits.
    #[error("bad setting {setting}: {value} is not allowed; use {allowed}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What was asked for.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
    },

    /// Memory was asked for on a NUMA node that is not there.
    #[error("there is no NUMA node {node}; this machine has {nodes}")]
    Node {
        /// The node asked for.
        node: u32,
        /// Those that are there, as the kernel lists them.
        nodes: String,
    },

    /// A payload is longer than the topic allows. The ring is as it was.
    #[error(
        "message of {len} bytes is too large: this topic takes up to {limit} bytes; create the topic with a larger max_payload"
    )]
    TooLarge {
        /// Bytes that the message needs.
        len: usize,
        /// Bytes that the topic takes.
        limit: usize,
    },

    /// The messages that a publisher keeps for subscribers to come leave no room for another one. Nothing was
    /// published, and waiting does not help. Only where the arena holds fewer than the messages kept of the
    /// longest payload.
    #[error(
        "no room for the message: the messages that the topic keeps for later subscribers (up to {keep}) take the publisher's arena of {arena} bytes; create the topic with a larger arena or a smaller keep, or set max_payload to the longest message, which makes an arena that is never too small"
    )]
    Kept {
        /// Messages that the topic keeps, at most.
        keep: u32,
        /// Bytes of the publisher's arena.
        arena: u64,
    },

    /// A value could not be serialised, for another reason than its size.
    #[error("cannot serialise the message: {0}")]
    Serialise(String),

    /// A type is outside the limits of what a topic carries.
    #[error("a topic cannot carry this type: {0}")]
    Type(String),

    /// A value nests deeper than subscribers follow. Nothing was published.
    #[error(
        "cannot send the message: it nests deeper than {limit} levels; a container inside a container is one level (Box, Vec, String, maps); send a flat form, such as a Vec of nodes that name each other by index"
    )]
    TooDeep {
        /// Levels that a message may have.
        limit: usize,
    },

    /// A received message does not hold what its type promises.
    #[error("message {sequence} is not valid: {why}; its publisher is faulty or hostile")]
    Corrupt {
        /// Its sequence number.
        sequence: u64,
        /// What is wrong with it.
        why: String,
    },

    /// A subscriber holds as many messages of a publisher as the topic lets it. Nothing is lost: what comes next stays where it is, on a
    /// lossless topic.
    #[error(
        "this subscriber holds {held} messages of publisher {publisher}, as many as the topic allows: {who}; drop some of them, or create the topic with a larger held"
    )]
    Holding {
        /// The publisher.
        publisher: u64,
        /// Messages held of it.
        held: u64,
        /// Who holds them, since when.
        who: String,
    },

    /// There is no memory for a copy of a message of a publisher that is not [trusted](crate::control::Trust) to leave it as it is. Nothing is
    /// lost: the message stays where it is, on a lossless topic.
    #[error(
        "no memory for a copy of a message of {bytes} bytes of publisher {publisher}; free some, or create the topic with a smaller max_payload"
    )]
    NoMemory {
        /// The publisher.
        publisher: u64,
        /// Bytes of the message.
        bytes: usize,
    },

    /// A publisher waited for this subscriber as long as the topic says, and then went past it.
    #[error(
        "publisher {publisher} has evicted this subscriber, which made no progress for as long as the topic allows; what it still holds stays readable; open another subscriber to go on"
    )]
    Evicted {
        /// The publisher.
        publisher: u64,
    },

    /// A segment handed over by a peer is not what it should be.
    #[error("refused a {segment} segment: {why}")]
    Segment {
        /// Which kind of segment.
        segment: &'static str,
        /// What is wrong with it.
        why: String,
    },

    /// There is not enough memory for a segment. Nothing was created.
    #[error(
        "cannot create a {segment} segment of {bytes} bytes: {why}; use a smaller depth or max_payload"
    )]
    OutOfMemory {
        /// Which kind of segment.
        segment: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// What limits it.
        why: String,
    },

    /// The kernel, or a sandbox around this process, lacks a call that the bus is made of.
    #[error(
        "{call} is refused to this process ({source}); bus needs Linux 5.16 or later, and a sandbox that lets the call through"
    )]
    Unsupported {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },

    /// It belongs to another process, of which this one is a fork. Nothing was done.
    #[error(
        "it belongs to process {process}, of which this one is a fork; connect and open another one here"
    )]
    Forked {
        /// The process.
        process: u32,
    },

    /// A control message breaks the protocol.
    #[error("bad control message: {0}")]
    Control(String),

    /// A control message is unknown to this side, and may not be ignored.
    #[error(
        "it is control message {kind}, which versions {} to {} of the protocol do not have; use builds of one version",
        ours.0, ours.1
    )]
    UnknownMessage {
        /// The message's number.
        kind: u16,
        /// The versions that this side speaks.
        ours: (u16, u16),
    },

    /// The peer of a control connection speaks another version of the protocol.
    #[error(
        "the peer speaks control protocol version {theirs}, this side speaks {ours}; update the older one"
    )]
    Version {
        /// The peer's version.
        theirs: u16,
        /// This side's version.
        ours: u16,
    },

    /// This process had no room for the descriptors of a control message, so the message is lost. The broker can be
    /// asked to tell its content again.
    #[error(
        "a control message for handle {handle} is lost: this process has no descriptors left; raise its limit (ulimit -n), or close some"
    )]
    DescriptorsLost {
        /// The handle that the message was about.
        handle: u32,
    },

    /// The other end of a control connection is gone.
    #[error("the control connection was closed by the other side")]
    Closed,

    /// The time allowed is over.
    #[error("timed out")]
    Timeout,

    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// Wraps what the kernel said with what was being done.
    pub fn io(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            source: source.into(),
        }
    }
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
