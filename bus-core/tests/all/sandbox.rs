//! A sandbox that refuses a call which a segment is made of: the error names the call and the sandbox.
//!
//! Class of bugs: an error that names the wrong cause. Each refusal was told as a want of memory, with the advice to use less.

use std::io;
use std::thread;

use bus_core::Error;
use bus_core::memory::segment::{self, Kind};
use bus_testkit::sandbox::Filter;
use nix::libc;

/// What making a segment says on a thread where the kernel refuses a call so.
fn refused(call: libc::c_long, errno: libc::c_int) -> Error {
    let making = thread::spawn(move || {
        Filter::refusing(call, errno).install().unwrap();
        segment::create(Kind::Ring, 1 << 20).map(drop)
    });
    making.join().unwrap().unwrap_err()
}

#[test]
fn a_call_that_a_sandbox_refuses_is_named_and_no_want_of_memory() {
    for (call, name) in [
        (libc::SYS_memfd_create, "memfd_create"),
        (libc::SYS_ftruncate, "ftruncate"),
        (libc::SYS_madvise, "madvise"),
        (libc::SYS_fallocate, "fallocate"),
        (libc::SYS_fcntl, "fcntl"),
    ] {
        for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
            let error = refused(call, errno);
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("sandbox"), "{text}");
        }
    }
}

#[test]
fn memory_and_descriptors_that_run_out_are_no_sandbox() {
    let memory = refused(libc::SYS_fallocate, libc::ENOSPC);
    assert!(matches!(memory, Error::OutOfMemory { .. }), "{memory}");
    let descriptors = refused(libc::SYS_memfd_create, libc::EMFILE);
    let Error::Io { source, .. } = &descriptors else {
        panic!("{descriptors}");
    };
    let expected = io::Error::from_raw_os_error(libc::EMFILE);
    assert_eq!(source.raw_os_error(), expected.raw_os_error());
}
