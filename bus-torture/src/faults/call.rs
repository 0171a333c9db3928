//! System calls: which one it is, who makes it, and with which errors the kernel may refuse it.

use nix::errno::Errno;
use nix::libc;

/// The errors that are injected.
pub const ERRORS: [Errno; 7] = [
    Errno::ENOMEM,
    Errno::EMFILE,
    Errno::ENFILE,
    Errno::EINTR,
    Errno::EAGAIN,
    Errno::ECONNRESET,
    Errno::EPIPE,
];

/// A system call at its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Where in a program a system call is made: its number, where it returns to, and where that returns to in the program itself, as far as the stack
/// says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The number of the call.
    pub number: i64,
    /// Where it returns to, and the next two addresses of the program on the stack; 0 where there is none.
    pub returns: [u64; 3],
}

impl Call {
    /// The errors with which the kernel may refuse it, of those that are injected. None for calls that cannot fail, or whose failure
    /// is the end of a program: memory for the allocator.
    #[must_use]
    pub fn errors(self) -> &'static [Errno] {
        use Errno::{EAGAIN, ECONNRESET, EINTR, EMFILE, ENFILE, ENOMEM, EPIPE};
        match self.number {
            libc::SYS_socket | libc::SYS_socketpair => &[ENOMEM, EMFILE, ENFILE],
            libc::SYS_memfd_create
            | libc::SYS_epoll_create1
            | libc::SYS_eventfd2
            | libc::SYS_timerfd_create
            | libc::SYS_signalfd4
            | libc::SYS_pidfd_open => &[ENOMEM, EMFILE, ENFILE],
            libc::SYS_getsockopt => self.errors_of_getsockopt(),
            libc::SYS_openat => &[ENOMEM, EMFILE, ENFILE, EINTR],
            libc::SYS_accept4 => &[ENOMEM, EMFILE, ENFILE, EINTR, EAGAIN, ECONNRESET],
            libc::SYS_connect => &[ENOMEM, EINTR, EAGAIN, ECONNRESET],
            // Whether somebody may send there: another error would be an answer, and the broker goes by it.
            libc::SYS_recvfrom if self.arguments[3] as i32 & libc::MSG_PEEK != 0 => &[EINTR],
            // That descriptors do not fit it says in another way.
            libc::SYS_recvmsg | libc::SYS_recvfrom => &[ENOMEM, EINTR, EAGAIN, ECONNRESET],
            libc::SYS_sendmsg | libc::SYS_sendto => &[ENOMEM, EINTR, EAGAIN, ECONNRESET, EPIPE],
            libc::SYS_read => &[ENOMEM, EINTR, EAGAIN, ECONNRESET],
            libc::SYS_write => self.errors_of_write(),
            libc::SYS_pwrite64 | libc::SYS_pread64 => &[ENOMEM, EINTR],
            libc::SYS_poll | libc::SYS_ppoll => &[ENOMEM, EINTR, EAGAIN],
            libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => &[EINTR],
            libc::SYS_epoll_ctl => &[ENOMEM],
            libc::SYS_futex_waitv => &[ENOMEM, EINTR, EAGAIN],
            libc::SYS_futex => self.errors_of_futex(),
            libc::SYS_clock_nanosleep | libc::SYS_nanosleep => &[EINTR],
            libc::SYS_flock => self.errors_of_flock(),
            libc::SYS_fallocate => &[ENOMEM, EINTR],
            libc::SYS_ftruncate => &[ENOMEM, EINTR],
            libc::SYS_fcntl => self.errors_of_fcntl(),
            libc::SYS_membarrier => &[ENOMEM],
            libc::SYS_clone | libc::SYS_clone3 => &[ENOMEM, EAGAIN],
            libc::SYS_mmap => self.errors_of_mmap(),
            libc::SYS_madvise | libc::SYS_mremap | libc::SYS_mlock | libc::SYS_mbind => {
                &[ENOMEM, EAGAIN]
            }
            libc::SYS_statx
            | libc::SYS_newfstatat
            | libc::SYS_fstat
            | libc::SYS_fstatfs
            | libc::SYS_readlink
            | libc::SYS_unlink
            | libc::SYS_unlinkat
            | libc::SYS_bind
            | libc::SYS_listen
            | libc::SYS_setsockopt
            | libc::SYS_chmod
            | libc::SYS_fchmod
            | libc::SYS_fchmodat
            | libc::SYS_timerfd_settime
            | libc::SYS_getdents64
            | libc::SYS_mkdir => &[ENOMEM],
            libc::SYS_getrandom => &[EINTR],
            _ => &[],
        }
    }

    /// Whether this error says that the connection is gone which is this call's first argument.
    #[must_use]
    pub fn hangs_up(self, error: Errno) -> bool {
        let gone = matches!(error, Errno::ECONNRESET | Errno::EPIPE);
        gone && matches!(
            self.number,
            libc::SYS_recvmsg | libc::SYS_recvfrom | libc::SYS_sendmsg | libc::SYS_sendto
        )
    }

    fn errors_of_futex(self) -> &'static [Errno] {
        match self.arguments[1] as i32 & libc::FUTEX_CMD_MASK {
            libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => &[Errno::EINTR, Errno::EAGAIN],
            _ => &[],
        }
    }

    /// One option makes a descriptor.
    fn errors_of_getsockopt(self) -> &'static [Errno] {
        match self.arguments[2] as i32 {
            libc::SO_PEERPIDFD => &[Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE],
            // The kernel reads a field of the socket.
            libc::SO_TYPE => &[],
            _ => &[Errno::ENOMEM],
        }
    }

    /// A ring of an eventfd, which is eight bytes, fails only where it was rung before.
    fn errors_of_write(self) -> &'static [Errno] {
        match self.arguments[2] {
            8 => &[Errno::EINTR],
            _ => &[Errno::ENOMEM, Errno::EINTR, Errno::EAGAIN, Errno::EPIPE],
        }
    }

    /// Letting go cannot fail.
    fn errors_of_flock(self) -> &'static [Errno] {
        if self.arguments[1] as i32 & libc::LOCK_UN != 0 {
            &[]
        } else {
            &[Errno::ENOMEM, Errno::EINTR, Errno::EAGAIN]
        }
    }

    fn errors_of_fcntl(self) -> &'static [Errno] {
        match self.arguments[1] as i32 {
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => &[Errno::EMFILE],
            libc::F_ADD_SEALS => &[Errno::ENOMEM],
            _ => &[],
        }
    }

    /// A file, or the stack of a thread; else it is for the allocator.
    fn errors_of_mmap(self) -> &'static [Errno] {
        let file = self.arguments[4] as i32 >= 0;
        let stack = self.arguments[3] as i32 & libc::MAP_STACK != 0;
        if file || stack {
            &[Errno::ENOMEM, Errno::EAGAIN]
        } else {
            &[]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_allocator_is_left_alone_and_that_of_segments_is_not() {
        let map = |fd: i32, flags: i32| Call {
            number: libc::SYS_mmap,
            arguments: [0, 4096, 0, flags as u64, u64::from(fd as u32), 0],
        };
        assert!(
            map(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
                .errors()
                .is_empty()
        );
        assert!(!map(3, libc::MAP_SHARED).errors().is_empty());
    }

    #[test]
    fn only_injected_errors_are_named() {
        for number in 0..500 {
            let call = Call {
                number,
                arguments: [0; 6],
            };
            assert!(call.errors().iter().all(|error| ERRORS.contains(error)));
        }
    }
}
