//! A selector's wait: who is looked at, in which order, and when it sleeps.
//!
//! Promises: what is ready is reported in turn; before a sleep all that have nothing are parked, with one fence, and looked at once
//! more; what is parked is not touched until it fires.

use std::time::{Duration, Instant};

use bus_core::backend::Native;
use bus_core::wake::{Spin, fence_parked};

use super::places::{What, heat};
use super::poller::Fired;
use super::{ASK, SPIN_SOURCES, Selector, Token};
use crate::Result;

impl Selector<'_> {
    pub(super) fn wait_until(&mut self, deadline: Option<Instant>) -> Result<Option<Token>> {
        self.let_others_in()?;
        if let Some(token) = self.next_hot() {
            return Ok(Some(token));
        }
        let spin = self.look_again(deadline);
        let found = self.sleep_until(deadline);
        if let Some(spin) = spin {
            self.spin.learn(&spin);
        }
        found
    }

    /// Sleeps until something is ready, with all that is quiet parked.
    fn sleep_until(&mut self, deadline: Option<Instant>) -> Result<Option<Token>> {
        loop {
            if let Some(token) = self.next_hot() {
                return Ok(Some(token));
            }
            self.park_quiet();
            if !self.hot.is_empty() {
                continue;
            }
            let now = Instant::now();
            self.timers.set(&self.poller, now)?;
            self.ask(deadline.map(|until| until.saturating_duration_since(now)))?;
            if let Some(token) = self.next_hot() {
                return Ok(Some(token));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    }

    /// When all that is hot has had its turn: what else has fired, if that was not asked just now.
    #[inline]
    fn let_others_in(&mut self) -> Result<()> {
        if self.hot.is_empty() || self.reports < self.hot.len() {
            return Ok(());
        }
        if self.asked.elapsed() >= ASK {
            self.ask(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    /// Asks the kernel what has fired, and waits for it as long as it may.
    fn ask(&mut self, timeout: Option<Duration>) -> Result<()> {
        let (hot, entries) = (&mut self.hot, &mut self.entries);
        self.poller.wait(timeout, |fired| match fired {
            Fired::Timers => {}
            Fired::Ready(place) => {
                // Before the look: a ring that comes after this fires again.
                if let What::Subscription { own, .. } = &entries[place as usize].what {
                    own.drain();
                }
                heat(hot, entries, place);
            }
        })?;
        let now = Instant::now();
        (self.asked, self.reports) = (now, 0);
        while let Some(token) = self.timers.due(now) {
            self.heat(token.index);
        }
        Ok(())
    }

    /// Looks again for a while, where there is little to look at.
    fn look_again(&mut self, deadline: Option<Instant>) -> Option<Spin> {
        let quiet = self.quiet.len();
        let no_time = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if quiet == 0 || quiet > SPIN_SOURCES || no_time {
            return None;
        }
        let mut spin = self.spin.start();
        while spin.turn::<Native>() {
            let found = self.quiet.iter().position(|place| {
                let entry = &self.entries[*place as usize];
                entry.looks(|inlet| inlet.glance())
            });
            if let Some(at) = found {
                let place = self.quiet.swap_remove(at);
                self.heat(place);
                break;
            }
        }
        Some(spin)
    }

    /// The next in turn that is ready.
    #[inline]
    fn next_hot(&mut self) -> Option<Token> {
        while let Some(index) = self.hot.pop_front() {
            let entry = &mut self.entries[index as usize];
            entry.hot = false;
            let generation = entry.generation;
            let token = Token { index, generation };
            match &mut entry.what {
                What::Free => continue,
                What::Descriptor(_) => {}
                What::Timer => {
                    if !self.timers.has(token) {
                        self.release(index);
                    }
                }
                What::Subscription { source, parked, .. } => {
                    let mut ready = false;
                    let there = source.with(&mut |inlet| {
                        if *parked {
                            inlet.unpark();
                            *parked = false;
                        }
                        // An error is there to be told, by the subscriber.
                        ready = inlet.ready().unwrap_or(true);
                    });
                    if !there {
                        self.release(index);
                        continue;
                    }
                    if !ready {
                        self.quiet.push(index);
                        continue;
                    }
                    entry.hot = true;
                    self.hot.push_back(index);
                }
            }
            self.reports += 1;
            return Some(token);
        }
        None
    }

    /// Parks all that are quiet, with one fence; what has something by then is hot again.
    fn park_quiet(&mut self) {
        if self.quiet.is_empty() {
            return;
        }
        let mut quiet = std::mem::take(&mut self.quiet);
        for place in &quiet {
            if let What::Subscription {
                source,
                parked,
                own,
                ..
            } = &mut self.entries[*place as usize].what
            {
                source.with(&mut |inlet| inlet.park_at(own));
                *parked = true;
            }
        }
        fence_parked();
        for place in quiet.drain(..) {
            if self.entries[place as usize].looks(|inlet| inlet.ready().unwrap_or(true)) {
                self.heat(place);
            }
        }
        // Its room is for the next time.
        self.quiet = quiet;
    }

    pub(super) fn heat(&mut self, place: u32) {
        heat(&mut self.hot, &mut self.entries, place);
    }
}
