//! A lock of one process that lends its holder the priority of whoever waits for it.
//!
//! A thread with a real-time priority that waits for the lock lifts the holder to that priority until the holder is
//! done: a third thread between the two priorities cannot keep both waiting. The kernel does that
//! (`FUTEX_LOCK_PI`, `futex(2)`); a lock that nobody else wants costs one system call, `gettid(2)`.
//!
//! ```c
//! long syscall(SYS_futex, uint32_t *word, FUTEX_LOCK_PI_PRIVATE, 0, struct timespec *timeout);
//! long syscall(SYS_futex, uint32_t *word, FUTEX_UNLOCK_PI_PRIVATE);
//! ```
//!
//! Promises: one thread at a time has what is inside. It uses no thread-local, so that it works while a thread ends.
//! A holder that panics unlocks; what is inside is as the panic left it. It asks that no thread locks twice, and that no
//! forked child locks: the holder may not be in the child.

use std::cell::UnsafeCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::backend::{Backend, Native};

type Word = <Native as Backend>::Word32;

/// Between two tries where the kernel or a sandbox refuses such locks.
const AGAIN: Duration = Duration::from_micros(50);

/// The lock, and what it protects.
#[derive(Debug, Default)]
pub struct Lock<T> {
    /// 0, or the holder's thread number; the kernel sets the top bit while somebody waits.
    word: Word,
    value: UnsafeCell<T>,
}

// SAFETY: one thread at a time has a guard, and only a guard leads to the value.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A lock that nobody has.
    pub fn new(value: T) -> Self {
        Self {
            word: Word::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        let me = thread_number();
        // ORDERING: acquire pairs with the release of the unlock: what the last holder wrote is seen.
        let free = self
            .word
            .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed);
        if free.is_err() {
            self.wait(me);
        }
        Guard { lock: self }
    }

    #[cold]
    fn wait(&self, me: u32) {
        loop {
            match self.call(libc::FUTEX_LOCK_PI) {
                Ok(()) => return,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::EAGAIN) => {}
                    Some(libc::EDEADLK) => unreachable!("no thread locks twice"),
                    // No such locks here, or no memory for one: then without a priority that is lent.
                    _ => std::thread::sleep(AGAIN),
                },
            }
            // ORDERING: as in `lock`.
            let free = self
                .word
                .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed);
            if free.is_ok() {
                return;
            }
        }
    }

    fn call(&self, operation: libc::c_int) -> io::Result<()> {
        let operation = operation | libc::FUTEX_PRIVATE_FLAG;
        let no_timeout = std::ptr::null::<libc::timespec>();
        // SAFETY: the word is borrowed for the call, which reads and writes no other memory of this process.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.word.as_ptr(),
                operation,
                0,
                no_timeout,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }
}

/// The number of the calling thread, as the kernel knows it. From the kernel each time: a cached one is a
/// thread-local, and is wrong in a forked child.
fn thread_number() -> u32 {
    // SAFETY: it has no arguments, and cannot fail.
    let number = unsafe { libc::syscall(libc::SYS_gettid) };
    number as u32
}

/// Whoever has this has the lock.
#[derive(Debug)]
pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard is the only one, and is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        let me = thread_number();
        // ORDERING: release pairs with the acquire of the next holder. It fails where the kernel has noted a waiter.
        let freed = self
            .lock
            .word
            .compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
        if freed.is_err() {
            // The kernel hands the lock to the waiter with the highest priority, with a full barrier.
            let unlocked = self.lock.call(libc::FUTEX_UNLOCK_PI);
            debug_assert!(
                unlocked.is_ok(),
                "the kernel knows the holder: {unlocked:?}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn no_two_threads_have_it_at_once() {
        const ROUNDS: u64 = 20_000;
        let lock = Lock::new((0_u64, 0_u64));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let mut value = lock.lock();
                        value.0 += 1;
                        value.1 += 1;
                        assert_eq!(value.0, value.1);
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), (4 * ROUNDS, 4 * ROUNDS));
    }

    #[test]
    fn a_holder_that_panics_lets_go() {
        let lock = Lock::new(0);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = lock.lock();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        *lock.lock() += 1;
        assert_eq!(*lock.lock(), 1);
    }

    /// The kernel notes the waiter in the word, which is what lets it lend the priority.
    #[test]
    fn a_waiter_is_known_to_the_kernel() {
        let lock = Lock::new(());
        let (tell, told) = channel();
        thread::scope(|scope| {
            let held = lock.lock();
            scope.spawn(|| {
                tell.send(thread_number()).unwrap();
                drop(lock.lock());
            });
            let waiter = told.recv().unwrap();
            // ORDERING: a test that waits for a value.
            while lock.word.load(Ordering::Relaxed) & libc::FUTEX_WAITERS == 0 {
                thread::yield_now();
            }
            assert_ne!(waiter, thread_number());
            drop(held);
        });
        // ORDERING: nobody else is there.
        assert_eq!(lock.word.load(Ordering::Relaxed), 0);
    }
}
