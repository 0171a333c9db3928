//! Sending values of one type.

use std::iter::Peekable;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use bus_core::publish::Payload;

use crate::outlet::Outlet;
use crate::{Loan, Peer, PlacementReport, Result, Stall, TopicSettings};

/// Sends messages of type `T` on one topic, into a ring of its own.
///
/// `Send`, not `Sync`: one thread at a time. Dropping it ends its ring: subscribers read what is in it, then see its end.
pub struct Publisher<T: Payload> {
    pub(crate) outlet: Outlet,
    _sends: PhantomData<fn(&T)>,
}

impl<T: Payload> Publisher<T> {
    pub(crate) fn new(outlet: Outlet) -> Self {
        Self {
            outlet,
            _sends: PhantomData,
        }
    }

    /// Sends a message; waits as long as a subscriber has not read what would be overwritten. Returns its sequence number.
    ///
    /// With no subscriber it never waits, and nobody receives the message, unless the topic
    /// [keeps](crate::TopicBuilder::keep) it. A publisher that ends before anybody has subscribed says so in the log
    /// (`tracing`, a warning).
    ///
    /// A wait of more than a second is told in the log, with the subscriber that is behind. A thread that sends
    /// on a topic that it subscribes to itself waits for ever once the ring is full: it has to receive in between,
    /// or use [`try_send`](Self::try_send) or [`send_timeout`](Self::send_timeout).
    ///
    /// A signal does not end the wait. To end it from a signal handler or another thread, use
    /// [`send_timeout`](Self::send_timeout) in a loop that looks at a flag.
    ///
    /// # Errors
    /// [`Error::Topic`](crate::Error::Topic) where the message is too large, nests too deep, or cannot be serialised, or where the messages
    /// that the topic [keeps](crate::TopicBuilder::keep) leave no room for it; nothing was sent.
    #[inline]
    pub fn send(&mut self, message: &T) -> Result<u64> {
        self.outlet.until(None, |core| core.try_send(message))
    }

    /// Sends a message if there is room now. Returns its sequence number.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) names the slowest subscriber; else as [`send`](Self::send).
    #[inline]
    pub fn try_send(&mut self, message: &T) -> Result<u64> {
        self.outlet.once(|core| core.try_send(message))
    }

    /// Sends a message; waits for room up to `timeout`. Returns its sequence number.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout) where there was no room in time; else as [`send`](Self::send).
    #[inline]
    pub fn send_timeout(&mut self, message: &T, timeout: Duration) -> Result<u64> {
        self.outlet
            .until(Some(timeout), |core| core.try_send(message))
    }

