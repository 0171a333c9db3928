//! Receiving from all topics that match a pattern.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use bus_core::Pattern;
use bus_core::publish::Payload;
use bus_core::receive::{self, Message, Received};
use bus_core::schema::Schema;

use crate::followed::{Entry, Followed};
use crate::{Bus, Peer, Result, SkippedTopic};

/// Receives the messages of type `T` of all topics that match a pattern, fairly, in place; also of topics to come.
///
/// What is promised for a topic that appears later: **nothing is missed**. From the moment of its creation a place is kept in it for
/// this subscriber: the publishers do not write over its first messages, and a publisher that has ended before this subscriber came leaves its ring
/// for it. It takes the place at its next call. Until then it is, to publishers, a subscriber that does not read: on a topic whose publishers wait,
/// they wait for it when their rings are full; lossy and evicting topics go past it, and then the first message that comes
/// has a sequence number above 0. Two bounds: the broker keeps what is owed in at most 256 topics that nobody else has open, so who stays away
/// for longer loses the oldest of them; and a place
/// is given up when its broker goes before it was taken: then this subscriber gets what is published after it came to the next broker. A broker that
/// is told to stop waits up to one second for places in topics with messages to be taken.
///
/// Of a topic that was there before, it receives what is published after this subscriber was opened.
///
/// A topic that nobody has open but subscribers like this one is closed; its messages are still received, and then it is let go of. Each topic takes a
/// connection of its own to the broker, which has 4096 of them. Messages of several topics come in no order among each other.
///
/// `Send`, not `Sync`. A message borrows the subscriber: one at a time, unless it is [held](Received::hold).
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = bus_client::Bus::private("view")?;
/// let mut prices = bus.pattern_subscriber::<f64>("market/*")?;
/// // Later, in any process:
/// bus.publisher::<f64>("market/xetr")?.send(&99.5)?;
/// let price = prices.recv()?;
/// assert_eq!((price.topic(), price.to_native()), ("market/xetr", 99.5));
/// # Ok(()) }
/// ```
pub struct PatternSubscriber<T: Payload> {
    all: Followed,
    _receives: PhantomData<fn() -> T>,
}

/// Receives raw bytes of all topics that match a pattern. In all else like [`PatternSubscriber`].
pub struct PatternBytesSubscriber {
    all: Followed,
}

/// A message, and the topic that it comes from. It is the message in all else.
pub struct TopicMessage<'a, M> {
    topic: &'a Entry,
    message: M,
}

impl<'a, M> TopicMessage<'a, M> {
    fn new((topic, message): (&'a Entry, M)) -> Self {
        Self { topic, message }
    }

    /// The name of its topic.
    pub fn topic(&self) -> &'a str {
        self.topic.name.as_str()
    }

    /// The publisher of that topic that a message names, while its ring is followed.
    pub fn peer(&self, publisher: u64) -> Option<Peer> {
        self.topic.inlet.peer(publisher)
    }

    /// The message alone.
    pub fn into_message(self) -> M {
        self.message
    }
}

impl<M> Deref for TopicMessage<'_, M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.message
    }
}

impl<M: fmt::Debug> fmt::Debug for TopicMessage<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.topic(), self.message)
    }
}

impl<T: Payload> PatternSubscriber<T> {
    pub(crate) fn open(bus: &Bus, pattern: impl Into<String>) -> Result<Self> {
        let pattern = Pattern::new(pattern)?;
        let all = Followed::open(bus, &pattern, Schema::of::<T>())?;
        Ok(Self {
            all,
            _receives: PhantomData,
        })
    }

    /// The next message of any topic; waits for it.
    ///
    /// # Errors
    /// [`Error::Topic`](crate::Error::Topic) where a message is not a valid `T`: it is passed over, and the next call goes on behind it.
    /// [`Error::Unusable`](crate::Error::Unusable), or `Topic` with an eviction, where one topic gives nothing more: it is
    /// [skipped](Self::skipped) from then on, and the next call goes on with the others. [`Error::Broker`](crate::Error::Broker)
    /// where no broker tells this subscriber of topics any more, and all publishers that it followed have ended.
    pub fn recv(&mut self) -> Result<TopicMessage<'_, Received<'_, T>>> {
        let all = self.all.tidy();
        loop {
            if let Some(found) = all.until(None, Self::look)? {
                return Ok(TopicMessage::new(found));
            }
        }
    }

