//! A subscriber that sleeps on a descriptor of its own.
//!
//! Promises: from [`Inlet::park`] and a fence on, whatever there is to see rings the doorbell; nothing rings it while the handle is awake, but the
//! broker. Whoever has the descriptor sleeps on it: an event loop, or this subscriber where it
//! [must](Inlet::must_park). While there is no broker nobody rings for a publisher that died; then
//! the session rings every 100 ms, and who waits looks around.

use std::sync::Arc;
use std::time::Instant;

use bus_core::backend::doorbell::Doorbell;
use bus_core::wake::fence_parked;

#[cfg(feature = "tokio")]
use {bus_core::backend::Native, bus_core::wake::Spin, std::time::Duration};

use super::Inlet;
use crate::Result;
use crate::handle::{NEEDED, Patience};
use crate::session::Next;
use crate::wait::{soon, wait_readable};

impl Inlet {
    /// The doorbell that it parks at. Made, and told to everybody whom it concerns, at the first call.
    pub(crate) fn own(&self) -> Result<&Arc<Doorbell>> {
        if !self.notified.get() {
            self.become_notified()?;
        }
        match self.own.get() {
            Some(own) => Ok(own),
            None => Err(self.member.wrap(bus_core::Error::Closed)),
        }
    }

    /// Has the broker tell everybody of its doorbell, which it makes at the first call. The answer
    /// is yet to come.
    fn register(&self) -> Result<()> {
        let own = match self.own.get() {
            Some(own) => own,
            None => {
                let own = Doorbell::new().map_err(|e| self.member.wrap(e))?;
                self.own.get_or_init(|| Arc::new(own))
            }
        };
        self.member.check_here()?;
        self.member.register(own);
        Ok(())
    }

    #[cold]
    fn become_notified(&self) -> Result<()> {
        self.register()?;
        let mut patience = Patience::new();
        // An answer that was too late for the last call is still to come.
        while !self.notified.get() {
            let moved = self.member.moved();
            match self.member.next()? {
                Next::Told(told) => {
                    self.take_in(told)?;
                    patience.renew();
                }
                Next::Nothing { down: true, .. } => {
                    self.member.await_broker(moved, &patience, NEEDED)?;
                }
                Next::Nothing { .. } => self.member.wait(moved, &patience)?,
            }
        }
        Ok(())
    }

    /// Whether a look would find something else than nothing. Errors that it would find come from here.
    pub(crate) fn ready(&self) -> Result<bool> {
        self.refresh()?;
        if self.core.has_message() {
            return Ok(true);
        }
        // While there is no broker, the session wakes who waits for this.
        self.look_around()?;
        self.settle();
        Ok(self.over())
    }

    /// Parks: from now on its doorbell is rung when there is something. [`fence_parked`], and a look whether it is [`ready`](Self::ready),
    /// come next.
    pub(crate) fn park(&self) -> Result<()> {
        self.park_at(self.own()?);
        Ok(())
    }

    /// As [`park`](Self::park), at the doorbell that [`own`](Self::own) gave.
    pub(crate) fn park_at(&self, own: &Arc<Doorbell>) {
        self.parked.set(true);
        self.core.park(own);
    }

    /// Whether there is something to look at, as far as a glance shows: ends of rings it does not see.
    #[inline]
    pub(crate) fn glance(&self) -> bool {
        self.core.stale().is_some() || self.core.has_message()
    }

    /// Is awake again.
    pub(crate) fn unpark(&self) {
        self.parked.set(false);
        self.core.unpark();
    }

    /// It has slept in another way meanwhile: whoever waits for the doorbell looks, and parks again.
    #[cold]
    pub(super) fn no_longer_parked(&self) {
        if self.parked.replace(false)
            && let Some(own) = self.own.get()
        {
            own.ring();
        }
    }

    /// Whether everybody whom it concerns knows its doorbell. Until then, waits for the broker that
    /// tells them, but not longer than 10 ms: one that is gone or stopped keeps nobody from looking
    /// at what is there.
    fn is_notified(&self, deadline: Option<Instant>) -> Result<bool> {
        if self.notified.get() {
            return Ok(true);
        }
        self.register()?;
        let soon = soon(deadline);
        loop {
            let moved = self.member.moved();
            match self.member.next()? {
                Next::Told(told) => self.take_in(told)?,
                Next::Nothing { .. } if self.notified.get() => return Ok(true),
                Next::Nothing { .. } if Instant::now() >= soon => return Ok(false),
                Next::Nothing { .. } => self.member.wait_until(moved, soon),
            }
        }
    }

    /// Whether its sleeps are to be at its doorbell: others could steal its wake-ups from shared
    /// words, or there are more of those than one sleep can watch.
    #[cold]
    pub(super) fn must_park(&self) -> bool {
        self.core.must_park() || self.core.is_foreign()
    }

    /// Sleeps until there may be something, or the deadline. For a subscriber that
    /// [must park](Self::must_park): it sleeps at its doorbell. Where others do not know that yet,
    /// it looks again after 10 ms.
    #[cold]
    pub(super) fn sleep_parked(&self, deadline: Option<Instant>) -> Result<()> {
        if !self.is_notified(deadline)? {
            return Ok(());
        }
        let waited_for = self.parked.get();
        let own = Arc::clone(self.own()?);
        if self.arm()? {
            wait_readable(&own, deadline);
        }
        self.disarm();
        // Whoever waits for the doorbell as well has its rings taken off: the caller rings again.
        self.parked.set(waited_for);
        Ok(())
    }

    /// Sleeps at its doorbell until the set of publishers moves, or the deadline: the broker rings
    /// then, whether it has parked or not.
    #[cold]
    pub(super) fn sleep_parked_for_publishers(&self, deadline: Option<Instant>) -> Result<()> {
        if !self.is_notified(deadline)? {
            return Ok(());
        }
        let own = self.own()?;
        if self.core.stale().is_none() {
            wait_readable(own, deadline);
        }
        own.drain();
        // Whoever waits for the doorbell as well looks around.
        self.no_longer_parked();
        Ok(())
    }

    /// Parks, if there is nothing to receive: whether it has.
    pub(crate) fn arm(&self) -> Result<bool> {
        self.park()?;
        fence_parked();
        let ready = self.ready();
        if !matches!(ready, Ok(false)) {
            self.unpark();
        }
        ready.map(|ready| !ready)
    }

    /// Is awake again, and its doorbell is readable no more.
    pub(crate) fn disarm(&self) {
        self.unpark();
        self.drain();
    }

    /// Takes the rings of its doorbell off.
    pub(crate) fn drain(&self) {
        if let Some(own) = self.own.get() {
            own.drain();
        }
    }
}

#[cfg(feature = "tokio")]
impl Inlet {
    /// Whether it has parked, and nothing has ended that but rings.
    pub(crate) fn parked(&self) -> bool {
        self.parked.get()
    }

    /// How long it spins at most.
    pub(crate) fn spin(&self) -> Duration {
        self.spin.borrow().full()
    }

    /// Looks again for as long as this says; whether something is there.
    pub(crate) fn spins(&self, spin: &mut Spin) -> bool {
        while spin.turn::<Native>() {
            if self.core.has_message() {
                return true;
            }
        }
        false
    }
}
