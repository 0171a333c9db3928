//! `membarrier(2)`: one process pays for the fences of all.
//!
//! ```c
//! long syscall(SYS_membarrier, int cmd, unsigned flags, int cpu_id);
//! ```
//! A process registers once, before its first handle. From then on its data path needs no fence of its own: whoever goes to
//! sleep runs `MEMBARRIER_CMD_GLOBAL_EXPEDITED`, which runs a full barrier on every processor that runs a registered
//! process. A process that may not register gets no handle: its peers could not fence it.

use std::io;
use std::thread;
use std::time::Duration;

const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

/// By then every processor has drained its store buffer without being asked.
const DRAINED: Duration = Duration::from_millis(1);

fn membarrier(command: libc::c_int) -> io::Result<()> {
    // SAFETY: the call takes integers only.
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Registers this process, so that its peers can fence it. Doing so again does nothing.
pub(super) fn register() -> io::Result<()> {
    membarrier(REGISTER_GLOBAL_EXPEDITED)
}

/// Runs a full barrier on every processor that runs a registered process.
///
/// Registered processes are refused only for want of memory, or by a sandbox that came later. Then this waits
/// until the barrier would have made no difference.
pub(super) fn run() {
    if membarrier(GLOBAL_EXPEDITED).is_err() {
        thread::sleep(DRAINED);
    }
}
