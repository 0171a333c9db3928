//! The floor of waiting for descriptors: two processes with a bare eventfd and a bare epoll, which never spin.
//!
//! A link is one eventfd, inherited from the parent: the publisher adds its word to the count, one call each time; the subscriber waits in
//! epoll and reads the count off. Like a line, a link holds one message, so a sender must hear back before it sends
//! again.
#![allow(unsafe_code)]

use crate::payload::{Payload, Tally, digest};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll as Poller, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};
use std::os::fd::{BorrowedFd, RawFd};

/// Makes the eventfd of a link. Children inherit it.
///
/// # Errors
/// No descriptor is left.
pub fn create() -> Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_NONBLOCK).context("making an eventfd failed")
}

/// The bare epoll as a transport. Payload: 8 bytes, always; 2^32 messages at most.
#[derive(Debug)]
pub enum Epoll {}

impl Transport for Epoll {
    type Publisher = EpollPublisher;
    type Subscriber = EpollSubscriber;

    fn publisher(place: &Place<'_>) -> Result<EpollPublisher> {
        Ok(EpollPublisher {
            eventfd: eventfd(place)?,
        })
    }

    fn subscriber(place: &Place<'_>) -> Result<EpollSubscriber> {
        let eventfd = eventfd(place)?;
        let epoll =
            Poller::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll failed")?;
        epoll
            .add(eventfd, EpollEvent::new(EpollFlags::EPOLLIN, 0))
            .context("watching the eventfd failed")?;
        Ok(EpollSubscriber { eventfd, epoll })
    }
}

fn eventfd(place: &Place<'_>) -> Result<BorrowedFd<'static>> {
    ensure!(
        place.job.payload == 8,
        "an eventfd carries 8 bytes, not {}",
        place.job.payload
    );
    let fd: RawFd = place.eventfds[place.link];
    // SAFETY: inherited from the parent, and nothing closes it in this process.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Adds to the count.
#[derive(Debug)]
pub struct EpollPublisher {
    eventfd: BorrowedFd<'static>,
}

impl Publish for EpollPublisher {
    #[inline]
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        for _ in 0..batch {
            let value = u64::from(digest(payload.next_message()) as u32) + 1;
            write(self.eventfd, &value.to_ne_bytes()).context("writing the eventfd failed")?;
        }
        Ok(())
    }
}

/// Waits for the count, and reads it off.
#[derive(Debug)]
pub struct EpollSubscriber {
    eventfd: BorrowedFd<'static>,
    epoll: Poller,
}

impl Receive for EpollSubscriber {
    #[inline]
    fn receive(&mut self, _limit: usize, tally: &mut Tally) -> Result<()> {
        let mut events = [EpollEvent::empty(); 8];
        loop {
            match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(0) | Err(Errno::EINTR) => continue,
                waited => waited.context("waiting failed")?,
            };
            let mut value = [0; 8];
            read(self.eventfd, &mut value).context("reading the eventfd failed")?;
            tally.take(&(u64::from_ne_bytes(value) - 1).to_le_bytes());
            return Ok(());
        }
    }
}
