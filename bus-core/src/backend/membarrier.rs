//! `membarrier(2)`: one process pays for the fences of all.
//!
//! ```c
//! long syscall(SYS_membarrier, int cmd, unsigned flags, int cpu_id);
//! ```
//! A process registers once. From then on its data path needs no fence of its own: whoever goes to sleep
//! runs `MEMBARRIER_CMD_GLOBAL_EXPEDITED`, which runs a full barrier on every processor that runs a
//! registered process. Where the kernel refuses, this process fences its own data path, and cannot
//! fence that of others: then its sleeps are bounded (see [`works`]).

use std::sync::atomic::{AtomicU8, Ordering};

const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

#[cold]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes integers only.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// What is known of this process: nothing yet, that membarrier works, or that it does not.
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const WORKS: u8 = 1;
const REFUSED: u8 = 2;

/// Registers this process at the first call; whether membarrier works for it.
#[inline(always)]
pub(super) fn works() -> bool {
    // ORDERING: the call that registers orders itself; who registers twice does no harm.
    match STATE.load(Ordering::Relaxed) {
        UNKNOWN => register(),
        state => state == WORKS,
    }
}

#[cold]
fn register() -> bool {
    let works = membarrier(REGISTER_GLOBAL_EXPEDITED);
    // ORDERING: as in `works`.
    STATE.store(if works { WORKS } else { REFUSED }, Ordering::Relaxed);
    works
}

/// Runs a full barrier on every processor that runs a registered process.
pub(super) fn run() -> bool {
    membarrier(GLOBAL_EXPEDITED)
}
