//! Sending raw bytes.

use std::iter::Peekable;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::outlet::Outlet;
use crate::{BytesLoan, Peer, PlacementReport, Result, Stall, TopicSettings};

/// Sends raw bytes on one topic, into a ring of its own. In all else like [`Publisher`](crate::Publisher).
pub struct BytesPublisher {
    pub(crate) outlet: Outlet,
}

impl BytesPublisher {
    pub(crate) fn new(outlet: Outlet) -> Self {
        Self { outlet }
    }

    /// Sends bytes; see [`Publisher::send`](crate::Publisher::send).
    ///
    /// # Errors
    /// [`Error::Topic`](crate::Error::Topic) where they are too many.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> Result<u64> {
        self.outlet.until(None, |core| core.try_send_bytes(bytes))
    }

    /// Sends bytes if there is room now; see [`Publisher::try_send`](crate::Publisher::try_send).
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full); else as [`send`](Self::send).
    #[inline]
    pub fn try_send(&mut self, bytes: &[u8]) -> Result<u64> {
        self.outlet.once(|core| core.try_send_bytes(bytes))
    }

    /// Sends bytes; waits for room up to `timeout`; see [`Publisher::send_timeout`](crate::Publisher::send_timeout).
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout); else as [`send`](Self::send).
    #[inline]
    pub fn send_timeout(&mut self, bytes: &[u8], timeout: Duration) -> Result<u64> {
        self.outlet
            .until(Some(timeout), |core| core.try_send_bytes(bytes))
    }

    /// Sends several; see [`Publisher::publish_batch`](crate::Publisher::publish_batch).
    ///
    /// # Errors
    /// As for [`send`](Self::send); the messages before the one that fails are sent.
    pub fn publish_batch<'a>(
        &mut self,
        messages: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<u64> {
        let mut messages = messages.into_iter().peekable();
        self.outlet
            .batch(&mut messages, |batch, message| batch.push_bytes(message))
    }

    /// Sends as many as there is room for now; see [`Publisher::try_publish_batch`](crate::Publisher::try_publish_batch).
    ///
    /// # Errors
    /// As for [`send`](Self::send), but never for want of room. The message that fails is the next of the iterator: take it
    /// out before you go on.
    pub fn try_publish_batch<'a>(
        &mut self,
        messages: &mut Peekable<impl Iterator<Item = &'a [u8]>>,
    ) -> Result<u64> {
        self.outlet
            .try_batch(messages, |batch, message| batch.push_bytes(message))
    }

    /// Room for one message of up to `len` bytes, to be filled in place; it holds what an older message left there. Waits for room.
    ///
    /// # Errors
    /// [`Error::Topic`](crate::Error::Topic) where they are too many.
    #[inline]
    pub fn loan(&mut self, len: usize) -> Result<BytesLoan<'_>> {
        Ok(BytesLoan::new(self.outlet.loan(len, None)?))
    }

    /// As [`loan`](Self::loan), if there is room now.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full); else as [`loan`](Self::loan).
    #[inline]
    pub fn try_loan(&mut self, len: usize) -> Result<BytesLoan<'_>> {
        Ok(BytesLoan::new(self.outlet.try_loan(len)?))
    }

    /// As [`loan`](Self::loan); waits for room up to `timeout`.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout); else as [`loan`](Self::loan).
    #[inline]
    pub fn loan_timeout(&mut self, len: usize, timeout: Duration) -> Result<BytesLoan<'_>> {
        Ok(BytesLoan::new(self.outlet.loan(len, Some(timeout))?))
    }

    /// A descriptor to wait for; see [`Publisher::poll_fd`](crate::Publisher::poll_fd).
    ///
    /// # Errors
    /// As there.
    pub fn poll_fd(&mut self) -> Result<BorrowedFd<'_>> {
        Ok(self.outlet.own()?.as_fd())
    }

    /// Before waiting; see [`Publisher::arm`](crate::Publisher::arm).
    ///
    /// # Errors
    /// As there.
    pub fn arm(&mut self) -> Result<bool> {
        self.outlet.arm()
    }

    /// After waiting; see [`Publisher::disarm`](crate::Publisher::disarm).
    pub fn disarm(&mut self) {
        self.outlet.disarm();
    }

    /// Waits for subscribers; see [`Publisher::wait_for_subscribers`](crate::Publisher::wait_for_subscribers).
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout).
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
