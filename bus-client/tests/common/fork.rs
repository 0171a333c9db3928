//! Children of real forks.
//!
//! A child does what the test says and ends; what it has to say, and how it ended, comes back. It runs in a process that plays a role, so that
//! the test harness's threads and locks are none of its concern.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe};

/// A child that was forked and has not been waited for.
pub struct Child {
    /// Its number.
    pub pid: Pid,
    said: File,
}

/// Forks; the child says what `body` gives, and ends without further ado.
pub fn forked(body: impl FnOnce() -> String) -> Child {
    let (reader, writer): (OwnedFd, OwnedFd) = pipe().unwrap();
    // SAFETY: the child runs the test's code only, then ends; allocations work after a fork, and locks of other threads it does not take.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => Child {
            pid: child,
            said: reader.into(),
        },
        ForkResult::Child => {
            drop(reader);
            let text = catch_unwind(AssertUnwindSafe(body));
            let text = text.unwrap_or_else(|panic| match panic.downcast_ref::<String>() {
                Some(text) => format!("panicked: {text}"),
                None => "panicked".into(),
            });
            let _ = File::from(writer).write_all(text.as_bytes());
            // SAFETY: it ends this process, and asks for nothing.
            unsafe { nix::libc::_exit(0) }
        }
    }
}

impl Child {
    /// What it said, and how it ended.
    pub fn end(mut self) -> (String, WaitStatus) {
        let mut text = String::new();
        self.said.read_to_string(&mut text).unwrap();
        (text, waitpid(self.pid, None).unwrap())
    }

    /// Its end must be a good one, and this what it said.
    pub fn must_say(self, text: &str) {
        let pid = self.pid;
        let ended = self.end();
        assert_eq!(ended, (text.to_owned(), WaitStatus::Exited(pid, 0)));
    }

    /// It must be ended by this signal.
    pub fn must_die_of(self, signal: nix::sys::signal::Signal) {
        let (said, status) = self.end();
        assert!(
            matches!(status, WaitStatus::Signaled(_, how, _) if how == signal),
            "{status:?}, after {said:?}"
        );
    }
}
