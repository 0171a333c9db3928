//! A subscriber that sleeps on a descriptor of its own.
//!
//! Promises: from [`Inlet::park`] and a fence on, whatever there is to see rings the doorbell; nothing rings it while the handle is awake, but the
//! broker. It does not sleep: that is for whoever has the descriptor. While there is no broker nobody rings for a publisher that died; then the
//! session rings every 100 ms, and who waits looks around.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::Doorbell;
use bus_core::wake::{Poked, fence_parked};

#[cfg(feature = "tokio")]
use {bus_core::backend::Native, bus_core::wake::Spin};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::Inlet;
use crate::Result;
use crate::handle::{NEEDED, Patience};
use crate::session::Next;

/// How long a sleep lasts at most that does not watch all rings.
const UNWATCHED: Duration = Duration::from_millis(10);

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

    #[cold]
    fn become_notified(&self) -> Result<()> {
        let own = match self.own.get() {
            Some(own) => own,
            None => {
                let own = Doorbell::new().map_err(|e| self.member.wrap(e))?;
                self.own.get_or_init(|| Arc::new(own))
            }
        };
        self.member.check_here()?;
        self.member.register(own);
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

    /// Sleeps until there may be something, or the deadline. For a subscriber that
    /// [must park](bus_core::receive::Subscriber::must_park): it sleeps at its doorbell. Where no broker is there that
    /// could tell others of the doorbell, it looks again after 10 ms.
    #[cold]
    pub(super) fn sleep_parked(&self, news: Poked<'_>, deadline: Option<Instant>) -> Result<()> {
        if !self.notified.get() && self.member.is_down() {
            let soon = Instant::now() + UNWATCHED;
            let soon = deadline.map_or(soon, |deadline| deadline.min(soon));
            self.core.sleep_for_publishers(Some(news), Some(soon));
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

/// Waits until the doorbell was rung, the deadline, or a signal.
fn wait_readable(own: &Doorbell, deadline: Option<Instant>) {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let mut inside = [PollFd::new(own.as_fd(), PollFlags::POLLIN)];
    // A signal, or an error of the kernel, means the same: look again.
    let _ = ppoll(&mut inside, left.map(TimeSpec::from_duration), None);
}
