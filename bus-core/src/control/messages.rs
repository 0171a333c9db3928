//! What a client and the broker say to each other. `docs/protocol.md`, *Sessions*, tells the order of it.
//!
//! A process has one connection to the broker for each `Bus`: its *session*. The handles of a session (its
//! publishers, subscribers and watches) are numbers that the client chooses, from 1 up, and never uses again in
//! that session. Every packet names the handle that it is about.
//!
//! A descriptor that belongs to a message travels in the same packet, in the order that the variant's
//! documentation gives. Each variant is a message with a number and an archive of its own (see `wire`): a new
//! one changes no other. A number is never given to another message.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use super::refusal::Refusal;
use super::wire::{self, Addressed, Message, Packet, messages};
use crate::Result;
use crate::schema::Schema;
use crate::settings::{Settings, TopicSettings};

/// What a handle does on its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub enum Role {
    /// It writes a ring of its own.
    Publisher,
    /// It reads the rings of all publishers.
    Subscriber,
}

impl Role {
    /// The role of the handles that this one communicates with.
    pub fn other(self) -> Self {
        match self {
            Self::Publisher => Self::Subscriber,
            Self::Subscriber => Self::Publisher,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publisher => "publisher",
            Self::Subscriber => "subscriber",
        })
    }
}

/// How a subscriber is to read a publisher. The broker decides it from both users and its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize)]
pub enum Trust {
    /// The subscriber copies a message, validates the copy and reads the copy: nothing that the publisher does
    /// later can reach it.
    Copy,
    /// The subscriber validates a message where it lies and reads it there: the publisher is trusted not to
    /// rewrite it meanwhile. This is for processes of one user, and where the policy says so.
    InPlace,
}

impl fmt::Display for Trust {
    /// As the policy writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copy => "copy",
            Self::InPlace => "in-place",
        })
    }
}

/// The secret of a session's owner. The owner's public number follows from it ([`Secret::process`]), so
/// whoever presents the secret to a later broker proves that the number is its own.
#[derive(Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Secret(pub u64, pub u64);