    /// Sends messages in order, with one look at the room and one at the sleepers for as many as fit at once. Waits for room as
    /// [`send`](Self::send) does. Returns how many were sent.
    ///
    /// Who sleeps is woken when as many as fit were taken from `messages`, or all: do not let that iterator wait for something.
    ///
    /// # Errors
    /// As for [`send`](Self::send). The messages before the one that fails are sent, and those behind it are not; the error does
    /// not say which one failed. To know, use [`try_publish_batch`](Self::try_publish_batch), which leaves it in the iterator.
    pub fn publish_batch<'a>(&mut self, messages: impl IntoIterator<Item = &'a T>) -> Result<u64>
    where
        T: 'a,
    {
        let mut messages = messages.into_iter().peekable();
        self.outlet
            .batch(&mut messages, |batch, message| batch.push(message))
    }

    /// Sends as many of the messages as there is room for now, in order; returns how many. The others stay in the iterator.
    ///
    /// # Errors
    /// As for [`send`](Self::send), but never for want of room. The messages before the one that fails are sent; that one is
    /// the next of the iterator. Take it out before you go on: it would fail again.
    pub fn try_publish_batch<'a>(
        &mut self,
        messages: &mut Peekable<impl Iterator<Item = &'a T>>,
    ) -> Result<u64>
    where
        T: 'a,
    {
        self.outlet
            .try_batch(messages, |batch, message| batch.push(message))
    }

    /// Room for one message, to be built in place: all zeroes at first. For types of a fixed size, with neither strings nor other
    /// pointers in them. Waits for room as [`send`](Self::send) does; dropping the loan sends nothing.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = bus_client::Bus::private("lidar")?;
    /// #[bus_client::message]
    /// struct Scan {
    ///     angle: f32,
    ///     ranges: [f32; 360],
    /// }
    ///
    /// let mut scans = bus.publisher::<Scan>("lidar/scans")?;
    /// let mut scan = scans.loan()?;
    /// scan.angle = 0.5.into();
    /// scan.ranges[7] = 12.25.into();
    /// scan.send();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoLoan`](crate::Error::NoLoan) where zeroes are no value of the type, [`Error::Topic`](crate::Error::Topic) where it
    /// does not fit the topic.
    #[inline]
    pub fn loan(&mut self) -> Result<Loan<'_, T>>
    where
        T::Archived: Unpin,
    {
        Loan::new(self.outlet.loan(Loan::<T>::BYTES, None)?)
    }

    /// As [`loan`](Self::loan), if there is room now.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full); else as [`loan`](Self::loan).
    #[inline]
    pub fn try_loan(&mut self) -> Result<Loan<'_, T>>
    where
        T::Archived: Unpin,
    {
        Loan::new(self.outlet.try_loan(Loan::<T>::BYTES)?)
    }

    /// As [`loan`](Self::loan); waits for room up to `timeout`.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout); else as [`loan`](Self::loan).
    #[inline]
    pub fn loan_timeout(&mut self, timeout: Duration) -> Result<Loan<'_, T>>
    where
        T::Archived: Unpin,
    {
        Loan::new(self.outlet.loan(Loan::<T>::BYTES, Some(timeout))?)
    }

    /// The same publisher, whose waits for room are futures.
    #[cfg(feature = "tokio")]
    pub fn into_async(self) -> crate::AsyncPublisher<T> {
        crate::AsyncPublisher::new(self)
    }

    /// A descriptor that turns readable when there may be room again, for who waits for descriptors. It does so only after
    /// [`arm`](Self::arm). As for [`Subscriber::poll_fd`](crate::Subscriber::poll_fd); on a
    /// topic that evicts wait an eighth of its time at most, for only who looks can evict.
    ///
    /// # Errors
    /// [`Error::Topic`](crate::Error::Topic) where there is no descriptor left; [`Error::Broker`](crate::Error::Broker) where no broker is there for 5
    /// seconds at the first call.
    pub fn poll_fd(&mut self) -> Result<BorrowedFd<'_>> {
        Ok(self.outlet.own()?.as_fd())
    }

    /// After [`Error::Full`](crate::Error::Full): from now on [`poll_fd`](Self::poll_fd) turns readable when a subscriber has released
    /// something or left. False where one has done so since: try again at once.
    ///
    /// # Errors
    /// As for [`poll_fd`](Self::poll_fd).
    pub fn arm(&mut self) -> Result<bool> {
        self.outlet.arm()
    }

    /// Undoes [`arm`](Self::arm): [`poll_fd`](Self::poll_fd) is not readable any more.
    pub fn disarm(&mut self) {
        self.outlet.disarm();
    }

    /// Waits until at least `count` subscribers are there, or the time is over. What is sent afterwards, they all receive.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout). While there is no broker none can come, but another broker may: that is no error.
    pub fn wait_for_subscribers(&mut self, count: usize, timeout: Option<Duration>) -> Result<()> {
        self.outlet.wait_for_subscribers(count, timeout)
    }

    /// Who subscribes now: what is sent from now on, they all receive.
    ///
    /// # Errors
    /// [`Error::Broker`](crate::Error::Broker) where the broker breaks the protocol.
    pub fn subscribers(&mut self) -> Result<Vec<Peer>> {
        self.outlet.subscribers()
    }

    /// The subscriber furthest behind, and its lag in messages, when room was last looked for.
    pub fn slowest(&self) -> Option<(Peer, u64)> {
        self.outlet.slowest()
    }

    /// How long each subscriber has kept this publisher waiting, and whether it was evicted for it.
    pub fn stalls(&self) -> Vec<Stall> {
        self.outlet.stalls()
    }

    /// Messages sent on a lossy topic that found no room because of all that subscribers hold: every one of them lost them.
    pub fn nowhere(&self) -> u64 {
        self.outlet.nowhere()
    }

    /// What became of what was asked of its memory; see [`TopicBuilder::huge_pages`](crate::TopicBuilder::huge_pages).
    pub fn placement(&self) -> &PlacementReport {
        self.outlet.placement()
    }

    /// What the topic is like.
    pub fn settings(&self) -> &TopicSettings {
        self.outlet.settings()
    }

    /// This publisher, as its messages name it.
    pub fn id(&self) -> u64 {
        self.outlet.id()
    }
}
