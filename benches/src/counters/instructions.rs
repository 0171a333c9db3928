//! Instructions that a child executes between two marks, counted one by one.
//!
//! The child has itself traced and raises a signal at each mark; its parent lets it take one instruction at a time.
//! A count does not depend on how busy the machine is. A string instruction counts once for each repetition. System
//! calls count as one.

use anyhow::{Context, Result, bail};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// What a child raises at a mark. Its parent swallows it.
const MARK: Signal = Signal::SIGUSR1;

/// In the child: from the first mark on, its parent counts this thread. It has to be the main thread.
///
/// # Errors
/// The kernel refuses.
pub fn be_counted() -> Result<()> {
    ptrace::traceme().context("asking to be traced failed; is ptrace allowed here?")
}

/// In the child: ends one count and begins the next.
///
/// # Errors
/// The kernel refuses.
pub fn mark() -> Result<()> {
    raise(MARK).context("raising the mark failed")
}

/// In the parent: the instructions of a child between its marks, of which it sets this many. After the last one the
/// child goes on by itself, and has to end well.
///
/// # Errors
/// The child fails, or tracing does.
pub fn count(child: u32, marks: usize) -> Result<Vec<u64>> {
    let child = Pid::from_raw(child as i32);
    let mut counts: Vec<u64> = Vec::new();
    loop {
        let signal = match waitpid(child, None).context("waiting for the child failed")? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                if let Some(count) = counts.last_mut() {
                    *count += 1;
                }
                None
            }
            WaitStatus::Stopped(_, MARK) if counts.len() + 1 == marks => {
                ptrace::detach(child, None).context("letting the child go failed")?;
                break;
            }
            WaitStatus::Stopped(_, MARK) => {
                counts.push(0);
                None
            }
            WaitStatus::Stopped(_, other) => Some(other),
            other => bail!("the child that is counted did not set all marks: {other:?}"),
        };
        ptrace::step(child, signal).context("letting the child take one instruction failed")?;
    }
    match waitpid(child, None).context("waiting for the child failed")? {
        WaitStatus::Exited(_, 0) => Ok(counts),
        other => bail!("the child that is counted did not end well: {other:?}"),
    }
}