impl Secret {
    /// The public number of the process that has this secret. It stays the same at every broker.
    ///
    /// ```
    /// use bus_core::control::Secret;
    /// assert_eq!(Secret(1, 2).process(), Secret(1, 2).process());
    /// assert_ne!(Secret(1, 2).process(), Secret(2, 1).process());
    /// ```
    pub fn process(self) -> u64 {
        use std::hash::Hasher;
        let mut hasher = siphasher::sip::SipHasher24::new_with_keys(self.0, self.1);
        hasher.write(b"process of a bus");
        hasher.finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A topic that a watch was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Watched {
    /// The watch, as [`Event::Watching`] numbers it.
    pub watch: u64,
    /// The topic, as [`Event::TopicAppeared`] numbers it.
    pub topic: u64,
}

/// A peer that a returning handle knows: of a publisher, a subscriber that it adopted; of a subscriber, a ring
/// that it has not [released](Request::Released).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KnownPeer {
    /// The peer, as [`Event::PublisherJoined`] or [`Event::SubscriberJoined`] numbered it.
    pub id: u64,
    /// The process of the peer.
    pub process: u64,
    /// Of a ring: its index.
    pub index: u16,
    /// The broker has told that the peer left.
    pub left: bool,
    /// The handle can wake the peer at its doorbell.
    pub doorbell: bool,
}

messages! {
    /// What a client asks of the broker.
    pub enum Request in requests {
        /// The first message of a session. Answered by [`Event::Welcome`] or [`Event::Refused`]. The layout of
        /// this message never changes.
        1 => Hello {
            /// The oldest and the newest version of the protocol that the client speaks.
            versions: (u16, u16),
            /// Features that the client knows. The broker refuses a client that lacks a bit of the low half
            /// which the broker needs; bits of the high half are used where both sides know them.
            features: u64,
            /// The name under which the process connects; a [`ClientName`](crate::ClientName).
            client: String,
            /// Proves which process this is.
            secret: Secret,
            /// Handles that the client is about to [reclaim](Request::Reclaim); 0 for a process that was at no
            /// broker before.
            reclaims: u32,
            /// The newest [generation](Event::Welcome) that the client was told of; 0 for none.
            generation: u64,
        },
        /// Opens a topic for a handle, or creates it. Answered by [`Event::Opened`] or [`Event::Refused`].
        2 => Open {
            /// What the handle will do.
            role: Role,
            /// The topic; a [`TopicName`](crate::TopicName).
            topic: String,
            /// The message type.
            schema: Schema,
            /// What the topic should be like; what is left open is taken as it is.
            settings: Settings,
            /// Of a subscriber: messages of each ring that it reads although they were published before it
            /// joined. More than the topic keeps is refused. With any, it is told of retained rings as well.
            history: u32,
            /// Of a subscriber that is opened for a watch: which topic the watch was told of. The subscriber
            /// takes the place that was kept for it.
            watched: Option<Watched>,
        },
        /// The handle is ready. One descriptor: its ring, or its reader segment. Answered by
        /// [`Event::Joined`] or [`Event::Refused`].
        3 => Join {},
        /// The handle is gone. Not answered. Nothing else is said of this handle number.
        4 => Close {},
        /// The subscriber reads this ring no more, and has set its cursor to 0. Sent once for each ring that
        /// the subscriber was told of, at the earliest when the ring was closed or its publisher left.
        5 => Released {
            /// The publisher of the ring.
            ring: u64,
        },
        /// The handle, which has joined, may park from now on: a peer that finds it parked rings its doorbell.
        /// One descriptor: the sending end of the doorbell. Once at most. Answered by
        /// [`Event::DoorbellRegistered`] or [`Event::Refused`].
        6 => RegisterDoorbell {},
        /// A peer on the other side of the topic is parked, or may be, and the handle does not know its
        /// doorbell: the broker rings all doorbells of that side. Not answered.
        7 => Wake {},
        /// The handle is a watch: it is told of the topics that match, and of those to come. Answered by
        /// [`Event::TopicAppeared`] for each that is there, then by [`Event::Watching`]; or by
        /// [`Event::Refused`].
        8 => Watch {
            /// Which topics; a [`Pattern`](crate::Pattern).
            pattern: String,
            /// The message type that its subscribers will ask for.
            schema: Schema,
            /// The watch was at an earlier broker, under this number, and keeps it.
            reclaims: Option<u64>,
        },
        /// The watch opens no subscriber to this topic: no place needs to be kept for it.
        9 => Decline {
            /// The topic, as [`Event::TopicAppeared`] numbers it.
            topic: u64,
        },
        /// About the session: the client has taken this many descriptors out of its socket. The broker sends
        /// only a few descriptors ahead of this.
        10 => Received {
            /// Descriptors since the last message of this kind.
            descriptors: u32,
        },
        /// Descriptors were lost on the way, because the client had no room for them. The broker tells the
        /// handle of all of its peers again, or, for the session, introduces all processes again.
        11 => Retell {},
        /// About the session, before [`Request::Reclaim`]: a process whose handles the client knows. One
        /// descriptor: a pidfd of it.
        12 => PresentProcess {
            /// The process, as [`Event::Process`] numbered it.
            process: u64,
            /// As in [`Event::Process`].
            pid: u32,
            /// As in [`Event::Process`].
            user: u32,
            /// As in [`Event::Process`].
            client: String,
        },
        /// Peers that the handle knows, ahead of its [`Request::Reclaim`]; as often as it takes.
        13 => PresentPeers {
            /// At most [`MAX_PRESENTED`] of them.
            peers: Vec<KnownPeer>,
        },
        /// The handle had joined at a broker that is gone, and goes on with this one under its old number. One
        /// descriptor: its segment, and behind it the sending end of its doorbell if it has registered one.
        /// Answered at once by [`Event::Reclaimed`] or [`Event::Refused`].
        14 => Reclaim {
            /// What the handle does.
            role: Role,
            /// The topic.
            topic: String,
            /// The message type.
            schema: Schema,
            /// What the topic is like, as [`Event::Opened`] said.
            settings: TopicSettings,
            /// The handle, as [`Event::Opened`] numbered it.
            id: u64,
            /// The index of the publisher's ring; 0 for a subscriber.
            index: u16,
            /// The watch for which a subscriber was opened, if it was.
            watch: Option<u64>,
            /// The watch was told that the topic is closed: the subscriber only reads what is there.
            closed: bool,
            /// The [generation](Event::Welcome) of the broker at which a subscriber has joined, or which was the last
            /// to tell a publisher of everybody ([`Event::Joined`], [`Event::Synced`]). A publisher has sent nothing
            /// since without a subscriber that joined there or later. 0 of a subscriber that no broker took any more,
            /// and that may still hold messages: it gives way to every publisher that it never met.
            since: u64,
            /// The last broker had let members of more than one user into the topic. Those may
            /// still map its segments, so that this broker's registry says so as well.
            foreign: bool,
        },
        /// About the session: the client has presented all its handles, and has the new registries of those
        /// that were [reclaimed](Event::Reclaimed) in place. What an earlier broker knew of this process and
        /// was not presented has departed.
        15 => ReclaimComplete {},
        /// About the session, as its only message: the broker is to end, because one that serves this path
        /// for good has come. Only from root or from the broker's own user. Answered by the end of the session.
        16 => Yield {},
        /// About the session, and without a meaning: see `next`.
        #[cfg(feature = "next-build")]
        0x8011 => Remark {},
        /// The same, and may not be ignored.
        #[cfg(feature = "next-build")]
        17 => Demand {},
    }
}

/// Most peers in one [`Request::PresentPeers`].
pub const MAX_PRESENTED: usize = 1024;

messages! {
    /// What the broker tells a client.
    ///
    /// A version is that of the set that the handle watches: of publishers for a subscriber, of subscribers for
    /// a publisher. Versions count from any number and wrap. The broker tells a handle the *difference* between
    /// what it was told and what is true now; [`Event::Synced`] ends a difference. A peer that joined and left
    /// between two differences is not told of, unless a ring of it is still to be read.
    pub enum Event in events {
        /// The session is accepted.
        1 => Welcome {
            /// The version of the protocol that both sides speak from now on.
            version: u16,
            /// The features that both sides know.
            features: u64,
            /// The public number of this process: see [`Secret::process`].
            process: u64,
            /// Brokers of one path have rising generations. A member that missed the newest generation has
            /// missed the members that joined there.
            generation: u64,
        },
        /// The broker refuses what was asked of it. The handle is closed; where the session is refused, the
        /// connection is.
        2 => Refused {
            /// Why, for programs.
            kind: Refusal,
            /// Why, for people: a sentence that names both sides.
            why: String,
        },
        /// The topic is open. One descriptor: its registry. A difference follows for a subscriber.
        3 => Opened {
            /// What the topic is like.
            settings: TopicSettings,
            /// A publisher has decided the settings. Else they are provisional: a subscriber makes its reader segment
            /// [longer](crate::memory::undecided_reader_bytes), and is told by [`Event::Decided`].
            decided: bool,
            /// The index of the publisher's ring; 0 for a subscriber.
            index: u16,
            /// This handle, in what others are told. Never used again, also not by a later broker.
            id: u64,
        },
        /// The handle is a member. It was told of all its peers before.
        4 => Joined {
            /// The version that this leads to.
            version: u32,
        },
        /// The handle was told everything up to this version.
        5 => Synced {
            /// The version that this leads to.
            version: u32,
        },
        /// About the session: a process of which a handle will be told. One descriptor: a pidfd of it.
        6 => Process {
            /// The process: see [`Secret::process`].
            process: u64,
            /// Its number in the broker's pid namespace; 0 if it is not visible from there.
            pid: u32,
            /// Its user, as the broker sees it.
            user: u32,
            /// The name under which it connected.
            client: String,
        },
        /// About the session: no handle is told of this process any more.
        7 => ProcessGone {
            /// The process.
            process: u64,
        },
        /// To a subscriber: a publisher has joined. One descriptor: its ring; a second one if it may park and
        /// is of the same user: the sending end of its doorbell.
        8 => PublisherJoined {
            /// The publisher.
            id: u64,
            /// Its process.
            process: u64,
            /// The index of its ring.
            index: u16,
            /// It has ended already: what is in its ring is all there will be.
            ended: bool,
            /// How the receiver is to read it.
            trust: Trust,
        },
        /// To a subscriber: a publisher that it was told of has left.
        9 => PublisherLeft {
            /// The publisher.
            id: u64,
            /// Its index goes to another publisher: what the subscriber has not read of the ring is lost.
            dropped: bool,
        },
        /// To a publisher: a subscriber has joined. One descriptor: its reader segment; a second one if it may
        /// park and is of the same user: the sending end of its doorbell.
        10 => SubscriberJoined {
            /// The subscriber.
            id: u64,
            /// Its process.
            process: u64,
            /// It is a place that is kept for the subscriber of a watch. It is given up when the broker is
            /// gone, because then the subscriber cannot take it.
            kept: bool,
        },
        /// To a publisher: a subscriber that it was told of has left, and gates nobody.
        11 => SubscriberLeft {
            /// The subscriber.
            id: u64,
        },
        /// A peer that the handle was told of may park from now on. One descriptor: the sending end of its
        /// doorbell; none where the peer is of another user, and is woken through the broker.
        12 => PeerDoorbell {
            /// The peer.
            id: u64,
        },
        /// Every peer can wake the handle at its doorbell, or through the broker.
        13 => DoorbellRegistered {
            /// The version of the set that the handle watches, at this moment.
            version: u32,
        },
        /// To a watch: it was told of all topics that are there; of others it is told when they appear.
        14 => Watching {
            /// The watch. Never used again, also not by a later broker.
            id: u64,
        },
        /// To a watch: a topic that it asked for is there.
        15 => TopicAppeared {
            /// The topic. Never used again, also not for one of the same name or by a later broker.
            id: u64,
            /// Its name.
            topic: String,
            /// It carries another type: what differs, for people.
            differs: Option<String>,
            /// A place is kept for the watch: publishers overwrite nothing until its subscriber has joined, or
            /// the watch has declined.
            kept: bool,
        },
        /// To a watch: a topic is closed, for nothing but watches has it open.
        16 => TopicGone {
            /// The topic.
            id: u64,
        },
        /// The handle is known again. One descriptor: the topic's new registry. The broker takes the handle to
        /// know the peers that it presented; a difference follows.
        17 => Reclaimed {
            /// The version of the set that the handle watches, in the new registry.
            version: u32,
            /// The topic's number, as [`Event::TopicAppeared`] tells it to watches.
            topic: u64,
        },
        /// About the session: the generation is another one now. See [`Event::Welcome`].
        18 => Generation {
            /// The generation.
            generation: u64,
        },
        /// To a subscriber that has the topic open: a publisher has decided what the topic is like. Ahead of that
        /// publisher, and only while the subscriber has no ring of the topic to read. It may come again when that
        /// publisher has left and nothing of it is to be read: then the next publisher decides.
        19 => Decided {
            /// What the topic is like.
            settings: TopicSettings,
        },
        /// About the session, and without a meaning: see `next`. One descriptor, of anything.
        #[cfg(feature = "next-build")]
        0x8014 => Remark {},
        /// The same without a descriptor, and may not be ignored.
        #[cfg(feature = "next-build")]
        20 => Demand {},
    }
}
