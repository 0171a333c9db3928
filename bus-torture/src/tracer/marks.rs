//! How a traced process says where it stands: with a signal to itself, at which its tracer finds it, and which it never gets.
//!
//! A process that is not traced dies of it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What is tried begins.
pub const BEGIN: Signal = Signal::SIGUSR1;
/// What is tried has ended.
pub const END: Signal = Signal::SIGUSR2;

/// Stands at a mark. The first thread of the process has to call it: that is the one which the kernel then chooses.
pub fn stand(mark: Signal) {
    // It cannot fail: this process is there, and may signal itself.
    let _ = kill(Pid::this(), mark);
}
