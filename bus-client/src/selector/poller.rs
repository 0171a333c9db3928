//! The kernel's part of a selector: one epoll, and one timerfd.
//!
//! ```text
//!  what                       watched for            how
//!  a subscription's doorbell  readable               each ring once; its owner drains it then
//!  the timerfd                readable               each time once
//!  a descriptor of the owner  what the owner wants   for as long as it is ready
//! ```

use std::cell::OnceCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use bus_core::fork::{Birth, Unshared};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::Interest;
use crate::handle::here;
use crate::{Error, Result};

/// Events that are taken from the kernel at a time.
const EVENTS: usize = 64;
/// The timerfd's number; those of others are their places.
const TIMERS: u64 = u64::MAX;

/// What has fired.
pub(crate) enum Fired {
    /// The kernel's clock.
    Timers,
    /// What is at this place.
    Ready(u32),
}

pub(crate) struct Poller {
    epoll: Unshared<Epoll>,
    clock: OnceCell<Unshared<TimerFd>>,
    birth: Birth,
}

impl Poller {
    pub(crate) fn new() -> Result<Self> {
        let epoll = Unshared::of(
            || Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC),
            |epoll| epoll.0.as_raw_fd(),
        )
        .map_err(|e| Error::selector("make an epoll", e))?;
        Ok(Self {
            epoll,
            clock: OnceCell::new(),
            birth: Birth::here(),
        })
    }

    fn add(&self, fd: impl AsFd, flags: EpollFlags, number: u64) -> Result<()> {
        here(self.birth)?;
        self.epoll
            .add(fd, EpollEvent::new(flags, number))
            .map_err(|e| Error::selector("watch a descriptor", e))
    }

    /// Watches a doorbell: each ring once.
    pub(crate) fn watch_doorbell(&self, place: u32, own: &impl AsFd) -> Result<()> {
        self.add(own, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, place.into())
    }

    pub(crate) fn watch_descriptor(
        &self,
        place: u32,
        fd: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<()> {
        let flags = match interest {
            Interest::Readable => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
            Interest::Writable => EpollFlags::EPOLLOUT,
            Interest::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLOUT,
        };
        self.add(fd, flags, place.into())
    }

    pub(crate) fn watch_timers(&self) -> Result<()> {
        if self.clock.get().is_none() {
            let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
            let clock = Unshared::new(|| TimerFd::new(ClockId::CLOCK_MONOTONIC, flags))
                .map_err(|e| Error::selector("make a timerfd", e))?;
            self.add(&*clock, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMERS)?;
            let _ = self.clock.set(clock);
        }
        Ok(())
    }

    /// Lets the clock fire after this time.
    pub(crate) fn set_timer(&self, after: Duration) -> Result<()> {
        let Some(clock) = self.clock.get() else {
            return Ok(());
        };
        // None at all would stop it.
        let after = TimeSpec::from_duration(after.max(Duration::from_nanos(1)));
        clock
            .set(Expiration::OneShot(after), TimerSetTimeFlags::empty())
            .map_err(|e| Error::selector("set a timerfd", e))
    }

    /// Watches it no more.
    pub(crate) fn forget(&self, fd: BorrowedFd<'_>) {
        // One that was closed is forgotten already.
        let _ = self.epoll.delete(fd);
    }

    /// Waits until something has fired, or the time is over, or a signal came.
    pub(crate) fn wait(
        &self,
        timeout: Option<Duration>,
        mut fired: impl FnMut(Fired),
    ) -> Result<()> {
        here(self.birth)?;
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            // Rounded up, so that the last bit of the time is slept and not spun away.
            Some(timeout) => EpollTimeout::try_from(timeout.as_nanos().div_ceil(1_000_000) as u64)
                .unwrap_or(EpollTimeout::MAX),
        };
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(e) => return Err(Error::selector("wait", e)),
        };
        for event in &events[..count] {
            fired(match event.data() {
                TIMERS => Fired::Timers,
                place => Fired::Ready(place as u32),
            });
        }
        Ok(())
    }
}
