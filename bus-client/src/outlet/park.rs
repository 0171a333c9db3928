//! A publisher that sleeps for room on a descriptor of its own.
//!
//! Promises: from [`Outlet::arm`] on, whatever may make room rings the doorbell. Whoever has the
//! descriptor sleeps on it: an event loop, or this publisher where members of other users could
//! steal its wake-ups elsewhere. While there is no broker nobody rings for a subscriber that died;
//! then the session rings every 100 ms, and who waits looks around.

use std::sync::Arc;
use std::time::Instant;

use bus_core::backend::doorbell::Doorbell;

#[cfg(feature = "tokio")]
use std::time::Duration;

use super::Outlet;
use crate::Result;
use crate::handle::{NEEDED, Patience};
use crate::session::Next;
use crate::wait::{soon, wait_readable};

impl Outlet {
    /// The doorbell that it parks at. Made, and told to everybody whom it concerns, at the first call.
    pub(crate) fn own(&mut self) -> Result<&Arc<Doorbell>> {
        if !self.notified {
            self.become_notified()?;
        }
        match &self.own {
            Some(own) => Ok(own),
            None => Err(self.member.wrap(bus_core::Error::Closed)),
        }
    }

    /// Has the broker tell everybody of its doorbell, which it makes at the first call. The answer
    /// is yet to come.
    fn register(&mut self) -> Result<()> {
        let own = match &self.own {
            Some(own) => own,
            None => {
                let own = Doorbell::new().map_err(|e| self.member.wrap(e))?;
                self.own.insert(Arc::new(own))
            }
        };
        self.member.check_here()?;
        self.member.register(own);
        Ok(())
    }

    #[cold]
    fn become_notified(&mut self) -> Result<()> {
        self.register()?;
        let member = Arc::clone(&self.member);
        let mut patience = Patience::new();
        // An answer that was too late for the last call is still to come.
        while !self.notified {
            let moved = member.moved();
            match member.next()? {
                Next::Told(told) => {
                    self.take_in(told)?;
                    patience.renew();
                }
                Next::Nothing { down: true, .. } => {
                    member.await_broker(moved, &patience, NEEDED)?
                }
                Next::Nothing { .. } => member.wait(moved, &patience)?,
            }
        }
        Ok(())
    }

    /// Whether everybody whom it concerns knows its doorbell. Until then, waits for the broker that
    /// tells them, but not longer than 10 ms: one that is gone or stopped keeps nobody from looking
    /// at what is there.
    fn is_notified(&mut self, deadline: Option<Instant>) -> Result<bool> {
        if self.notified {
            return Ok(true);
        }
        self.register()?;
        let member = Arc::clone(&self.member);
        let soon = soon(deadline);
        loop {
            let moved = member.moved();
            match member.next()? {
                Next::Told(told) => self.take_in(told)?,
                Next::Nothing { .. } if self.notified => return Ok(true),
                Next::Nothing { .. } if Instant::now() >= soon => return Ok(false),
                Next::Nothing { .. } => member.wait_until(moved, soon),
            }
        }
    }

    /// Sleeps at its doorbell until there may be room, or the deadline. For a topic that
    /// [is foreign](bus_core::publish::Publisher::is_foreign). Where others do not know the
    /// doorbell yet, it looks again after 10 ms.
    #[cold]
    pub(super) fn sleep_parked(&mut self, deadline: Option<Instant>) -> Result<()> {
        if !self.is_notified(deadline)? {
            return Ok(());
        }
        if self.arm()?
            && let Some(own) = &self.own
        {
            wait_readable(own, deadline);
        }
        self.disarm();
        Ok(())
    }

    /// The same until other than `known` subscribers have joined. One that is joining may not know
    /// the doorbell: then it looks again after 10 ms. Nobody comes by itself to a place that is
    /// kept.
    #[cold]
    pub(super) fn sleep_parked_for_subscribers(
        &mut self,
        known: usize,
        deadline: Option<Instant>,
    ) -> Result<()> {
        if !self.is_notified(deadline)? {
            return Ok(());
        }
        let joining = self.core.joining() > self.places.len();
        let deadline = if joining {
            Some(soon(deadline))
        } else {
            deadline
        };
        if self.core.park_for_subscribers(known)
            && let Some(own) = &self.own
        {
            wait_readable(own, deadline);
        }
        self.disarm();
        Ok(())
    }

    /// Parks, if there has been no change since there was no room: whether it has.
    pub(crate) fn arm(&mut self) -> Result<bool> {
        self.own()?;
        let followers = self.core.followers();
        self.look_around()?;
        // Where somebody has gone, who was waited for may be another one now.
        Ok(self.core.followers() == followers && self.core.park())
    }

    /// While there is no broker, looks now and then who has gone.
    pub(crate) fn look_around(&mut self) -> Result<()> {
        if self.member.is_down() && self.attempts.due() {
            self.patrol()?;
        }
        Ok(())
    }

    /// Is awake again.
    pub(crate) fn unpark(&mut self) {
        self.core.unpark();
    }

    /// Is awake again, and its doorbell is readable no more.
    pub(crate) fn disarm(&mut self) {
        self.unpark();
        if let Some(own) = &self.own {
            own.drain();
        }
    }
}

#[cfg(feature = "tokio")]
impl Outlet {
    /// How long it spins at most.
    pub(crate) fn spin(&self) -> Duration {
        self.spin.full()
    }
}
