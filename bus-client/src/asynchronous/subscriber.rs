//! A subscriber whose waits are futures.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bus_core::publish::Payload;
use bus_core::wake::{Spin, SpinBudget, fence_parked};
use futures_core::Stream;

use super::watch::Watch;
use super::{LOOKS, Recv, SPIN, yield_now};
use crate::{Error, HeldValue, Received, Result, Subscriber};

/// A [`Subscriber`] that waits as tokio's tasks do. [`Subscriber::into_async`] makes it.
///
/// It is a `Stream` as well, of messages that are held: each a value of its own, which may go to other tasks, and counts as held until it is
/// dropped. [`recv`](Self::recv) is the cheaper way.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = bus_client::Bus::private("task")?;
/// let mut ticks = bus.subscriber::<u64>("ticks")?.into_async();
/// let mut feed = bus.publisher::<u64>("ticks")?.into_async();
/// feed.send(&7).await?;
/// let tick = ticks.recv().await?;
/// assert_eq!(*tick, 7);
/// # Ok(()) }
/// ```
///
/// A message borrows its subscriber, which one thread at a time may use: a task that is to move between threads drops it, or
/// [holds](Received::hold) it, before its next `await`.
pub struct AsyncSubscriber<T: Payload> {
    /// Registers when it first has to wait. Dropped first.
    watch: Watch,
    inner: Subscriber<T>,
    budget: SpinBudget,
    /// How this wait began.
    spin: Option<Spin>,
}

impl<T: Payload> AsyncSubscriber<T> {
    pub(crate) fn new(inner: Subscriber<T>) -> Self {
        let budget = SpinBudget::new(inner.inlet.spin().min(SPIN));
        Self {
            watch: Watch::default(),
            inner,
            budget,
            spin: None,
        }
    }

    /// The next message; waits for it. A future that is dropped has received nothing, or was done.
    ///
    /// # Errors
    /// As for [`Subscriber::recv`]; [`Error::Selector`] outside of a runtime, and in one that is shutting
    /// down.
    ///
    /// # Panics
    /// Where the runtime has no I/O driver, or has no clock when it is needed: as tokio does.
    pub fn recv(&mut self) -> Recv<'_, T> {
        Recv::new(self)
    }

    /// The next message, if it is there.
    ///
    /// # Errors
    /// As for [`Subscriber::try_recv`].
    #[inline]
    pub fn try_recv(&self) -> Result<Option<Received<'_, T>>> {
        self.inner.try_recv()
    }

    /// The subscriber itself: for batches, for who it hears from, and for waits that block the thread.
    pub fn get_ref(&self) -> &Subscriber<T> {
        &self.inner
    }

    /// The subscriber, as it was.
    pub fn into_inner(self) -> Subscriber<T> {
        self.inner.disarm();
        self.inner
    }

    /// Ready when [`try_recv`](Self::try_recv) would say something else than nothing, as far as a look can tell; else this task is woken
    /// when it may.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    #[inline]
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.inner.inlet.glance() {
            if self.inner.inlet.parked() {
                self.inner.inlet.unpark();
            }
            if self.inner.inlet.ready()? {
                if let Some(spin) = self.spin.take() {
                    self.budget.learn(&spin);
                }
                return Poll::Ready(Ok(()));
            }
        }
        self.wait(cx)
    }

    #[cold]
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let inlet = &self.inner.inlet;
        if self.spin.is_none() {
            let mut spin = self.budget.start();
            if inlet.spins(&mut spin) {
                self.budget.learn(&spin);
                return Poll::Ready(Ok(()));
            }
            self.spin = Some(spin);
        }
        let mut watch = self.watch.here(|| inlet.own().cloned())?;
        loop {
            match watch.poll(cx, None) {
                Poll::Ready(rung) => {
                    inlet.unpark();
                    rung?;
                }
                Poll::Pending if inlet.parked() => return Poll::Pending,
                Poll::Pending => {
                    inlet.park()?;
                    fence_parked();
                }
            }
            if inlet.ready()? {
                inlet.unpark();
                if let Some(spin) = self.spin.take() {
                    self.budget.learn(&spin);
                }
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: Payload> Stream for AsyncSubscriber<T> {
    type Item = Result<HeldValue<T>>;

    /// The next message, held. Ends where [`recv`](AsyncSubscriber::recv) says [`Error::Ended`].
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let turn = ready!(tokio::task::coop::poll_proceed(cx));
        for _ in 0..LOOKS {
            let ready = ready!(this.poll_ready(cx));
            let received = ready.and_then(|()| this.inner.try_recv());
            let item = match received {
                Ok(None) => continue,
                Ok(Some(message)) => Some(Ok(message.hold())),
                Err(Error::Ended { .. }) => None,
                Err(error) => Some(Err(error)),
            };
            turn.made_progress();
            return Poll::Ready(item);
        }
        yield_now(cx)
    }
}

const _: () = {
    const fn send<T: Send>() {}
    const fn unpin<T: Unpin>() {}
    send::<AsyncSubscriber<u64>>();
    send::<Recv<'_, u64>>();
    unpin::<AsyncSubscriber<u64>>();
};
