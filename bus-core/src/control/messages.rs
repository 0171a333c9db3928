//! What a client and the broker say to each other; the order of it is in `docs/protocol.md`, *Join*.
//!
//! Each handle (a publisher or a subscriber) is one connection, so no message names its handle. A
//! descriptor that belongs to a message travels in the same packet, in the order that the variant's
//! documentation gives.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use crate::schema::Schema;
use crate::settings::{Settings, TopicSettings};

/// What a handle does on its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Role {
    /// It writes a ring of its own.
    Publisher,
    /// It reads the rings of all publishers.
    Subscriber,
}

impl Role {
    /// What those do whom a handle of this role talks to.
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
    /// It copies a message, validates the copy and reads that: nothing that the publisher does later can reach it.
    Copy,
    /// It validates a message where it lies and reads it there: the publisher is trusted not to rewrite it meanwhile. So it is
    /// between processes of one user, and where the policy says so.
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

/// What a client asks of the broker.
#[allow(
    clippy::large_enum_variant,
    reason = "one of them lives at a time, for as long as it takes to send it"
)]
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Request {
    /// The first request of a connection: opens a topic, or creates it. Answered by
    /// [`Event::Opened`] or [`Event::Refused`].
    Open {
        /// The name under which the process connects; a [`ClientName`](crate::ClientName).
        client: String,
        /// What the handle will do.
        role: Role,
        /// The topic; a [`TopicName`](crate::TopicName).
        topic: String,
        /// The message type.
        schema: Schema,
        /// What the topic should be like; what is left open is taken as it is.
        settings: Settings,
        /// Of a subscriber: how many messages of each ring it will read that were published before it joined. More than the topic
        /// keeps is refused. With any, it is told of retained rings as well.
        history: u32,
        /// Of a subscriber that is opened for a watch: which topic it was told of. It takes the place that was kept for it.
        watched: Option<Watched>,
    },
    /// The first and only request of another kind of connection: tells of topics that are there and of those to come. Answered by
    /// [`Event::TopicAppeared`] for each that is there, and then [`Event::Watching`]; or by [`Event::Refused`].
    Watch {
        /// The name under which the process connects; a [`ClientName`](crate::ClientName).
        client: String,
        /// Which topics; a [`Pattern`](crate::Pattern).
        pattern: String,
        /// The message type that its subscribers will ask for.
        schema: Schema,
        /// The broker that it watched at is gone, and this was its number there. The rules of [`Request::Resume`] hold; it keeps the number,
        /// and is told of all topics again, by new numbers.
        resumes: Option<u64>,
    },
    /// The first request of a connection: the handle had joined at a broker that is gone, and goes on with this one under its old number. Its
    /// process is still the one that had joined. One descriptor: its segment, and behind it its doorbell's button if it may park.
    /// Answered at once by [`Event::Resumed`] or [`Event::Refused`].
    ///
    /// Until [`Request::Back`] it is not yet there: a connection that closes before that ends nothing, and the handle may resume again. A
    /// handle that said [`Request::Join`] and lost its broker before [`Event::Joined`] is resumed, or said to have [ended](Request::Ended):
    /// whether the broker had written it down, it cannot know ([`Refusal::Unknown`] means that it had not).
    Resume {
        /// The name under which the process connects; a [`ClientName`](crate::ClientName).
        client: String,
        /// What the handle does.
        role: Role,
        /// The topic; a [`TopicName`](crate::TopicName).
        topic: String,
        /// The message type.
        schema: Schema,
        /// What the topic is like, as [`Event::Opened`] said.
        settings: TopicSettings,
        /// The handle, as [`Event::Opened`] numbered it.
        id: u64,
        /// The index of the publisher's ring; 0 for a subscriber.
        index: u16,
        /// Of a subscriber: bit `i` is set if it follows the ring with index `i` and has not said [`Request::Released`]; 0 for a publisher.
        rings: u64,
    },
    /// The handle that [resumes](Request::Resume) has the new registry in place: from now on others may join. Without descriptors; not answered.
    Back,
    /// On a connection that has nothing open, any number of times: a handle or a watch of this process has ended
    /// while no broker was there, or so shortly before that none may have noticed. A number that is not waited for is passed over. Not answered.
    Ended {
        /// The handle, as [`Event::Opened`] numbered it, or the watch, as [`Event::Watching`] did.
        id: u64,
    },
    /// A watch opens no subscriber to this topic: nobody keeps a place for it any longer.
    Declined {
        /// The topic, as [`Event::TopicAppeared`] numbers it.
        topic: u64,
    },
    /// The second request: the handle is ready. One descriptor: its ring, or its reader segment.
    /// Answered by [`Event::Joined`] or [`Event::Refused`].
    Join,
    /// A subscriber reads the ring with this index no more, and has set its cursor to 0. Sent once for
    /// each [`Event::PublisherJoined`] that was received, at the earliest when the ring was closed or its publisher left; and once for each bit of
    /// [`Event::Resumed`].
    Released {
        /// The ring's index.
        index: u16,
    },
    /// The handle, which has joined, may park from now on: whoever finds it parked rings its doorbell. One descriptor: the doorbell's
    /// button. Once at most. Answered by [`Event::Notified`] or [`Event::Refused`].
    Notify,
    /// Somebody on the other side of the topic is parked, or may be, and this handle has not heard of a doorbell: the
    /// broker is to ring all that it knows of. Not answered.
    Wake,
}

