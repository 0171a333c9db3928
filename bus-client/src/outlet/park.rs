//! A publisher that sleeps for room on a descriptor of its own.
//!
//! Promises: from [`Outlet::arm`] on, whatever may make room rings the doorbell. It does not sleep: that is for whoever has the
//! descriptor. While there is no broker nobody rings for a subscriber that died; then the session rings every 100 ms, and who waits looks around.

use std::sync::Arc;

use bus_core::backend::doorbell::Doorbell;

#[cfg(feature = "tokio")]
use std::time::Duration;

use super::Outlet;
use crate::Result;
use crate::handle::{NEEDED, Patience};
use crate::session::Next;

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

    #[cold]
    fn become_notified(&mut self) -> Result<()> {
        let own = match &self.own {
            Some(own) => own,
            None => {
                let own = Doorbell::new().map_err(|e| self.member.wrap(e))?;
                self.own.insert(Arc::new(own))
            }
        };
        let member = Arc::clone(&self.member);
        member.check_here()?;
        member.register(own);
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
