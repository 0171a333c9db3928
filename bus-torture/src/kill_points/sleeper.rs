//! Survivors that sleep in the kernel when the victim begins, each on a thread of its own: a subscriber, and a publisher.
//!
//! Promises: what a thread found wrong comes out of the next question to it. Dropping one ends its thread, in a second at most.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bus_client::{BytesPublisher, BytesSubscriber};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::gettid;

use super::content::Content;
use super::fault::Fault;
use super::operation::SHORT;
use super::reader::Accounts;
use crate::tracer::asleep;

/// One sleep, at most.
const NAP: Duration = Duration::from_secs(1);
/// How long a survivor may take to go to sleep.
const PATIENCE: Duration = Duration::from_secs(10);

/// Instead of a number of messages: it looks who is there.
const LOOK_AROUND: u64 = u64::MAX;

/// How a subscriber sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// On the bells.
    Bell,
    /// Parked on its descriptor.
    Descriptor,
}

/// A subscriber that sleeps whenever nothing is there.
pub struct SleepingReader {
    thread: Option<JoinHandle<()>>,
    number: u32,
    how: Sleep,
    accounts: Arc<Mutex<Accounts>>,
    found: Receiver<Fault>,
    stop: Arc<AtomicBool>,
}

impl SleepingReader {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start(subscriber: BytesSubscriber, how: Sleep) -> Result<Self, Fault> {
        let accounts = Arc::new(Mutex::new(Accounts::new(false)));
        let stop = Arc::new(AtomicBool::new(false));
        let (say, found) = channel();
        let (told, number) = channel();
        let (entered, asked) = (accounts.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("sleeper".into())
            .spawn(move || {
                let _ = told.send(gettid().as_raw().cast_unsigned());
                // ORDERING: a request that is to be seen some time.
                while !asked.load(Ordering::Relaxed) {
                    if let Err(fault) = wait_for_one(&subscriber, how, &entered) {
                        let _ = say.send(fault);
                        return;
                    }
                }
            })
            .map_err(Fault::run)?;
        let number = number.recv().map_err(Fault::run)?;
        Ok(Self {
            thread: Some(thread),
            number,
            how,
            accounts,
            found,
            stop,
        })
    }

    /// Waits until it sleeps in the kernel.
    ///
    /// # Errors
    /// It does not.
    pub fn await_asleep(&self) -> Result<(), Fault> {
        let calls: &[i64] = match self.how {
            Sleep::Bell => &[libc::SYS_futex_waitv],
            Sleep::Descriptor => &[libc::SYS_poll, libc::SYS_ppoll],
        };
        await_asleep(self.number, calls)
    }

    /// How many messages of this publisher have come.
    ///
    /// # Errors
    /// Something that came was wrong.
    pub fn of(&self, tag: u64) -> Result<u64, Fault> {
        if let Ok(fault) = self.found.try_recv() {
            return Err(fault);
        }
        Ok(self
            .accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .of(tag))
    }

