//! `futex_waitv(2)` and `futex(2)` `FUTEX_WAKE` on words in shared mappings.
//!
//! ```c
//! long syscall(SYS_futex_waitv, struct futex_waitv *waiters, unsigned nr, unsigned flags,
//!              struct timespec *timeout, clockid_t clock);
//! long syscall(SYS_futex, uint32_t *uaddr, FUTEX_WAKE, int count);
//! ```
//! Always the shared futex, never `PRIVATE`: sleeper and waker are different processes. The kernel needs no
//! write access to the word for either call.

use std::io;
use std::ptr;
use std::time::Instant;

use super::native::Word32;
use crate::wake::MAX_WORDS;

/// Sleeps until a word is woken or differs from its value, until the deadline, or a signal.
pub(super) fn wait_any(words: &[(&Word32, u32)], deadline: Option<Instant>) {
    // SAFETY: `futex_waitv` is a plain struct of integers, for which zero is a value.
    let mut waiters: [libc::futex_waitv; MAX_WORDS] = unsafe { std::mem::zeroed() };
    let count = words.len().min(MAX_WORDS);
    for (waiter, (word, value)) in waiters.iter_mut().zip(words) {
        waiter.val = u64::from(*value);
        waiter.uaddr = word.as_ptr() as u64;
        waiter.flags = libc::FUTEX2_SIZE_U32 as u32;
    }
    let timeout = deadline.map(monotonic);
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `waiters` and `timeout` outlive the call, and each `uaddr` is borrowed from `words`. Every
    // outcome (woken, a value that differs, a time-out, a signal) means the same to the caller: look again.
    unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            count,
            0,
            timeout,
            libc::CLOCK_MONOTONIC,
        );
    }
}

/// Whether this process can sleep at all: asks for a sleep on no word, which is refused as senseless where the call is there.
pub(super) fn check() -> io::Result<()> {
    let nothing = ptr::null::<libc::futex_waitv>();
    // SAFETY: no words, so no pointer is followed.
    unsafe { libc::syscall(libc::SYS_futex_waitv, nothing, 0, 0, nothing, 0) };
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        error => Err(error),
    }
}

/// Wakes everyone asleep on the word.
pub(super) fn wake_all(word: &Word32) {
    // SAFETY: the word is borrowed for the call; the kernel only looks up who sleeps on its page.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
}

/// The absolute time on `CLOCK_MONOTONIC`, which the kernel wants, of an [`Instant`], which hides it.
fn monotonic(deadline: Instant) -> libc::timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let nanos = i64::from(left.subsec_nanos()) + time.tv_nsec;
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    time.tv_sec = time
        .tv_sec
        .saturating_add(seconds)
        .saturating_add(nanos / 1_000_000_000);
    time.tv_nsec = nanos % 1_000_000_000;
    time
}
