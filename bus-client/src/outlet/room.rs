//! Waiting for room, as the topic says: as long as it takes, as long as the user allows, until somebody is evicted, or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::{Delivery, publish};

use super::Outlet;
use super::notice::LongWait;
use crate::wait::{Step, Wait, deadline};
use crate::{Error, Result};

impl Outlet {
    /// There was no room, as far as the core could see: is there some now, without waiting?
    ///
    /// # Errors
    /// [`Error::Full`] where it has waited as long as the topic allows, and evicting somebody would not help.
    #[cold]
    pub(super) fn goes_on(&mut self) -> Result<bool> {
        match self.settings.delivery {
            // It only wants to know of somebody who joins before it goes on.
            Delivery::Lossy => Ok(true),
            Delivery::Evict { .. } => match self.core.evict_stalled() {
                publish::Overdue::No => Ok(false),
                publish::Overdue::Evicted => {
                    tracing::warn!(topic = self.member.topic(), "evicted who made no progress");
                    Ok(true)
                }
                publish::Overdue::Held => Err(Error::Full {
                    topic: self.member.topic(),
                    slowest: "nobody who is waited for is behind, but messages that subscribers hold take all the room".into(),
                    advice: "a larger arena takes more of them",
                    room: self.room(),
                }),
            },
            Delivery::Wait | Delivery::Fail => Ok(false),
        }
    }

    /// Tries until there is room, or the time is over.
    #[inline(always)]
    pub(crate) fn until<R>(
        &mut self,
        timeout: Option<Duration>,
        mut attempt: impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<R> {
        self.refresh()?;
        match attempt(&mut self.core) {
            Ok(Some(done)) => Ok(done),
            Ok(None) if self.settings.delivery == Delivery::Fail => self.once(attempt),
            Ok(None) => self.wait(timeout, attempt),
            Err(error) => Err(self.member.wrap(error)),
        }
    }

    #[cold]
    fn wait<R>(
        &mut self,
        timeout: Option<Duration>,
        mut attempt: impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<R> {
        self.core.begin_wait();
        let done = self.wait_on(timeout, &mut attempt);
        self.core.end_wait();
        self.stalls.end();
        done
    }

    fn wait_on<R>(
        &mut self,
        timeout: Option<Duration>,
        attempt: &mut impl FnMut(&mut publish::Publisher) -> bus_core::Result<Option<R>>,
    ) -> Result<R> {
        let mut wait = Wait::new(&self.spin, deadline(timeout));
        let mut long = LongWait::default();
        loop {
            match self.step(&mut wait, &mut long)? {
                Step::Over => {
                    if self.attempts.failed() {
                        self.patrol()?;
                    }
                    return Err(self.member.timeout("room"));
                }
                Step::Again | Step::Sleep(_) => self.refresh()?,
            }
            match attempt(&mut self.core) {
                Ok(Some(done)) => {
                    self.spin.learn(wait.spin());
                    return Ok(done);
                }
                Ok(None) => {}
                Err(error) => return Err(self.member.wrap(error)),
            }
        }
    }

    /// One step of a wait for room. Sleeps, at most as long as it may without looking after the peers and the time that they are allowed.
    #[inline(always)]
    fn step(&mut self, wait: &mut Wait, long: &mut LongWait) -> Result<Step> {
        if self.settings.delivery.overruns() && self.goes_on()? {
            return Ok(Step::Again);
        }
        let step = wait.step();
        if let Step::Sleep(until) = step {
            self.stalls
                .begin(wait.spin().began(), self.core.slowest().map(|(id, _)| id));
            let until = match self.settings.delivery {
                Delivery::Evict { after_us } => {
                    let look = Instant::now() + Duration::from_micros(after_us / 8 + 1);
                    Some(until.map_or(look, |until| until.min(look)))
                }
                _ => until,
            };
            let member = Arc::clone(&self.member);
            let news = member.news();
            self.look_around()?;
            let notice = self.notice_wait(long);
            let until = until.into_iter().chain(notice).min();
            if self.core.is_foreign() {
                self.sleep_parked(until)?;
            } else {
                self.core.sleep_or_poked(news, until);
            }
        }
        Ok(step)
    }
}
