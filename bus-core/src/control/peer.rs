//! Who is at the other end of a connection: what the kernel says, not what the peer says.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use super::Connection;
use super::sys;
use crate::{Error, Result};

/// The overflow user where the kernel does not say which one it is.
const OVERFLOW_USER: u32 = 65534;

/// The process that made the other end, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its number; 0 if it is in a process namespace that is not visible from here.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
}

/// Why there is no pidfd of a process that has no number here. The kernel's word follows.
const UNSEEN: &str = "the process at the other end is in a process namespace that is not visible from here; Linux 6.5 or \
    later can tell which it is, and this kernel cannot: run both ends in one process namespace, or on a newer kernel";

impl Connection {
    /// The credentials of the process at the other end.
    ///
    /// # Errors
    /// [`Error::Io`] with what the kernel said.
    pub fn credentials(&self) -> Result<Credentials> {
        let peer = getsockopt(self, sockopt::PeerCredentials)
            .map_err(|e| Error::io("cannot read who is at the other end of a connection", e))?;
        Ok(Credentials {
            pid: u32::try_from(peer.pid()).unwrap_or(0),
            uid: peer.uid(),
        })
    }

    /// The groups of the process at the other end, as they were when it connected: its effective one first, then the supplementary ones.
    ///
    /// # Errors
    /// [`Error::Io`] with what the kernel said.
    pub fn groups(&self) -> Result<Vec<u32>> {
        const WHAT: &str = "cannot read the groups of who is at the other end of a connection";
        let peer = getsockopt(self, sockopt::PeerCredentials).map_err(|e| Error::io(WHAT, e))?;
        let others = sys::peer_groups(self.as_fd()).map_err(|e| Error::io(WHAT, e))?;
        let mut groups = vec![peer.gid()];
        groups.extend(others.into_iter().filter(|group| *group != peer.gid()));
        Ok(groups)
    }

    /// A pidfd of the process at the other end: it turns readable when the process ends.
    ///
    /// # Errors
    /// [`Error::Closed`] if the process is gone already, [`Error::Io`] with what the kernel said. On Linux before 6.5 that is also an
    /// error where the process is in a process namespace that is not visible from here: it has no number here.
    pub fn peer_pidfd(&self) -> Result<OwnedFd> {
        match getsockopt(self, sockopt::PeerPidfd) {
            Ok(pidfd) => Ok(pidfd),
            // Linux before 6.5 does not know the option. The number may then name a later process, if the
            // peer has died since: its connection is closed in that case, which is noticed as well.
            Err(Errno::ENOPROTOOPT) => {
                let pid = self.credentials()?.pid;
                if pid == 0 {
                    return Err(Error::io(UNSEEN, Errno::ENOPROTOOPT));
                }
                sys::pidfd_open(pid as libc::pid_t).map_err(|e| match e.raw_os_error() {
                    Some(libc::ESRCH | libc::EINVAL) => Error::Closed,
                    _ => Error::io("cannot open a pidfd", e),
                })
            }
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENODATA) => Err(Error::Closed),
            Err(e) => Err(Error::io("cannot get a pidfd of a peer", e)),
        }
    }
}

/// Whether a user number as the kernel shows it here may stand for different people. Users that have no number in this user
/// namespace all appear as the overflow user, 65534 by default. So that number names nobody, unless all users have a number here, or
/// it is the number of this process itself and the namespace gives it to somebody.
pub fn may_be_anybody(uid: u32) -> bool {
    static OVERFLOW: OnceLock<u32> = OnceLock::new();
    let overflow = OVERFLOW.get_or_init(|| {
        let number = fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
        number
            .and_then(|uid| uid.trim().parse().ok())
            .unwrap_or(OVERFLOW_USER)
    });
    if uid != *overflow {
        return false;
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    names_nobody(&map, uid, nix::unistd::geteuid().as_raw() == uid)
}

/// [`may_be_anybody`] of the overflow user, in a namespace with this map.
fn names_nobody(map: &str, overflow: u32, is_own: bool) -> bool {
    let ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let first = numbers.next()?.ok()?;
        Some((first, numbers.nth(1)?.ok()?))
    });
    let (mut users, mut is_given) = (0, false);
    for (first, count) in ranges {
        users += count;
        is_given |= (first..first + count).contains(&u64::from(overflow));
    }
    let all = users >= u64::from(u32::MAX);
    !(all || is_own && is_given)
}

/// A pidfd of the process with this number; none if there is no such process.
///
/// # Errors
/// [`Error::Io`] with what the kernel said.
pub fn open_pidfd(pid: u32) -> Result<Option<OwnedFd>> {
    let failed = |e| Error::io("cannot open a pidfd", e);
    let Some(pid) = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0) else {
        return Ok(None);
    };
    match sys::pidfd_open(pid) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(e) => match e.raw_os_error() {
            // The second is of a thread that is no process.
            Some(libc::ESRCH | libc::EINVAL | libc::ENOENT) => Ok(None),
            _ => Err(failed(e)),
        },
    }
}

/// Whether the process of a pidfd still runs. A stopped process does.
pub fn pidfd_alive(pidfd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            // Unknown counts as alive: slow is not dead.
            Err(_) | Ok(0) => return true,
            Ok(_) => return false,
        }
    }
}

/// Whether a descriptor may be a pidfd: of a process, or the directory of one. Waits for nobody, whatever it is, and
/// needs no other descriptor.
pub fn may_be_pidfd(fd: &impl AsFd) -> bool {
    sys::takes_signals(fd.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfd_may_be_one_and_a_file_may_not() {
        let own = open_pidfd(std::process::id()).unwrap().unwrap();
        assert!(may_be_pidfd(&own));
        assert!(!may_be_pidfd(&tempfile::tempfile().unwrap()));
    }

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (a, _b) = Connection::pair().unwrap();
        let peer = a.credentials().unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(pidfd_alive(&a.peer_pidfd().unwrap()));
    }

    #[test]
    fn the_groups_of_a_peer_are_those_of_its_process() {
        let (a, _b) = Connection::pair().unwrap();
        let groups = a.groups().unwrap();
        assert_eq!(groups[0], nix::unistd::getegid().as_raw());
        for group in nix::unistd::getgroups().unwrap() {
            assert!(groups.contains(&group.as_raw()), "{group} of {groups:?}");
        }
    }

    #[test]
    fn the_overflow_user_is_somebody_only_where_nobody_lacks_a_number() {
        let (host, container, alone) = ("0 0 4294967295\n", "0 100000 65536\n", "0 1000 1\n");
        for (map, is_own, nobody) in [
            (host, false, false),
            (host, true, false),
            (container, false, true),
            (container, true, false),
            (alone, false, true),
            (alone, true, true),
            ("", true, true),
        ] {
            assert_eq!(
                names_nobody(map, 65534, is_own),
                nobody,
                "{map:?}, {is_own}"
            );
        }
        assert!(!may_be_anybody(0));
    }

    #[test]
    fn a_number_that_no_process_has_opens_nothing() {
        let me = open_pidfd(std::process::id()).unwrap();
        assert!(pidfd_alive(&me.unwrap()));
        for nobody in [0, u32::MAX, i32::MAX as u32] {
            assert!(open_pidfd(nobody).unwrap().is_none());
        }
    }

    #[test]
    fn a_killed_process_is_dead_also_before_it_is_reaped() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = sys::pidfd_open(child.id() as i32).unwrap();
        assert!(pidfd_alive(&pidfd));
        child.kill().unwrap();
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        assert!(!pidfd_alive(&pidfd));
        child.wait().unwrap();
        assert!(!pidfd_alive(&pidfd));
    }
}
