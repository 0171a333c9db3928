//! Receiving values of one type.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use bus_core::publish::Payload;
use bus_core::receive::{self, Arrival, Received, access};
use rkyv::Archive;

use crate::inlet::Inlet;
use crate::{Error, Peer, PlacementReport, Result, TopicSettings};

/// Receives the messages of type `T` of all publishers of one topic, fairly, in place.
///
/// A [`Received`] borrows the subscriber; several may be held at once and dropped in any order; its publisher waits for
/// none of them until its ring is full. [`hold`](Received::hold) makes one that outlives the handle.
///
/// `Send`, not `Sync`: one thread at a time. Dropping it leaves the topic.
pub struct Subscriber<T: Payload> {
    pub(crate) inlet: Inlet,
    _receives: PhantomData<fn() -> T>,
}

impl<T: Payload> Subscriber<T> {
    pub(crate) fn new(inlet: Inlet) -> Self {
        Self {
            inlet,
            _receives: PhantomData,
        }
    }

    /// The next message; waits for it.
    ///
    /// A signal does not end the wait, also where its handler has no `SA_RESTART`. To end it from a signal handler or
    /// another thread, call [`recv_timeout`](Self::recv_timeout) in a loop that looks at a flag. To end it at once,
    /// wait with a [`Selector`](crate::Selector) for this subscriber and the reading end of a pipe, to which the handler
    /// writes a byte. `docs/delivery.md` shows that.
    ///
    /// # Errors
    /// [`Error::Topic`] where a message is not a valid `T`: it is passed over, and the next call goes on behind it.
    /// [`Error::Ended`] as [`end_with_publishers`](crate::TopicBuilder::end_with_publishers) says.
    #[inline(always)]
    pub fn recv(&self) -> Result<Received<'_, T>> {
        let inlet = &self.inlet;
        inlet.refresh()?;
        let mut waited = None;
        loop {
            if let Some(arrival) = inlet.find() {
                return self.receive(arrival);
            }
            inlet.await_more(None, &mut waited)?;
        }
    }

    /// The next message, if it is there.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    #[inline(always)]
    pub fn try_recv(&self) -> Result<Option<Received<'_, T>>> {
        let inlet = &self.inlet;
        inlet.refresh()?;
        if let Some(arrival) = inlet.find() {
            return self.receive(arrival).map(Some);
        }
        inlet.not_now()?;
        Ok(None)
    }

    /// The next message; none if it does not come within `timeout`.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    #[inline(always)]
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Received<'_, T>>> {
        let inlet = &self.inlet;
        inlet.refresh()?;
        let mut waited = None;
        loop {
            if let Some(arrival) = inlet.find() {
                return self.receive(arrival).map(Some);
            }
            if !inlet.await_more(Some(timeout), &mut waited)? {
                return Ok(None);
            }
        }
    }

    /// The message that was found, as a value.
    #[inline(always)]
    fn receive<'a>(&'a self, arrival: Arrival<'a>) -> Result<Received<'a, T>> {
        match Received::new(arrival.take()) {
            Ok(received) => Ok(received),
            Err(error) => Err(self.inlet.refused(error)),
        }
    }

    /// Up to `max` messages of one publisher; waits for the first one. They are released together when the batch is dropped.
    ///
    /// Instead of a first message there may be an error: the subscriber holds as many as it may, or was evicted. On a lossy
    /// topic the batch may also be empty, where all that was there lay nowhere. Receive again then.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = bus_client::Bus::private("sums")?;
    /// let numbers = bus.subscriber::<u64>("numbers")?;
    /// bus.publisher::<u64>("numbers")?.publish_batch(&[1, 2, 3])?;
    /// let mut sum = 0;
    /// for number in &numbers.recv_batch(64)? {
    ///     sum += number?.to_native();
    /// }
    /// assert_eq!(sum, 6);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Ended`]; a message that is not valid is an error where it stands in the batch.
    #[inline]
    pub fn recv_batch(&self, max: usize) -> Result<Batch<'_, T>> {
        loop {
            let batch = self.inlet.until(None, |core| Ok(core.poll_batch(max)))?;
            if let Some(batch) = batch {
                return Ok(Batch {
                    batch,
                    inlet: &self.inlet,
                    _receives: PhantomData,
                });
            }
        }
    }

    /// Messages as they come, for ever or until [`Error::Ended`], which ends the iteration.
    pub fn iter(&self) -> Messages<'_, T> {
        Messages { subscriber: self }
    }

    /// The same subscriber, whose waits are futures.
    #[cfg(feature = "tokio")]
    pub fn into_async(self) -> crate::AsyncSubscriber<T> {
        crate::AsyncSubscriber::new(self)
    }

    /// A descriptor that turns readable when there is something to receive, for `epoll`, `poll`, or whatever else waits for
    /// descriptors. It does so only after [`arm`](Self::arm), so that messages cost nothing while nobody waits.
    ///
    /// Wait when `arm` says that there is nothing; then [`disarm`](Self::disarm), and receive until there is nothing. The first call
    /// tells the topic's publishers of the descriptor, through the broker.
    ///
    /// ```
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = bus_client::Bus::private("loop")?;
    /// let ticks = bus.subscriber::<u64>("ticks")?;
    /// # let mut feed = bus.publisher::<u64>("ticks")?;
    /// # std::thread::spawn(move || feed.send(&7));
    /// 'wait: loop {
    ///     if ticks.arm()? {
    ///         let mut descriptors = [PollFd::new(ticks.poll_fd()?, PollFlags::POLLIN)];
    ///         poll(&mut descriptors, PollTimeout::NONE)?;
    ///     }
    ///     ticks.disarm();
    ///     while let Some(tick) = ticks.try_recv()? {
    ///         println!("{tick:?}");
    /// #       break 'wait;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Topic`] where there is no descriptor left; [`Error::Broker`] where no broker is there for 5 seconds at the first call.
    pub fn poll_fd(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.inlet.own()?.as_fd())
    }

    /// From now on [`poll_fd`](Self::poll_fd) turns readable when there is something, once. False where there is something already: receive it
    /// first.
    ///
    /// # Errors
    /// As for [`poll_fd`](Self::poll_fd) and [`try_recv`](Self::try_recv).
    pub fn arm(&self) -> Result<bool> {
        self.inlet.arm()
    }

    /// Undoes [`arm`](Self::arm): [`poll_fd`](Self::poll_fd) is not readable any more. A call that is left out costs some publisher a
    /// system call, and nothing else.
    pub fn disarm(&self) {
        self.inlet.disarm();
    }

    /// Waits until at least `count` publishers are there at once, or the time is over. One that came and left does not count, though
    /// its messages are there to be read.
    ///
    /// # Errors
    /// [`Error::Timeout`]. While there is no broker none can come, but another broker may: that is no error.
    pub fn wait_for_publishers(&self, count: usize, timeout: Option<Duration>) -> Result<()> {
        self.inlet.wait_for_publishers(count, timeout)
    }

    /// The publishers followed now.
    ///
    /// # Errors
    /// [`Error::Broker`] where the broker breaks the protocol.
    pub fn publishers(&self) -> Result<Vec<Peer>> {
        self.inlet.publishers()
    }

    /// Messages lost since this subscriber joined: each was there to receive, and its publisher went past it. 0 but on a lossy topic.
    ///
    /// What each message says it lost adds up to this, but for losses after the last one received.
    pub fn lost(&self) -> u64 {
        self.inlet.core.lost()
    }

    /// What became of what was asked of its memory: its own, and that of the rings that it has followed; see
    /// [`TopicBuilder::huge_pages`](crate::TopicBuilder::huge_pages).
    pub fn placement(&self) -> PlacementReport {
        self.inlet.placement()
    }

    /// What the topic is like. Until the first publisher has decided it, and this subscriber has looked for messages
    /// since, that is what the subscribers asked for.
    pub fn settings(&self) -> TopicSettings {
        self.inlet.settings()
    }

    /// The publisher that a message names, while its ring is followed.
    pub fn peer(&self, publisher: u64) -> Option<Peer> {
        self.inlet.peer(publisher)
    }
}

