//! A publisher whose waits for room are futures.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bus_core::backend::Native;
use bus_core::publish::{self, Payload};
use bus_core::wake::{Spin, SpinBudget};

use super::watch::Watch;
use super::{LOOKS, SPIN, yield_now};
use crate::{Delivery, Publisher, Result};

/// A [`Publisher`] that waits for room as tokio's tasks do. [`Publisher::into_async`] makes it.
pub struct AsyncPublisher<T: Payload> {
    /// Registers when it first has to wait. Dropped first.
    watch: Watch,
    inner: Publisher<T>,
    budget: SpinBudget,
    /// How this wait began.
    spin: Option<Spin>,
}

impl<T: Payload> AsyncPublisher<T> {
    pub(crate) fn new(inner: Publisher<T>) -> Self {
        let budget = SpinBudget::new(inner.outlet.spin().min(SPIN));
        Self {
            watch: Watch::default(),
            inner,
            budget,
            spin: None,
        }
    }

    /// Sends a message; waits as long as a subscriber has not read what would be overwritten. Returns its sequence number.
    ///
    /// A future that is dropped has sent nothing, or was done.
    ///
    /// # Errors
    /// As for [`Publisher::send`]; [`Error::Selector`](crate::Error::Selector) outside of a runtime, and
    /// in one that is shutting down.
    ///
    /// # Panics
    /// Where the runtime has no I/O driver, or has no clock when it is needed: as tokio does.
    pub async fn send(&mut self, message: &T) -> Result<u64>
    where
        T: Sync,
    {
        self.attempt(|core| core.try_send(message)).await
    }

    /// Sends a message if there is room now.
    ///
    /// # Errors
    /// As for [`Publisher::try_send`].
    #[inline]
    pub fn try_send(&mut self, message: &T) -> Result<u64> {
        self.inner.try_send(message)
    }

    /// The publisher itself: for batches, loans, who listens, and waits that block the thread.
    pub fn get_mut(&mut self) -> &mut Publisher<T> {
        &mut self.inner
    }

    /// The publisher, as it was.
    pub fn into_inner(mut self) -> Publisher<T> {
        self.inner.disarm();
        self.inner
    }

    async fn attempt<R>(
        &mut self,
        mut attempt: impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<R> {
        let wait = WaitGuard(self);
        poll_fn(|cx| {
            let this = &mut *wait.0;
            let turn = ready!(tokio::task::coop::poll_proceed(cx));
            let done = match this.inner.outlet.attempt(&mut attempt).transpose() {
                Some(done) => Poll::Ready(done),
                None => this.wait(cx, &mut attempt),
            };
            if done.is_ready() {
                turn.made_progress();
                if let Some(spin) = &this.spin {
                    this.budget.learn(spin);
                }
            }
            done
        })
        .await
    }

    /// There was no room: looks again for a while, then parks.
    #[cold]
    fn wait<R>(
        &mut self,
        cx: &mut Context<'_>,
        attempt: &mut impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Poll<Result<R>> {
        let outlet = &mut self.inner.outlet;
        if outlet.settings().delivery == Delivery::Fail {
            return Poll::Ready(Err(outlet.full()));
        }
        if self.spin.is_none() {
            outlet.core.begin_wait();
            let spin = self.spin.insert(self.budget.start());
            while spin.turn::<Native>() {
                if let Some(done) = outlet.attempt(&mut *attempt)? {
                    return Poll::Ready(Ok(done));
                }
            }
        }
        let mut watch = self.watch.here(|| outlet.own().cloned())?;
        for _ in 0..LOOKS {
            // The time that a slow subscriber is allowed counts only while somebody looks.
            let look_around = match outlet.settings().delivery {
                Delivery::Evict { after_us } => Some(Duration::from_micros(after_us / 8 + 1)),
                _ => None,
            };
            match watch.poll(cx, look_around) {
                Poll::Ready(rung) => {
                    outlet.unpark();
                    rung?;
                    outlet.look_around()?;
                }
                Poll::Pending if outlet.arm()? => return Poll::Pending,
                Poll::Pending => {}
            }
            if let Some(done) = outlet.attempt(&mut *attempt)? {
                return Poll::Ready(Ok(done));
            }
        }
        yield_now(cx)
    }
}

/// Ends a wait, also where its future is dropped: the next message is another one.
struct WaitGuard<'a, T: Payload>(&'a mut AsyncPublisher<T>);

impl<T: Payload> Drop for WaitGuard<'_, T> {
    fn drop(&mut self) {
        if self.0.spin.take().is_some() {
            self.0.inner.outlet.core.end_wait();
        }
    }
}

const _: () = {
    const fn send<T: Send>() {}
    const fn future<F: Future + Send>(_: fn(&'static mut AsyncPublisher<u64>, &'static u64) -> F) {}
    send::<AsyncPublisher<u64>>();
    future(AsyncPublisher::send);
};
