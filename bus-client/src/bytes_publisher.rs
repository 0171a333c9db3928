//! Sending raw bytes.

use std::time::{Duration, Instant};

use crate::outlet::Outlet;
use crate::{BytesLoan, Peer, Result};

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
        let deadline = Instant::now().checked_add(timeout);
        self.outlet
            .until(deadline, |core| core.try_send_bytes(bytes))
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
        let mut sent = 0;
        while messages.peek().is_some() {
            sent += self.outlet.until(None, |core| {
                let mut batch = core.batch();
                while let Some(message) = messages.peek() {
                    if batch.push_bytes(message)?.is_none() {
                        break;
                    }
                    messages.next();
                }
                let sent = batch.sent();
                Ok((sent > 0).then_some(sent))
            })?;
        }
        Ok(sent)
    }

    /// Room for one message of up to `len` bytes, to be filled in place; it holds what an older message left there. Waits for room.
    ///
    /// # Errors
    /// [`Error::Topic`](crate::Error::Topic) where they are too many.
    pub fn loan(&mut self, len: usize) -> Result<BytesLoan<'_>> {
        BytesLoan::new(&mut self.outlet, len)
    }

    /// Waits for subscribers; see [`Publisher::wait_for_subscribers`](crate::Publisher::wait_for_subscribers).
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout); [`Error::Topic`](crate::Error::Topic) where the broker is gone.
    pub fn wait_for_subscribers(&mut self, count: usize, timeout: Option<Duration>) -> Result<()> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        self.outlet.wait_for_subscribers(count, deadline)
    }

    /// Who subscribes now.
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

    /// This publisher, as its messages name it.
    pub fn id(&self) -> u64 {
        self.outlet.id()
    }
}
