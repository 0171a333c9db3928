//! Receiving raw bytes.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use bus_core::receive::{self, Message};

use crate::inlet::Inlet;
use crate::{Peer, PlacementReport, Result, TopicSettings};

/// Receives raw bytes of all publishers of one topic. In all else like [`Subscriber`](crate::Subscriber).
pub struct BytesSubscriber {
    pub(crate) inlet: Inlet,
}

impl BytesSubscriber {
    pub(crate) fn new(inlet: Inlet) -> Self {
        Self { inlet }
    }

    /// The next message; waits for it.
    ///
    /// # Errors
    /// [`Error::Ended`](crate::Error::Ended); [`Error::Topic`](crate::Error::Topic) where a publisher breaks the protocol.
    #[inline(always)]
    pub fn recv(&self) -> Result<Message<'_>> {
        let inlet = &self.inlet;
        inlet.refresh()?;
        let mut waited = None;
        loop {
            if let Some(arrival) = inlet.find() {
                return Ok(arrival.take());
            }
            inlet.await_more(None, &mut waited)?;
        }
    }

    /// The next message, if it is there.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    #[inline(always)]
    pub fn try_recv(&self) -> Result<Option<Message<'_>>> {
        let inlet = &self.inlet;
        inlet.refresh()?;
        if let Some(arrival) = inlet.find() {
            return Ok(Some(arrival.take()));
        }
        inlet.not_now()?;
        Ok(None)
    }

    /// The next message; none if it does not come within `timeout`.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    #[inline(always)]
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Message<'_>>> {
        let inlet = &self.inlet;
        inlet.refresh()?;
        let mut waited = None;
        loop {
            if let Some(arrival) = inlet.find() {
                return Ok(Some(arrival.take()));
            }
            if !inlet.await_more(Some(timeout), &mut waited)? {
                return Ok(None);
            }
        }
    }

    /// Up to `max` messages of one publisher; see [`Subscriber::recv_batch`](crate::Subscriber::recv_batch).
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    #[inline]
    pub fn recv_batch(&self, max: usize) -> Result<BytesBatch<'_>> {
        loop {
            let batch = self.inlet.until(None, |core| Ok(core.poll_batch(max)))?;
            if let Some(batch) = batch {
                return Ok(BytesBatch {
                    batch,
                    inlet: &self.inlet,
                });
            }
        }
    }

    /// A descriptor to wait for; see [`Subscriber::poll_fd`](crate::Subscriber::poll_fd).
    ///
    /// # Errors
    /// As there.
    pub fn poll_fd(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.inlet.own()?.as_fd())
    }

    /// Before waiting; see [`Subscriber::arm`](crate::Subscriber::arm).
    ///
    /// # Errors
    /// As there.
    pub fn arm(&self) -> Result<bool> {
        self.inlet.arm()
    }

    /// After waiting; see [`Subscriber::disarm`](crate::Subscriber::disarm).
    pub fn disarm(&self) {
        self.inlet.disarm();
    }

    /// Waits for publishers; see [`Subscriber::wait_for_publishers`](crate::Subscriber::wait_for_publishers).
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout).
    pub fn wait_for_publishers(&self, count: usize, timeout: Option<Duration>) -> Result<()> {
        self.inlet.wait_for_publishers(count, timeout)
    }

    /// The publishers followed now.
    ///
    /// # Errors
    /// [`Error::Broker`](crate::Error::Broker) where the broker breaks the protocol.
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
pub struct BytesBatch<'a> {
    batch: receive::Batch<'a>,
    inlet: &'a Inlet,
}

impl BytesBatch<'_> {
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

impl<'b> IntoIterator for &'b BytesBatch<'_> {
    type Item = Result<&'b [u8]>;
    type IntoIter = BytesBatchIter<'b>;

    fn into_iter(self) -> BytesBatchIter<'b> {
        BytesBatchIter { batch: self }
    }
}

/// The messages of a [`BytesBatch`], in order. Each is given once, by whichever iterator asks first.
pub struct BytesBatchIter<'b> {
    batch: &'b BytesBatch<'b>,
}

impl<'b> Iterator for BytesBatchIter<'b> {
    type Item = Result<&'b [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let message = self.batch.batch.next()?;
        let bytes = message.map(|(_, bytes)| bytes);
        Some(bytes.map_err(|e| self.batch.inlet.wrap(e)))
    }
}
