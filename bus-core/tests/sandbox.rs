//! System calls that a sandbox refuses: the error names the call, and gives no advice that cannot
//! help.

use std::mem::size_of;
use std::thread;

use bus_core::memory::segment::{self, Kind};

/// Lets `call` fail with `EPERM` on this thread from now on.
fn forbid(call: libc::c_long) {
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let (load, equal, end) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    // The number of the call is the first word of `struct seccomp_data`.
    let mut program = [
        statement(load, 0, 0, 0),
        statement(equal, 0, 1, call as u32),
        statement(end, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(end, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    assert_eq!(size_of::<libc::sock_filter>(), 8);
    // SAFETY: both calls read their arguments, which outlive them, and change this thread only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program),
            0
        );
    }
}

#[test]
fn a_refused_system_call_is_named_and_no_smaller_depth_is_advised() {
    for (call, name) in [
        (libc::SYS_fallocate, "fallocate"),
        (libc::SYS_ftruncate, "ftruncate"),
        (libc::SYS_memfd_create, "memfd_create"),
    ] {
        let refused = thread::spawn(move || {
            forbid(call);
            segment::create(Kind::Registry, 4096).map(drop).unwrap_err()
        });
        let error = refused.join().unwrap().to_string();
        assert!(error.contains(name), "{error}");
        assert!(error.contains("sandbox"), "{error}");
        assert!(!error.contains("smaller depth"), "{error}");
    }
}
