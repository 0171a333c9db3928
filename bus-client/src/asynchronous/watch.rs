//! What a task waits for: its handle's doorbell, and a time to look around.

use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bus_core::backend::doorbell::Doorbell;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::time::Sleep;

use crate::{Error, Result};

/// A handle's doorbell, which is open for as long as this is.
struct Own(Arc<Doorbell>);

impl AsRawFd for Own {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The runtime's part of a handle.
pub(super) struct Watch {
    own: AsyncFd<Own>,
    /// When to look around, if at all.
    clock: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    /// Watches for a handle, in the runtime of this task.
    pub(super) fn new(own: &Arc<Doorbell>) -> Result<Self> {
        if tokio::runtime::Handle::try_current().is_err() {
            let why = std::io::Error::other("this is no task of a tokio runtime");
            return Err(Error::selector("wait", why));
        }
        // SAFETY: what is registered has one descriptor, which it keeps open, and never another one.
        let own = unsafe { AsyncFd::register_with_interest(Own(own.clone()), Interest::READABLE) };
        let own = own.map_err(|e| Error::selector("watch a doorbell", e))?;
        Ok(Self { own, clock: None })
    }

    /// Ready, once, when somebody rang, or this time is over; pending with this task to be woken then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, look_around: Option<Duration>) -> Poll<()> {
        let mut fired = false;
        if let Poll::Ready(ready) = self.own.poll_read_ready(cx) {
            fired = true;
            // Before it is said to be heard: who rings after this is heard again.
            self.own.get_ref().0.drain();
            clear(ready);
        }
        match look_around {
            None => self.clock = None,
            Some(after) => {
                let sleep = || Box::pin(tokio::time::sleep(after));
                let clock = self.clock.get_or_insert_with(sleep);
                if clock.as_mut().poll(cx).is_ready() {
                    self.clock = None;
                    fired = true;
                }
            }
        }
        if fired {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Says that this was heard. An error means that the runtime is on its way out.
fn clear<T: AsRawFd>(ready: std::io::Result<AsyncFdReadyGuard<'_, T>>) {
    if let Ok(mut ready) = ready {
        ready.clear_ready();
    }
}