    /// The next message of any topic, if there is one.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<TopicMessage<'_, Received<'_, T>>>> {
        let found = self.all.tidy().once(Self::look)?;
        Ok(found.map(TopicMessage::new))
    }

    /// The next message of any topic; none if it does not come within `timeout`.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    pub fn recv_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<TopicMessage<'_, Received<'_, T>>>> {
        let found = self.all.tidy().until(Some(timeout), Self::look)?;
        Ok(found.map(TopicMessage::new))
    }

    fn look(core: &receive::Subscriber) -> bus_core::Result<Option<Received<'_, T>>> {
        core.poll()?.map(Received::new).transpose()
    }

    /// The names of the topics that it follows now, sorted.
    ///
    /// # Errors
    /// [`Error::Broker`](crate::Error::Broker) where the broker breaks the protocol.
    pub fn topics(&mut self) -> Result<Vec<String>> {
        self.all.names()
    }

    /// The publishers that it follows now, each with the name of its topic.
    ///
    /// # Errors
    /// As for [`topics`](Self::topics).
    pub fn publishers(&mut self) -> Result<Vec<(String, Peer)>> {
        self.all.publishers()
    }

    /// Whether topics can appear now, as far as is known: not while there is no broker, and no more where one has cut this subscriber off because
    /// 4096 events waited for it. What it follows goes on.
    pub fn watches(&self) -> bool {
        self.all.watches()
    }

    /// The topics that match and are not followed, each with the reason: another type, for instance. The last 256 topics of which it lost
    /// messages because it did not look for too long, or had no memory for them, stay here when they are gone.
    ///
    /// # Errors
    /// As for [`topics`](Self::topics).
    pub fn skipped(&mut self) -> Result<Vec<SkippedTopic>> {
        self.all.skipped()
    }
}

impl PatternBytesSubscriber {
    pub(crate) fn open(bus: &Bus, pattern: impl Into<String>) -> Result<Self> {
        let pattern = Pattern::new(pattern)?;
        let all = Followed::open(bus, &pattern, Schema::bytes())?;
        Ok(Self { all })
    }

    /// The next message of any topic; waits for it.
    ///
    /// # Errors
    /// As for [`PatternSubscriber::recv`].
    pub fn recv(&mut self) -> Result<TopicMessage<'_, Message<'_>>> {
        let all = self.all.tidy();
        loop {
            if let Some(found) = all.until(None, receive::Subscriber::poll)? {
                return Ok(TopicMessage::new(found));
            }
        }
    }

    /// The next message of any topic, if there is one.
    ///
    /// # Errors
    /// As for [`PatternSubscriber::recv`].
    pub fn try_recv(&mut self) -> Result<Option<TopicMessage<'_, Message<'_>>>> {
        let found = self.all.tidy().once(receive::Subscriber::poll)?;
        Ok(found.map(TopicMessage::new))
    }

    /// The next message of any topic; none if it does not come within `timeout`.
    ///
    /// # Errors
    /// As for [`PatternSubscriber::recv`].
    pub fn recv_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<TopicMessage<'_, Message<'_>>>> {
        let found = self
            .all
            .tidy()
            .until(Some(timeout), receive::Subscriber::poll)?;
        Ok(found.map(TopicMessage::new))
    }

    /// The names of the topics that it follows now, sorted.
    ///
    /// # Errors
    /// As for [`PatternSubscriber::topics`].
    pub fn topics(&mut self) -> Result<Vec<String>> {
        self.all.names()
    }

    /// The publishers that it follows now, each with the name of its topic.
    ///
    /// # Errors
    /// As for [`topics`](PatternSubscriber::topics).
    pub fn publishers(&mut self) -> Result<Vec<(String, Peer)>> {
        self.all.publishers()
    }

    /// Whether topics can still appear; see [`PatternSubscriber::watches`].
    pub fn watches(&self) -> bool {
        self.all.watches()
    }

    /// The topics that match and are not followed, each with the reason.
    ///
    /// # Errors
    /// As for [`PatternSubscriber::topics`].
    pub fn skipped(&mut self) -> Result<Vec<SkippedTopic>> {
        self.all.skipped()
    }
}
