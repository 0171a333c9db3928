//! The processes whose handles this one was told of, by number, each with one pidfd.
//!
//! Promises: one descriptor for each process, however many handles it has; a process that the broker no longer names
//! stays known to whoever still reads what it left. A process counts as alive until the kernel says otherwise.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use bus_core::control::{open_pidfd, pidfd_alive};

/// A process with handles.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its public number, which is the same at every broker.
    pub(crate) number: u64,
    /// What the broker said of it. Not there yet while that message is on its way again.
    identity: OnceLock<Identity>,
    pidfd: OnceLock<OwnedFd>,
}

/// What a broker says of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its number in the broker's pid namespace; 0 if it is not visible from there.
    pub(crate) pid: u32,
    /// Its user, as the broker sees it.
    pub(crate) user: u32,
    /// The name under which it connected.
    pub(crate) client: String,
}

impl Process {
    /// What is known of it.
    pub(crate) fn identity(&self) -> Identity {
        self.identity.get().cloned().unwrap_or_default()
    }

    /// Whether it still runs, as far as the kernel says.
    pub(crate) fn is_alive(&self) -> bool {
        self.pidfd.get().is_none_or(pidfd_alive)
    }

    /// Its pidfd. Where the descriptor was lost on the way, it is opened by its number.
    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        if self.pidfd.get().is_none()
            && let Some(identity) = self.identity.get()
            && let Ok(Some(pidfd)) = open_pidfd(identity.pid)
        {
            let _ = self.pidfd.set(pidfd);
        }
        self.pidfd.get().map(AsFd::as_fd)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Processes {
    known: HashMap<u64, Arc<Process>>,
}

impl Processes {
    /// The process with this number. One that was not introduced yet is a stranger until it is.
    pub(super) fn get(&mut self, number: u64) -> Arc<Process> {
        let process = self.known.entry(number).or_insert_with(|| {
            Arc::new(Process {
                number,
                identity: OnceLock::new(),
                pidfd: OnceLock::new(),
            })
        });
        Arc::clone(process)
    }

    /// The broker introduces a process. A second introduction changes nothing that is known.
    pub(super) fn introduce(&mut self, number: u64, identity: Identity, pidfd: Option<OwnedFd>) {
        let process = self.get(number);
        let _ = process.identity.set(identity);
        if let Some(pidfd) = pidfd {
            let _ = process.pidfd.set(pidfd);
        }
        debug_assert!(process.identity.get().is_some(), "it is introduced now");
    }

    /// The broker names this process no more.
    pub(super) fn forget(&mut self, number: u64) {
        self.known.remove(&number);
    }

    /// Takes all of these for known at the next broker, and forgets the others.
    pub(super) fn keep_only(&mut self, present: HashMap<u64, Arc<Process>>) {
        self.known = present;
    }

    /// Whether one was named that was not introduced, or lacks its pidfd.
    pub(super) fn lacks_any(&self) -> bool {
        let lacks = |process: &Arc<Process>| process.pidfd.get().is_none();
        self.known.values().any(lacks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pid: u32) -> Identity {
        Identity {
            pid,
            user: 7,
            client: "peer".into(),
        }
    }

    #[test]
    fn a_process_that_is_introduced_late_is_known_to_those_who_had_heard_of_it() {
        let mut processes = Processes::default();
        let early = processes.get(4);
        assert!(early.is_alive(), "unknown counts as alive");
        assert!(processes.lacks_any());
        let me = std::process::id();
        let pidfd = open_pidfd(me).unwrap();
        processes.introduce(4, identity(me), pidfd);
        assert_eq!(early.identity(), identity(me));
        assert!(early.is_alive() && !processes.lacks_any());
        assert!(Arc::ptr_eq(&early, &processes.get(4)));
    }

    #[test]
    fn a_forgotten_process_can_still_be_asked_for_its_end() {
        let mut processes = Processes::default();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pidfd = open_pidfd(child.id()).unwrap();
        processes.introduce(4, identity(child.id()), pidfd);
        let process = processes.get(4);
        processes.forget(4);
        assert!(process.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