/// A topic that a watch was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Watched {
    /// The watch, as [`Event::Watching`] numbers it.
    pub watch: u64,
    /// The topic, as [`Event::TopicAppeared`] numbers it.
    pub topic: u64,
}

/// Why the broker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// A name breaks the rules.
    BadName,
    /// A setting is outside its limits.
    BadSetting,
    /// The topic has other settings.
    Settings,
    /// The topic carries another type, or the description of the type is not acceptable.
    Schema,
    /// A limit is reached.
    Limit,
    /// A segment is not what it should be.
    Segment,
    /// A request breaks the protocol.
    Protocol,
    /// This user may not.
    NotAllowed,
    /// The topic that a watch was told of is closed by now.
    Gone,
    /// Who resumes comes too late: others have joined meanwhile that it would have had to know. Final.
    Late,
    /// Who resumes is not waited for: no broker has written down a handle of this process with that number, or it is back already. Final.
    Unknown,
    /// The broker itself could not do it.
    Broker,
}

/// What the broker tells a client.
///
/// Versions are those of the set that the receiver watches: publishers for a subscriber, subscribers for a
/// publisher. They count from 0 and wrap.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Event {
    /// The topic is open. One descriptor: its registry.
    Opened {
        /// What the topic is like.
        settings: TopicSettings,
        /// The index of the publisher's ring; 0 for a subscriber.
        index: u16,
        /// This handle, in the events that others get. Never used again, not by a broker that comes after this one either.
        id: u64,
    },
    /// The handle takes part.
    Joined {
        /// Version of the set that the receiver watches, at this moment.
        version: u32,
    },
    /// The handle is known again. One descriptor: the topic's new registry. Ahead of every other event; there follow those that tell of
    /// everybody on the other side who is back, and of those who have gone, as if they joined and left now: their versions go from the one after
    /// `version` to that of the registry.
    ///
    /// So the receiver is told again of those whom it knows, and takes no second look at them, nor at those with whom it has done: a subscriber says
    /// [`Request::Released`] at once for each [`Event::PublisherJoined`] of such a one. Of those who went while no broker was there, and of whom the old one
    /// had said no word to anybody, it asks the kernel and their segments itself, once.
    Resumed {
        /// Version of the set that the receiver watches, without those of whom the next events tell. It is never one that the old broker
        /// has led to.
        version: u32,
        /// Of a subscriber: bit `i` is set if the ring with index `i` goes to nobody before the subscriber has said [`Request::Released`] for it, once.
        /// It says so at once for each that it does not follow now, having read all that the old broker said, and for the others when it has done with them.
        rings: u64,
        /// The topic's number, as [`Event::TopicAppeared`] tells it to watches. One that no topic has where the topic is closed, and the handle
        /// belongs to none. The upper half says which broker it is, as in all numbers.
        topic: u64,
    },
    /// Everybody whom it concerns can wake the handle by its doorbell, or through the broker.
    Notified {
        /// Version of the set that the receiver watches, at this moment.
        version: u32,
    },
    /// The broker refuses, and closes the connection. No other event follows.
    Refused {
        /// Why, for programs.
        kind: Refusal,
        /// Why, for people: a sentence that names both sides.
        why: String,
    },
    /// To a watch: it was told of all topics that are there; of others it will be told when they appear.
    Watching {
        /// The watch. Never used again, not by a broker that comes after this one either.
        id: u64,
    },
    /// To a watch: a topic that it asked for is there.
    TopicAppeared {
        /// The topic. Never used again, not for one of the same name and not by a broker that comes after this one either.
        id: u64,
        /// Its name.
        topic: String,
        /// It carries another type: what differs, for people.
        differs: Option<String>,
        /// A place is kept for the watch: publishers write nothing over until its subscriber has joined, or it has declined. So it is for each
        /// topic that is new and has the watch's type, and for none that was there before the watch or before the broker.
        kept: bool,
    },
    /// To a watch: a topic is closed, for nobody but watches has it open. It may be one that was never told of.
    TopicGone {
        /// The topic.
        id: u64,
    },
    /// To subscribers: a publisher takes part. Two descriptors: its ring, and a pidfd of its process; a third one if it may park and is of
    /// the same user: the button of its doorbell.
    PublisherJoined {
        /// Version of the set of publishers that this leads to.
        version: u32,
        /// The index of its ring.
        index: u16,
        /// The publisher.
        id: u64,
        /// The name of its process.
        client: String,
        /// Its process; 0 if that is not visible from here.
        pid: u32,
        /// It has ended already, and the broker has kept its ring: what is in it is all there will be, and no
        /// [`Event::PublisherLeft`] follows.
        ended: bool,
        /// How the receiver is to read it.
        trust: Trust,
        /// The user of its process, as the broker sees it.
        user: u32,
    },
    /// To subscribers: a publisher is gone. It may name one whose joining was never told, because it left
    /// before the receiver read of it: then only the version matters, and nothing is to be released.
    PublisherLeft {
        /// Version of the set of publishers that this leads to.
        version: u32,
        /// The publisher.
        id: u64,
        /// The index of its ring.
        index: u16,
        /// Its process is gone. Best effort: `false` says nothing.
        exited: bool,
    },
    /// To publishers: a subscriber takes part. Two descriptors: its reader segment, and a pidfd of its process; a third one if it may
    /// park and is of the same user: the button of its doorbell.
    SubscriberJoined {
        /// Version of the set of subscribers that this leads to.
        version: u32,
        /// The subscriber.
        id: u64,
        /// The name of its process.
        client: String,
        /// Its process; 0 if that is not visible from here.
        pid: u32,
        /// It is a place that is kept for a watch. It is given up when the broker is gone, for then nobody can take it.
        kept: bool,
        /// The user of its process, as the broker sees it.
        user: u32,
    },
    /// To publishers: a subscriber is gone and gates nobody. As for [`Event::PublisherLeft`], it may name
    /// one whose joining was never told.
    SubscriberLeft {
        /// Version of the set of subscribers that this leads to.
        version: u32,
        /// The subscriber.
        id: u64,
        /// Its process is gone. Best effort: `false` says nothing.
        exited: bool,
    },
    /// To subscribers: a publisher that has joined may park from now on. One descriptor: the button of its
    /// doorbell, unless that is of another user: then it is rung through the broker. As for
    /// [`Event::PublisherLeft`], it may name one whose joining was never told.
    PublisherNotify {
        /// Version of the set of publishers that this leads to.
        version: u32,
        /// The publisher.
        id: u64,
    },
    /// To publishers: a subscriber that has joined may park from now on. One descriptor: the button of its
    /// doorbell, unless that is of another user: then it is rung through the broker. As for
    /// [`Event::PublisherLeft`], it may name one whose joining was never told.
    SubscriberNotify {
        /// Version of the set of subscribers that this leads to.
        version: u32,
        /// The subscriber.
        id: u64,
    },
}
