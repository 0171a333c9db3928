//! System calls of a child process, counted from outside.
//!
//! The tracer seizes the child before it has done anything, stops it at each
//! system call, and counts those between two marks. A mark is a call that changes
//! nothing: `getpgid` of a process that cannot exist. After the second mark the
//! child runs free again. All threads of the child are counted.
#![allow(unsafe_code)]

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid};
use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Beyond the largest process number that Linux gives out (2^22).
const NOBODY: i32 = i32::MAX;

/// Says to a tracer: the window begins, or ends.
pub fn mark() {
    // It always fails, as it should; being called is all.
    let _ = getpgid(Some(Pid::from_raw(NOBODY)));
}

/// A system call: its number, and its second argument if that says which call it is (futex).
type Call = (i64, i32);

/// System calls of a window.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    counts: BTreeMap<Call, u64>,
}

impl Calls {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Calls that wake others from a futex.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.sum(|(number, command)| {
            number == libc::SYS_futex
                && matches!(command, libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET)
        })
    }

    /// Calls that sleep on one or several futexes.
    #[must_use]
    pub fn sleeps(&self) -> u64 {
        self.sum(|(number, command)| {
            number == libc::SYS_futex_waitv
                || number == libc::SYS_futex
                    && matches!(command, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET)
        })
    }

    /// Calls that fence all processors: bus makes one when it is about to sleep, whether or not it then does.
    #[must_use]
    pub fn fences(&self) -> u64 {
        self.sum(|(number, _)| number == libc::SYS_membarrier)
    }

    fn sum(&self, wanted: impl Fn(Call) -> bool) -> u64 {
        self.counts
            .iter()
            .filter(|(call, _)| wanted(**call))
            .map(|(_, count)| count)
            .sum()
    }
}

/// A thread that traces one child.
#[derive(Debug)]
pub struct Tracer {
    thread: JoinHandle<Result<Calls>>,
}

impl Tracer {
    /// Takes hold of process `pid`, a child of this one.
    ///
    /// # Errors
    /// The child is gone, or tracing is not allowed here.
    pub fn attach(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).context("a process number beyond 31 bits")?);
        let (sender, attached) = channel();
        // The kernel ties a tracee to the thread that seized it, so one thread does it all.
        let thread = std::thread::spawn(move || trace(pid, &sender));
        attached.recv().context("the tracer ended")?.with_context(|| {
            format!("tracing process {pid} to count its system calls failed; is ptrace allowed here?")
        })?;
        Ok(Self { thread })
    }

    /// Waits until the window has been closed, and hands out what was counted.
    ///
    /// # Errors
    /// The child ended without closing its window.
    pub fn finish(self) -> Result<Calls> {
        match self.thread.join() {
            Ok(calls) => calls,
            Err(_) => bail!("the tracing thread panicked"),
        }
    }
}

fn trace(pid: Pid, attached: &Sender<nix::Result<()>>) -> Result<Calls> {
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_TRACECLONE;
    let seized = ptrace::seize(pid, options).and_then(|()| ptrace::interrupt(pid));
    let failed = seized.is_err();
    attached
        .send(seized)
        .context("nobody waits for the tracer")?;
    if failed {
        bail!("process {pid} was not seized");
    }
    let mut calls = Calls::default();
    let mut marks = 0;
    loop {
        // Only what this thread traces: children of other threads are not for it to reap.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let status = match waitpid(None::<Pid>, Some(flags)) {
            Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) => bail!("the traced process {pid} ended with its window open"),
            status => status.context("waiting for the traced process failed")?,
        };
        match status {
            WaitStatus::PtraceSyscall(thread) => {
                match entered(thread)? {
                    Some((libc::SYS_getpgid, [argument, _])) if argument == NOBODY => marks += 1,
                    Some((number, [_, command])) if marks == 1 => {
                        let command = if number == libc::SYS_futex {
                            command & libc::FUTEX_CMD_MASK
                        } else {
                            0
                        };
                        *calls.counts.entry((number, command)).or_default() += 1;
                    }
                    _ => {}
                }
                if marks == 2 {
                    // All tracees of a thread that ends are let go and go on.
                    return Ok(calls);
                }
                resume(thread, None)?;
            }
            WaitStatus::PtraceEvent(thread, ..) => resume(thread, None)?,
            WaitStatus::Stopped(thread, signal) => resume(thread, Some(signal))?,
            WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..) if ended == pid => {
                bail!("the traced process {pid} ended with its window open");
            }
            _ => {}
        }
    }
}

/// The call's number and the low halves of its first two arguments, if the stop is at its entry.
fn entered(thread: Pid) -> Result<Option<(i64, [i32; 2])>> {
    let info = match ptrace::syscall_info(thread) {
        Err(Errno::ESRCH) => return Ok(None),
        info => info.context("asking for the system call failed")?,
    };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: the kernel says that this is an entry, so it filled in that variant.
    let entry = unsafe { info.u.entry };
    Ok(Some((
        entry.nr as i64,
        [entry.args[0] as i32, entry.args[1] as i32],
    )))
}

fn resume(thread: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::syscall(thread, signal) {
        // Killed meanwhile: its end is reported next.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("letting the traced process go on failed"),
    }
}
