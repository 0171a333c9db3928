//! `eventfd(2)`: a sleep that any event loop can watch.
//!
//! A sleeper makes one, hands it to who wakes it, and waits until it turns readable. A ring of it adds one to its count; rings add up until
//! somebody reads them off, so a ring is never lost and never waits.
//!
//! Promises: what passed [`check`] is an eventfd that does not block, so ringing it can neither wait, nor raise a signal, nor
//! touch a file. Whoever has the descriptor can still make it block or read rings away: as with a signal, a process of the same user
//! can stop another one if it wants to. Rings are written by processes that see the sleeper parked, and by the broker.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::fstat;
use nix::unistd::{read, write};

use crate::{Error, Result};

/// Makes one that nobody has rung.
///
/// # Errors
/// [`Error::Io`] where this process has no descriptor left.
pub fn create() -> Result<OwnedFd> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let fd = EventFd::from_flags(flags).map_err(|e| Error::io("making an eventfd", e))?;
    Ok(fd.into())
}

/// Checks that a descriptor from somebody else is an eventfd that does not block.
///
/// # Errors
/// [`Error::Control`] says what it is not.
pub fn check(fd: &impl AsFd) -> Result<()> {
    let refuse = |why: &str| Err(Error::Control(format!("the descriptor to wake it {why}")));
    if !is_eventfd(fd) {
        return refuse("is no eventfd");
    }
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|e| Error::io("fcntl", e))?;
    if !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK) {
        return refuse("blocks who writes to it");
    }
    Ok(())
}

fn is_eventfd(fd: &impl AsFd) -> bool {
    match fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())) {
        Ok(link) => link.as_os_str() == "anon_inode:[eventfd]",
        // Where /proc is not to be seen: files, pipes, sockets and devices have a type, and what has none takes eight bytes or refuses them.
        Err(_) => fstat(fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == 0),
    }
}

/// Rings it. A count that is full is readable anyway.
pub fn ring(fd: &impl AsFd) {
    // Nothing else can go wrong with an eventfd that was checked; and who cannot be woken looks around by itself.
    let _ = write(fd, &1_u64.to_ne_bytes());
}

/// Reads the rings off, so that it is readable no more until the next; how many there were.
pub fn drain(fd: &impl AsFd) -> u64 {
    let mut count = [0; 8];
    loop {
        return match read(fd, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            Err(Errno::EINTR) => continue,
            _ => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_add_up_until_they_are_read_off() {
        let fd = create().unwrap();
        check(&fd).unwrap();
        ring(&fd);
        ring(&fd);
        assert_eq!(drain(&fd), 2);
        assert_eq!(drain(&fd), 0);
    }

    #[test]
    fn a_full_one_is_rung_without_waiting() {
        let fd = create().unwrap();
        write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        ring(&fd);
        assert_eq!(drain(&fd), u64::MAX - 1);
    }

    #[test]
    fn pipes_files_other_anonymous_ones_and_blocking_ones_are_refused() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        assert!(check(&writer).is_err(), "a write would raise SIGPIPE");
        let file = tempfile::tempfile().unwrap();
        assert!(check(&file).is_err(), "a write would change it");
        let (socket, _peer) = crate::control::Connection::pair().unwrap();
        assert!(check(&socket).is_err());
        let memory = nix::sys::memfd::memfd_create(c"m", nix::sys::memfd::MFdFlags::empty());
        assert!(check(&memory.unwrap()).is_err());
        let blocking = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        let error = check(&blocking).unwrap_err().to_string();
        assert!(error.contains("blocks"), "{error}");
    }
}