    /// See [`Accounts::forget`].
    pub fn forget(&self, tag: u64) {
        self.accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .forget(tag);
    }
}

impl Drop for SleepingReader {
    fn drop(&mut self) {
        // ORDERING: as in `start`.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for a message, or until it is time to look whether it is to end.
fn wait_for_one(
    subscriber: &BytesSubscriber,
    how: Sleep,
    accounts: &Mutex<Accounts>,
) -> Result<(), Fault> {
    let message = match how {
        Sleep::Bell => subscriber.recv_timeout(NAP)?,
        Sleep::Descriptor => {
            if subscriber.arm()? {
                let fd = subscriber.poll_fd()?;
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                let timeout = PollTimeout::try_from(NAP.as_millis()).unwrap_or(PollTimeout::MAX);
                // Woken, interrupted or out of time: it looks.
                let _ = poll(&mut fds, timeout);
            }
            subscriber.disarm();
            subscriber.try_recv()?
        }
    };
    if let Some(message) = message {
        let mut accounts = accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.enter(&message)?;
    }
    Ok(())
}

/// A publisher that sends as many as it is told to, and sleeps where there is no room.
pub struct SleepingWriter {
    thread: Option<JoinHandle<()>>,
    number: u32,
    tell: Option<Sender<u64>>,
    sent: Receiver<Result<u64, Fault>>,
    /// Messages that it was told to send, and those that it has.
    due: u64,
    done: u64,
}

impl SleepingWriter {
    /// Starts it; its messages have this tag.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start(mut publisher: BytesPublisher, tag: u64) -> Result<Self, Fault> {
        let (tell, told) = channel::<u64>();
        let (say, sent) = channel();
        let (name, number) = channel();
        let thread = thread::Builder::new()
            .name("waiter".into())
            .spawn(move || {
                let _ = name.send(gettid().as_raw().cast_unsigned());
                let mut sequence = 0;
                while let Ok(count) = told.recv() {
                    if count == LOOK_AROUND {
                        let looked = publisher.subscribers();
                        if say.send(looked.map(|_| 0).map_err(Fault::from)).is_err() {
                            return;
                        }
                        continue;
                    }
                    for _ in 0..count {
                        let bytes = Content { tag, sequence }.bytes(SHORT);
                        sequence += 1;
                        if say
                            .send(publisher.send(&bytes).map_err(Fault::from))
                            .is_err()
                        {
                            return;
                        }
                    }
                }
            })
            .map_err(Fault::run)?;
        let number = number.recv().map_err(Fault::run)?;
        Ok(Self {
            thread: Some(thread),
            number,
            tell: Some(tell),
            sent,
            due: 0,
            done: 0,
        })
    }

    /// Lets it send so many more.
    pub fn send(&mut self, count: u64) {
        if let Some(tell) = &self.tell {
            // One that has failed says so when it is asked.
            let _ = tell.send(count);
            self.due += count;
        }
    }

    /// Waits until it has sent so many in all.
    ///
    /// # Errors
    /// One failed, or took longer than `patience`.
    pub fn await_sent(&mut self, count: u64, patience: Duration) -> Result<(), Fault> {
        let deadline = Instant::now() + patience;
        while self.done < count {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.sent.recv_timeout(left) {
                Ok(sent) => {
                    sent?;
                    self.done += 1;
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Fault::Slow(format!(
                        "a publisher that slept for room has sent {} of {count} messages",
                        self.done
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Fault::run("the thread of a publisher has ended"));
                }
            }
        }
        Ok(())
    }

    /// Lets it hear who has left. It must not sleep for room.
    ///
    /// # Errors
    /// Its handle is of no use any more.
    pub fn look_around(&mut self) -> Result<(), Fault> {
        if let Some(tell) = &self.tell {
            let _ = tell.send(LOOK_AROUND);
        }
        match self.sent.recv_timeout(PATIENCE) {
            Ok(looked) => looked.map(|_| ()),
            Err(error) => Err(Fault::run(error)),
        }
    }

    /// Messages that it was told to send so far.
    #[must_use]
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Waits until it sleeps in the kernel for room.
    ///
    /// # Errors
    /// It does not.
    pub fn await_asleep(&self) -> Result<(), Fault> {
        await_asleep(self.number, &[libc::SYS_futex_waitv])
    }
}

impl Drop for SleepingWriter {
    fn drop(&mut self) {
        self.tell = None;
        // One that sleeps for ever is left alone: the run has said so, and ends.
        if let Some(thread) = self.thread.take().filter(|_| self.done == self.due) {
            let _ = thread.join();
        }
    }
}

fn await_asleep(thread: u32, calls: &[i64]) -> Result<(), Fault> {
    let deadline = Instant::now() + PATIENCE;
    while !asleep::call(std::process::id(), thread).is_some_and(|call| calls.contains(&call)) {
        if Instant::now() >= deadline {
            return Err(Fault::run("a survivor that is to sleep does not"));
        }
        thread::yield_now();
    }
    Ok(())
}