/// Messages of one publisher that are released together.
pub struct Batch<'a, T> {
    batch: receive::Batch<'a>,
    inlet: &'a Inlet,
    _receives: PhantomData<fn() -> T>,
}

impl<T: Payload> Batch<'_, T> {
    /// Who published all of them.
    pub fn publisher(&self) -> u64 {
        self.batch.publisher()
    }

    /// The sequence number of its first message; the others follow it without a gap.
    pub fn sequence(&self) -> u64 {
        self.batch.sequence()
    }

    /// How many messages of its publisher were lost right before the first one; 0 but on a lossy topic, and until that was received.
    pub fn lost(&self) -> u64 {
        self.batch.lost()
    }
}

impl<'b, T: Payload> IntoIterator for &'b Batch<'_, T> {
    type Item = Result<&'b T::Archived>;
    type IntoIter = BatchIter<'b, T>;

    fn into_iter(self) -> BatchIter<'b, T> {
        BatchIter {
            batch: &self.batch,
            inlet: self.inlet,
            _receives: PhantomData,
        }
    }
}

/// The messages of a [`Batch`], in order. Each is given once, by whichever iterator asks first.
pub struct BatchIter<'b, T> {
    batch: &'b receive::Batch<'b>,
    inlet: &'b Inlet,
    _receives: PhantomData<fn() -> T>,
}

impl<'b, T: Payload> Iterator for BatchIter<'b, T> {
    type Item = Result<&'b <T as Archive>::Archived>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let message = self.batch.next()?;
        let value = message.and_then(|(sequence, bytes)| access::<T>(bytes, sequence));
        Some(value.map_err(|e| self.inlet.wrap(e)))
    }
}

/// Messages as they come.
pub struct Messages<'a, T: Payload> {
    subscriber: &'a Subscriber<T>,
}

impl<'a, T: Payload> Iterator for Messages<'a, T> {
    type Item = Result<Received<'a, T>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.subscriber.recv() {
            Err(Error::Ended { .. }) => None,
            message => Some(message),
        }
    }
}

impl<'a, T: Payload> IntoIterator for &'a Subscriber<T> {
    type Item = Result<Received<'a, T>>;
    type IntoIter = Messages<'a, T>;

    fn into_iter(self) -> Messages<'a, T> {
        self.iter()
    }
}
