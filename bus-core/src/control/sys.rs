//! The socket calls that hand out raw descriptors: each becomes an owned one here, at once.
//!
//! ```c
//! ssize_t recvmsg(int socket, struct msghdr *message, int flags);
//! int accept4(int socket, struct sockaddr *address, socklen_t *length, int flags);
//! int pidfd_open(pid_t pid, unsigned int flags);
//! unsigned long getauxval(unsigned long type);
//! ```
//! All of the `unsafe` of this folder is in this file.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rkyv::util::AlignedVec;

use super::wire::MAX_PACKET;

/// Most descriptors that the kernel lets a packet carry (`SCM_MAX_FD`). All of them are taken, also where that is too many: what did not fit the
/// kernel would close at once, and to close a descriptor of somebody else's making may take as long as that one likes.
const MOST: usize = 253;

/// Room for the control data of [`MOST`] descriptors, in words of 8 bytes.
const CONTROL_WORDS: usize = 129;

const _: () = {
    // SAFETY: `CMSG_SPACE` is arithmetic.
    let space = unsafe { libc::CMSG_SPACE((MOST * size_of::<RawFd>()) as u32) };
    assert!(space as usize == CONTROL_WORDS * 8);
};

/// What came with one packet.
pub(super) struct Received {
    /// The packet's bytes; empty at the end of the connection.
    pub(super) bytes: AlignedVec,
    /// Its descriptors.
    pub(super) descriptors: Vec<OwnedFd>,
    /// Something of it did not fit, or was not delivered, and is gone.
    pub(super) truncated: bool,
}

/// Receives one packet without waiting.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Received> {
    let mut bytes = AlignedVec::with_capacity(MAX_PACKET);
    let mut control = [0_u64; CONTROL_WORDS];
    let mut space = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: MAX_PACKET,
    };
    // SAFETY: `msghdr` is made of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut space;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let length = retry(|| {
        // SAFETY: `message` points at `space` and `control`, which outlive the call; `space` describes the
        // capacity of `bytes`.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) }
    })?;
    // SAFETY: the kernel wrote `length` bytes, at most the capacity that it was given.
    unsafe { bytes.set_len((length as usize).min(MAX_PACKET)) };
    Ok(Received {
        bytes,
        descriptors: take_descriptors(&message),
        truncated: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
    })
}

/// Owns every descriptor that the kernel installed, also those of a message that is refused later.
fn take_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled in the control data and its length, which the macros walk; it lives in the
    // caller's frame, aligned to 8. Each descriptor in it was installed for us and has no other owner.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(this) = header.as_ref() {
            if this.cmsg_level == libc::SOL_SOCKET && this.cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                // `usize` with the GNU C library, `u32` with musl.
                #[allow(
                    clippy::unnecessary_cast,
                    reason = "the type is the C library's choice"
                )]
                let length = this.cmsg_len as usize;
                let length = length.saturating_sub(libc::CMSG_LEN(0) as usize);
                for i in 0..length / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    descriptors
}

/// Accepts one connection without waiting for it.
pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let fd = retry(|| {
        // SAFETY: no address is asked for, so both pointers may be null.
        let fd = unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                flags,
            )
        };
        fd as isize
    })?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Whether the kernel lets others send descriptors to this socket (since Linux 6.16). Who tries gets `EPERM`.
///
/// ```c
/// int setsockopt(int socket, SOL_SOCKET, SO_PASSRIGHTS, int *value, socklen_t length);
/// ```
pub(super) fn pass_rights(socket: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
    /// Of `asm-generic/socket.h`, which x86 and ARM have.
    const SO_PASSRIGHTS: libc::c_int = 83;
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let value = libc::c_int::from(wanted);
    // SAFETY: `value` has the length that is given, and outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a signal could be sent by a descriptor, to a process that lives or not. It sends none.
///
/// ```c
/// int pidfd_send_signal(int pidfd, int signal, siginfo_t *info, unsigned int flags);
/// ```
pub(super) fn takes_signals(fd: BorrowedFd<'_>) -> bool {
    let (nothing, info) = (0, std::ptr::null::<libc::siginfo_t>());
    // SAFETY: signal 0 is not sent: the kernel checks the descriptor, and the right to send one.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            nothing,
            info,
            0,
        )
    };
    sent == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EBADF)
}

/// The supplementary groups of the process that made the other end, as they were then. More than 65,536, the kernel's own limit, there
/// are not.
///
/// ```c
/// int getsockopt(int socket, SOL_SOCKET, SO_PEERGROUPS, gid_t *groups, socklen_t *length);
/// ```
pub(super) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: `groups` has room for `length` bytes, and outlives the call, which writes no more and says how many it has.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Owns a descriptor that this process was started with, if there is one with this number.
pub(super) fn adopt(number: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: two integers go in; the call fails for a number that is no descriptor.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    nix::errno::Errno::result(flags)?;
    // SAFETY: it is open, and whoever started this process said that it is for the one who asks, who asks once (`take_passed`).
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether this program has more rights than the user that started it: set-user-id, set-group-id, or file capabilities.
pub(super) fn is_privileged() -> bool {
    // SAFETY: an integer goes in, an integer comes out.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// A descriptor of a process, by its number.
pub(super) fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    let fd = retry(|| {
        // SAFETY: two integers go in, a descriptor comes out.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        fd as isize
    })?;
    // SAFETY: the kernel just made this descriptor for us; it sets close-on-exec by itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Makes a call again while signals interrupt it.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<isize> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
