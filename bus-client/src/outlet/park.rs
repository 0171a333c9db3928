//! A publisher that sleeps for room on a descriptor of its own.
//!
//! Promises: from [`Outlet::arm`] on, whatever may make room rings the doorbell. It does not sleep: that is for whoever has the
//! descriptor. Without a broker nobody rings for a subscriber that died, so who waits looks around every 100 ms then.

use std::sync::Arc;

use bus_core::backend::doorbell::Doorbell;

#[cfg(feature = "tokio")]
use {crate::member::Member, std::time::Duration};

use super::Outlet;
use crate::Result;

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
        if self.own.is_none() {
            let own = Doorbell::new().map_err(|e| self.member.wrap(e))?;
            self.member.notify(own.button())?;
            self.own = Some(Arc::new(own));
        }
        // An answer that was too late for the last call is still to come.
        while !self.notified {
            let (event, descriptors) = self.member.answer()?;
            self.apply(event, descriptors)?;
        }
        Ok(())
    }

    /// Parks, if there has been no change since there was no room: whether it has.
    pub(crate) fn arm(&mut self) -> Result<bool> {
        self.own()?;
        let followers = self.core.followers();
        if self.attempts.due() {
            self.patrol()?;
        }
        // Where somebody has gone, who was waited for may be another one now.
        Ok(self.core.followers() == followers && self.core.park())
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
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Whether the broker is gone, as far as is known.
    pub(crate) fn orphaned(&self) -> bool {
        self.member.orphaned()
    }

    /// How long it spins at most.
    pub(crate) fn spin(&self) -> Duration {
        self.spin.full()
    }
}
