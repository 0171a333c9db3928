//! A sandbox that refuses one system call, as a container's seccomp profile or an older kernel does.
//!
//! A [`Filter`] holds for the thread that installs it, for what that thread starts from then on, and for ever.

use std::io;

use nix::libc;

/// Which call is refused, and how.
#[derive(Clone)]
pub struct Filter {
    steps: Vec<libc::sock_filter>,
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn step(code: u16, k: u32, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf, k }
}

impl Filter {
    /// Refuses each use of a call (`libc::SYS_…`) with an error number.
    pub fn refusing(call: libc::c_long, errno: libc::c_int) -> Self {
        Self::of(call, &[], errno)
    }

    /// Refuses the uses of a call in which the lower half of an argument, counted from 0, has this value.
    pub fn refusing_where(
        call: libc::c_long,
        argument: u32,
        value: u32,
        errno: libc::c_int,
    ) -> Self {
        // The arguments follow the number, the architecture and the instruction in `seccomp_data`.
        let half = if cfg!(target_endian = "big") { 4 } else { 0 };
        let argument = [
            step(LOAD, 16 + 8 * argument + half, 0),
            step(EQUAL, value, 1),
        ];
        Self::of(call, &argument, errno)
    }

    fn of(call: libc::c_long, more: &[libc::sock_filter], errno: libc::c_int) -> Self {
        let others = more.len() as u8 + 1;
        let mut steps = vec![step(LOAD, 0, 0), step(EQUAL, call as u32, others)];
        steps.extend(more);
        steps.push(step(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0));
        steps.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0));
        Self { steps }
    }

    /// Puts the filter on the calling thread and all that it starts. Allocates nothing, so that a child may call it before `exec`.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn install(&mut self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: self.steps.len() as u16,
            filter: self.steps.as_mut_ptr(),
        };
        // SAFETY: both calls change the calling thread only; `program` and the steps outlive the second, which copies them.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
        };
        done.then_some(()).ok_or_else(io::Error::last_os_error)
    }
}
