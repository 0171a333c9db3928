//! How a traced process says where it stands: with a signal to itself, at which its tracer finds it, and which it never gets.
//!
//! A process that is not traced dies of it.

use nix::sys::signal::{Signal, raise};

/// What is tried begins.
pub const BEGIN: Signal = Signal::SIGUSR1;
/// What is tried has ended.
pub const END: Signal = Signal::SIGUSR2;

/// Stands at a mark. The signal is for the calling thread, which is the traced one: another one, that of the session, would die of it.
pub fn stand(mark: Signal) {
    // It cannot fail: this thread is there, and may signal itself.
    let _ = raise(mark);
}
