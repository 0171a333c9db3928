//! What the broker tells one handle, as the handle takes it out of its queue.
//!
//! Descriptors travel with what they belong to, and are closed where nobody takes them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bus_core::TopicSettings;
use bus_core::control::Trust;
use bus_core::memory::segment::Handed;

use super::processes::Process;

/// One thing that a handle is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// The topic is open.
    Opened {
        settings: TopicSettings,
        /// A publisher has decided the settings.
        decided: bool,
        index: u16,
        id: u64,
        registry: OwnedFd,
    },
    /// To a subscriber: a publisher has decided what the topic is like.
    Decided { settings: TopicSettings },
    /// The handle is a member, and was told everything up to this version.
    Joined { version: u32 },
    /// The handle was told everything up to this version.
    Synced { version: u32 },
    /// A publisher has joined.
    Publisher {
        id: u64,
        process: Arc<Process>,
        index: u16,
        ended: bool,
        trust: Trust,
        ring: Handed,
        button: Option<OwnedFd>,
    },
    /// A publisher has left. Its index goes to another one where it was `dropped`: what is unread is lost.
    PublisherLeft { id: u64, dropped: bool },
    /// So many messages are lost of publishers that came and were dropped before the handle looked.
    Lost { messages: u64 },
    /// A subscriber has joined.
    Subscriber {
        id: u64,
        process: Arc<Process>,
        kept: bool,
        reader: Handed,
        button: Option<OwnedFd>,
    },
    /// A subscriber has left.
    SubscriberLeft { id: u64 },
    /// A peer can be woken with this button.
    Doorbell { id: u64, button: OwnedFd },
    /// All peers can wake the handle.
    DoorbellRegistered,
    /// From here on the next broker speaks.
    Reclaimed {
        /// What the next broker takes the handle to know.
        version: u32,
        /// The handle had not been told of everybody by the last broker: it waits for the next `Synced`.
        behind: bool,
        /// The next broker knows the handle's doorbell.
        registered: bool,
    },
    /// The handle is refused what it asked for, while it was opened.
    Refused { why: String },
    /// To a watch: from here on the next broker tells of all topics, by other numbers.
    Anew,
    /// To a watch: it was told of all topics that were there.
    Watching { id: u64 },
    /// To a watch: a topic is there.
    TopicAppeared {
        id: u64,
        topic: String,
        differs: Option<String>,
        kept: bool,
    },
    /// To a watch: a topic is closed.
    TopicGone { id: u64 },
}

/// Why a handle is told nothing.
#[derive(Debug)]
pub(crate) enum Silence {
    /// The connection over which the handle was being opened is gone: why, if the broker said so.
    Broken(Option<String>),
    /// No broker takes this handle any more: why.
    Over(String),
}

/// What a look into the queue of a handle finds.
#[derive(Debug)]
pub(crate) enum Next {
    /// Something was told.
    Told(Told),
    /// Everything was taken that was told so far.
    Nothing {
        /// The version in the registry of now, of the set that the handle watches; 0 for a watch.
        version: u32,
        /// The handle has no broker now.
        down: bool,
    },
}
