//! The floor of waking: two processes that use a bare futex and never spin.
//!
//! A link is one word: the publisher changes it and wakes, one call each time;
//! the subscriber looks once and sleeps while it is unchanged. Like a line, a
//! link holds one message, so a sender must hear back before it sends again.
#![allow(unsafe_code)]

use super::layout;
use crate::payload::{Payload, Tally, digest};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Result, bail, ensure};
use nix::errno::Errno;
use std::ptr::null;
use std::sync::atomic::{AtomicU32, Ordering};

/// The bare futex as a transport. Payload: 8 bytes, always; 2^32 messages at most.
#[derive(Debug)]
pub enum Futex {}

impl Transport for Futex {
    type Publisher = FutexPublisher;
    type Subscriber = FutexSubscriber;

    fn publisher(place: &Place<'_>) -> Result<FutexPublisher> {
        Ok(FutexPublisher { bell: bell(place)? })
    }

    fn subscriber(place: &Place<'_>) -> Result<FutexSubscriber> {
        Ok(FutexSubscriber {
            bell: bell(place)?,
            seen: 0,
        })
    }
}

fn bell(place: &Place<'_>) -> Result<&'static AtomicU32> {
    ensure!(
        place.job.payload == 8,
        "a futex carries 8 bytes, not {}",
        place.job.payload
    );
    Ok(place.memory.bell(layout::ring(place.job, place.link, 0)))
}

/// Changes the word and wakes.
#[derive(Debug)]
pub struct FutexPublisher {
    bell: &'static AtomicU32,
}

impl Publish for FutexPublisher {
    #[inline]
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        for _ in 0..batch {
            let value = (digest(payload.next_message()) as u32).wrapping_add(1);
            // ORDERING: Release pairs with the Acquire load of `FutexSubscriber::receive`.
            self.bell.store(value, Ordering::Release);
            // SAFETY: the word is mapped for the rest of the process; FUTEX_WAKE reads nothing else.
            let woken =
                unsafe { libc::syscall(libc::SYS_futex, self.bell.as_ptr(), libc::FUTEX_WAKE, 1) };
            if woken < 0 {
                bail!("FUTEX_WAKE failed: {}", Errno::last());
            }
        }
        Ok(())
    }
}

/// Sleeps until the word changes.
#[derive(Debug)]
pub struct FutexSubscriber {
    bell: &'static AtomicU32,
    seen: u32,
}

impl Receive for FutexSubscriber {
    #[inline]
    fn receive(&mut self, _limit: usize, tally: &mut Tally) -> Result<()> {
        loop {
            // ORDERING: Acquire pairs with the Release store of `FutexPublisher::publish`.
            let value = self.bell.load(Ordering::Acquire);
            if value != self.seen {
                self.seen = value;
                tally.take(&u64::from(value.wrapping_sub(1)).to_le_bytes());
                return Ok(());
            }
            // SAFETY: the word is mapped for the rest of the process; a null time-out means none.
            let slept = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.bell.as_ptr(),
                    libc::FUTEX_WAIT,
                    self.seen,
                    null::<libc::timespec>(),
                )
            };
            if slept < 0 {
                match Errno::last() {
                    Errno::EAGAIN | Errno::EINTR => {}
                    error => bail!("FUTEX_WAIT failed: {error}"),
                }
            }
        }
    }
}
