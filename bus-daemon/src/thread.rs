//! A broker on a thread of its own, inside a process that has other things to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bus_core::fork::{Birth, Unshared};
use bus_core::thread::spawn_quiet;
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use crate::{Broker, Error, Result, report};

/// A broker that runs on a thread. Dropping it stops the broker.
///
/// Established rings go on without their broker.
#[derive(Debug)]
pub struct BrokerThread {
    stop: Arc<Unshared<EventFd>>,
    birth: Birth,
    yielded: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Broker {
    /// Runs the broker on a [quiet thread](bus_core::thread::spawn_quiet). When this returns, the broker has all that it needs to run.
    ///
    /// # Errors
    /// [`Error::Io`] if the thread cannot be started, or the broker lacks what it cannot do without: a descriptor, for instance.
    pub fn spawn(self) -> Result<BrokerThread> {
        let stop = self.stop_handle();
        let yielded = self.yielded();
        let birth = Birth::here();
        let (begun, begins) = mpsc::channel();
        let thread = spawn_quiet("bus-broker", move || {
            report::be_embedded();
            self.run_and_tell(|| {
                // The caller waits for it.
                let _ = begun.send(());
            })
        })
        .map_err(|e| Error::io("starting its thread", e))?;
        if begins.recv().is_err() {
            // It ended before it began, and says why.
            thread.join().unwrap_or(Err(Error::Panicked))?;
            return Err(Error::Panicked);
        }
        Ok(BrokerThread {
            stop,
            birth,
            yielded,
            thread: Some(thread),
        })
    }
}

impl BrokerThread {
    /// Whether the broker has ended, or is about to, because another one asked it for its path.
    pub fn has_yielded(&self) -> bool {
        // ORDERING: pairs with the store in the broker's loop; nothing else is published by it.
        self.yielded.load(Ordering::Acquire)
    }

    /// Whether the broker still runs.
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the broker and waits for its end. What happened before this call, a handle that was dropped for
    /// instance, is still told to the others.
    ///
    /// # Errors
    /// What [`Broker::run`] ended with, or [`Error::Panicked`].
    pub fn stop(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        if !self.birth.is_here() {
            // In a fork there is no such thread, and nobody would ever say that it has ended.
            std::mem::forget(thread);
            return Ok(());
        }
        // It can only fail if the count is at its limit, and then the broker is being told already.
        while self.stop.write(1) == Err(Errno::EINTR) {}
        thread.join().unwrap_or(Err(Error::Panicked))
    }
}

impl Drop for BrokerThread {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::error!(%error, "the broker did not end well");
        }
    }
}
