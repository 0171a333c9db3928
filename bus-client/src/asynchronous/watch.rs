//! What a task waits for: its handle's doorbell, and a time to look around.

use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bus_core::backend::doorbell::Doorbell;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, Id};
use tokio::time::Sleep;

use crate::{Error, Result};

/// A handle's doorbell, which is open for as long as this is.
struct Own(Arc<Doorbell>);

impl AsRawFd for Own {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The runtime's part of a handle: it is of use in one runtime only.
struct Registration {
    own: AsyncFd<Own>,
    runtime: Id,
    /// When to look around, if at all.
    clock: Option<Pin<Box<Sleep>>>,
}

/// What a handle waits with. It registers with the runtime of the task that waits, at its first wait
/// and whenever a task of another runtime waits: the runtime before may be gone, or driven by nobody.
#[derive(Default)]
pub(super) struct Watch(Option<Registration>);

impl Watch {
    /// The registration with the runtime of this task.
    ///
    /// # Errors
    /// [`Error::Selector`] outside of a runtime, or where the runtime is shutting down.
    pub(super) fn here(
        &mut self,
        own: impl FnOnce() -> Result<Arc<Doorbell>>,
    ) -> Result<Registered<'_>> {
        let Ok(handle) = Handle::try_current() else {
            let why = std::io::Error::other("this is no task of a tokio runtime");
            return Err(Error::selector("wait", why));
        };
        let runtime = handle.id();
        if self.0.as_ref().is_some_and(|old| old.runtime != runtime) {
            self.0 = None;
        }
        match &mut self.0 {
            Some(registration) => Ok(Registered(registration)),
            none => {
                let own = Own(own()?);
                // SAFETY: what is registered has one descriptor, which it keeps open, and never another one.
                let own = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
                let own = own.map_err(|e| Error::selector("watch a doorbell", e))?;
                Ok(Registered(none.insert(Registration {
                    own,
                    runtime,
                    clock: None,
                })))
            }
        }
    }
}

/// A handle in the runtime of this task.
pub(super) struct Registered<'a>(&'a mut Registration);

impl Registered<'_> {
    /// Ready, once, when somebody rang, or this time is over; pending with this task to be woken then.
    ///
    /// # Errors
    /// [`Error::Selector`] where the runtime is shutting down: nobody would be woken any more.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        look_around: Option<Duration>,
    ) -> Poll<Result<()>> {
        let Registration { own, clock, .. } = &mut *self.0;
        let mut fired = false;
        if let Poll::Ready(ready) = own.poll_read_ready(cx) {
            let mut ready = ready.map_err(|e| Error::selector("watch a doorbell", e))?;
            fired = true;
            // Before it is said to be heard: who rings after this is heard again.
            ready.get_inner().0.drain();
            ready.clear_ready();
        }
        match look_around {
            None => *clock = None,
            Some(after) => {
                let sleep = || Box::pin(tokio::time::sleep(after));
                let running = clock.get_or_insert_with(sleep);
                if running.as_mut().poll(cx).is_ready() {
                    *clock = None;
                    fired = true;
                }
            }
        }
        if fired {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}
