//! The future of one message, which borrows the subscriber.
//!
//! It is a type of its own because a message that is returned from a loop borrows what the loop waits with: that this is right, the borrow
//! checker cannot see yet.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, ready};

use bus_core::publish::Payload;

use super::{AsyncSubscriber, LOOKS, yield_now};
use crate::{Received, Result};

/// The next message of an [`AsyncSubscriber`]. Dropping it loses nothing.
#[must_use = "a future does nothing until it is awaited"]
pub struct Recv<'a, T: Payload> {
    /// None once it has given its message.
    subscriber: Option<NonNull<AsyncSubscriber<T>>>,
    _borrow: PhantomData<&'a mut AsyncSubscriber<T>>,
}

// SAFETY: it is an exclusive borrow of the subscriber, which may move between threads.
unsafe impl<T: Payload> Send for Recv<'_, T> where AsyncSubscriber<T>: Send {}

impl<'a, T: Payload> Recv<'a, T> {
    pub(super) fn new(subscriber: &'a mut AsyncSubscriber<T>) -> Self {
        Self {
            subscriber: Some(NonNull::from(subscriber)),
            _borrow: PhantomData,
        }
    }
}

impl<'a, T: Payload> Future for Recv<'a, T> {
    type Output = Result<Received<'a, T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mut subscriber) = self.subscriber else {
            // Who polls after the end waits for ever.
            return Poll::Pending;
        };
        let turn = ready!(tokio::task::coop::poll_proceed(cx));
        for _ in 0..LOOKS {
            // SAFETY: this future borrows the subscriber exclusively for `'a`, and has handed out nothing of it.
            let waiting = unsafe { subscriber.as_mut() };
            let ready = ready!(waiting.poll_ready(cx));
            // SAFETY: as above. What comes of it ends here, or is the message with which this future ends.
            let subscriber: &'a AsyncSubscriber<T> = unsafe { subscriber.as_ref() };
            let received = ready.and_then(|()| subscriber.try_recv());
            if let Some(received) = received.transpose() {
                self.subscriber = None;
                turn.made_progress();
                return Poll::Ready(received);
            }
        }
        yield_now(cx)
    }
}
