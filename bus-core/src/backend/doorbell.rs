//! A doorbell: a sleep that any event loop can watch, and a ring that nobody can make wait.
//!
//! A sleeper makes one, a pair of connected sockets, and keeps the *inside*, which it waits for until that turns readable. It hands out the *button*:
//! a ring sends one byte there. Bytes pile up until the sleeper takes them off; where no more fit, it is readable anyway.
//!
//! ```text
//!   wakers, broker                                        sleeper
//!   button --- send(1 byte, DONTWAIT | NOSIGNAL) ---> inside: poll, epoll, AsyncFd; drain
//! ```
//!
//! Promises: a ring of what passed [`check`] never waits, raises no signal and touches no file, whatever others who have the button, or its
//! owner, do to it: that it shall not wait is said with each ring, where for an eventfd or a pipe it is a flag of the descriptor, which all who have that one
//! share. A button takes no rings away either. Whoever has it can still break it (`shutdown(2)`), so it is handed to processes
//! of the same user only.
//!
//! It asks its owner to drain it when woken: watched edge-triggered, a full one would not fire again.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, getpeername, getsockopt, recv,
    send, shutdown, socketpair, sockopt,
};

use crate::fork::{Unshared, unshared};
use crate::{Error, Result};

/// Rings that are taken off with one call.
const DRAIN: usize = 256;

/// A sleeper's doorbell. Its descriptor is the inside.
#[derive(Debug)]
pub struct Doorbell {
    /// A forked child takes no rings of its parent's off.
    inside: Unshared<OwnedFd>,
    button: OwnedFd,
}

impl Doorbell {
    /// Makes one that nobody has rung.
    ///
    /// # Errors
    /// [`Error::Io`] where this process has no two descriptors left.
    pub fn new() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, flags);
        let (inside, button) = pair.map_err(|e| Error::io("making a doorbell", e))?;
        let inside = Unshared::new(|| Ok(inside)).map_err(unshared)?;
        // Nothing ever goes the other way: see `check`.
        shutdown(button.as_raw_fd(), Shutdown::Read)
            .map_err(|e| Error::io("making a doorbell", e))?;
        Ok(Self { inside, button })
    }

    /// What others ring it with.
    pub fn button(&self) -> BorrowedFd<'_> {
        self.button.as_fd()
    }

    /// Rings it.
    pub fn ring(&self) {
        ring(&self.button);
    }

    /// Takes the rings off, so that it is readable no more until the next; how many there were.
    pub fn drain(&self) -> usize {
        let mut rings = [0; DRAIN];
        let mut count = 0;
        loop {
            match recv(self.inside.as_raw_fd(), &mut rings, MsgFlags::MSG_DONTWAIT) {
                Ok(DRAIN) => count += DRAIN,
                Ok(last) => return count + last,
                Err(Errno::EINTR) => {}
                Err(_) => return count,
            }
        }
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.inside.as_raw_fd()
    }
}

/// Checks that a descriptor from somebody else is a button: one of a pair of stream sockets, which nobody reaches by a name.
///
/// # Errors
/// [`Error::Control`] says what it is not.
pub fn check(button: &impl AsFd) -> Result<()> {
    let refuse = |why: &str| Err(Error::Control(format!("the descriptor to wake it {why}")));
    if getsockopt(button, sockopt::SockType) != Ok(SockType::Stream) {
        return refuse("is no doorbell");
    }
    // Fails for who is not connected, and for sockets of other families.
    let Ok(inside) = getpeername::<UnixAddr>(button.as_fd().as_raw_fd()) else {
        return refuse("is no doorbell, but another kind of socket");
    };
    if inside.path().is_some() || inside.as_abstract().is_some() {
        return refuse("is a connection to a server");
    }
    // Else there could be descriptors in it, and whoever closes it last closes those, however long that takes.
    let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let mut peeked = recv(button.as_fd().as_raw_fd(), &mut [0], peek);
    // Its owner may have closed it without having taken the rings off, which the kernel says once.
    while matches!(peeked, Err(Errno::EINTR | Errno::ECONNRESET)) {
        peeked = recv(button.as_fd().as_raw_fd(), &mut [0], peek);
    }
    if peeked != Ok(0) {
        return refuse("takes messages itself");
    }
    Ok(())
}

/// Rings the doorbell with this button. One that is full is readable anyway.
pub fn ring(button: &impl AsFd) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    // One whose owner is gone, or that was broken, wakes nobody; and who cannot be woken looks around by itself.
    let _ = send(button.as_fd().as_raw_fd(), &[0], flags);
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::eventfd::{EfdFlags, EventFd};

    use super::*;

    fn readable(doorbell: &Doorbell) -> bool {
        let mut fds = [PollFd::new(doorbell.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn one_that_its_owner_has_closed_with_rings_in_it_is_one_still() {
        let Doorbell { inside, button } = Doorbell::new().unwrap();
        ring(&button);
        drop(inside);
        check(&button).unwrap();
    }

    #[test]
    fn rings_add_up_until_they_are_taken_off() {
        let doorbell = Doorbell::new().unwrap();
        check(&doorbell.button()).unwrap();
        assert!(!readable(&doorbell));
        doorbell.ring();
        ring(&doorbell.button());
        assert!(readable(&doorbell));
        assert_eq!(doorbell.drain(), 2);
        assert_eq!(doorbell.drain(), 0);
        assert!(!readable(&doorbell));
    }

    /// Class 3: a stalled peer stops others. A full eventfd, made blocking by its owner, held up who rang it for ever.
    #[test]
    fn a_full_one_that_its_owner_has_made_blocking_is_rung_without_waiting() {
        let doorbell = Doorbell::new().unwrap();
        let button = doorbell.button();
        fcntl(button, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        fcntl(doorbell.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let fill = || send(button.as_raw_fd(), &[0; 4096], MsgFlags::MSG_DONTWAIT);
        while fill().is_ok() {}
        while send(button.as_raw_fd(), &[0], MsgFlags::MSG_DONTWAIT).is_ok() {}
        // A ring that waits ends this test by its time limit.
        ring(&button);
        assert!(readable(&doorbell));
        assert!(doorbell.drain() > 0);
        assert_eq!(doorbell.drain(), 0);
        ring(&button);
        assert_eq!(doorbell.drain(), 1);
    }

    #[test]
    fn one_whose_owner_is_gone_is_rung_without_a_signal() {
        let doorbell = Doorbell::new().unwrap();
        let button = doorbell.button().try_clone_to_owned().unwrap();
        drop(doorbell);
        check(&button).unwrap();
        ring(&button);
    }

    #[test]
    fn files_pipes_eventfds_and_other_sockets_are_refused() {
        let (_reader, writer) = nix::unistd::pipe().unwrap();
        assert!(check(&writer).is_err(), "a write could wait");
        let file = tempfile::tempfile().unwrap();
        assert!(check(&file).is_err());
        let eventfd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        assert!(check(&eventfd).is_err());
        let (packets, _peer) = crate::control::Connection::pair().unwrap();
        assert!(check(&packets).is_err());
        let memory = nix::sys::memfd::memfd_create(c"m", nix::sys::memfd::MFdFlags::empty());
        assert!(check(&memory.unwrap()).is_err());
        let network = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(network.local_addr().unwrap()).unwrap();
        assert!(check(&network).is_err());
        assert!(check(&connected).is_err());
    }

    #[test]
    fn connections_to_a_server_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server");
        let _server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let error = check(&client).unwrap_err().to_string();
        assert!(error.contains("to a server"), "{error}");
    }
}
