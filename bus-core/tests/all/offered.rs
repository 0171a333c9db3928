//! Field note 19, SIGBUS, and 16: whatever a peer offers as a segment that is not one is refused by name before a byte of it is mapped; what is accepted
//! stays as it was when it was checked.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use bus_core::memory::segment::{self, Kind};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::libc;
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{ftruncate, pipe};

use crate::common;

const BYTES: u64 = 64 * 1024;

const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_FUTURE_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

const KINDS: [Kind; 3] = [Kind::Ring, Kind::Reader, Kind::Registry];

/// A memfd of so many bytes, of which so many are allocated, with these seals.
fn memory(bytes: i64, allocated: i64, seals: SealFlag) -> OwnedFd {
    named(c"offered", bytes, allocated, seals)
}

fn named(name: &CStr, bytes: i64, allocated: i64, seals: SealFlag) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create(name, flags).unwrap();
    ftruncate(&fd, bytes).unwrap();
    if allocated > 0 {
        fallocate(&fd, FallocateFlags::empty(), 0, allocated).unwrap();
    }
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    fd
}

/// Whether this process has mapped what was offered.
fn mapped() -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.contains("memfd:offered")
}

/// It is refused as each kind of segment, for this reason, and is not mapped.
fn refused(fd: &impl AsFd, what: &str, why: &str) {
    for kind in KINDS {
        let Err(error) = segment::open(fd, kind, BYTES) else {
            panic!("{what} is taken for a {}", kind.name());
        };
        let text = error.to_string();
        assert!(
            text.contains(why) && text.contains(kind.name()),
            "{what}: {text}"
        );
        assert!(!mapped(), "{what}");
        assert!(segment::check(fd, kind, BYTES).is_err(), "{what}");
    }
}

fn whole() -> OwnedFd {
    named(c"accepted", BYTES as i64, BYTES as i64, SEALS)
}

#[test]
fn what_is_as_it_should_be_is_accepted_and_stays_so() {
    let fd = whole();
    for kind in KINDS {
        let mapping = segment::open(&fd, kind, BYTES).unwrap();
        assert_eq!(mapping.bytes() as u64, BYTES);
    }
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let refused = [
        ftruncate(&fd, 0),
        ftruncate(&fd, 2 * BYTES as i64),
        fallocate(&fd, punch, 0, 4096),
        fallocate(&fd, FallocateFlags::empty(), 0, 2 * BYTES as i64),
        nix::unistd::write(&fd, &[1]).map(drop),
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).map(drop),
    ];
    for (n, result) in refused.into_iter().enumerate() {
        assert_eq!(result, Err(Errno::EPERM), "{n}");
    }
    // Nor by way of the mapping that its maker has.
    let (fd, mapping) = segment::create(Kind::Ring, BYTES).unwrap();
    let theirs = segment::open(&fd, Kind::Ring, BYTES).unwrap();
    let (base, _) = common::mapping(&fd, "rw-s").unwrap();
    // SAFETY: the range is within a mapping of a test, whose content nobody looks at.
    let removed = unsafe { libc::madvise(base as *mut libc::c_void, 4096, libc::MADV_REMOVE) };
    assert_eq!(Errno::result(removed), Err(Errno::EPERM));
    drop((mapping, theirs));
}

#[test]
fn a_seal_that_is_missing_is_missed() {
    for missing in SEALS.iter() {
        refused(
            &memory(BYTES as i64, BYTES as i64, SEALS.difference(missing)),
            &format!("memory without {missing:?}"),
            "not sealed",
        );
    }
    refused(
        &memory(BYTES as i64, BYTES as i64, SealFlag::empty()),
        "memory that is not sealed",
        "not sealed",
    );
    let flags = MFdFlags::MFD_CLOEXEC;
    let fd = memfd_create(c"offered", flags).unwrap();
    ftruncate(&fd, BYTES as i64).unwrap();
    refused(&fd, "memory that cannot be sealed", "not sealed");
}

#[test]
fn another_size_than_registered_is_refused() {
    for bytes in [0, 1, 4096, BYTES - 1, BYTES + 1, 2 * BYTES, 1 << 40] {
        let bytes = bytes as i64;
        refused(
            &memory(bytes, bytes.min(1 << 20), SEALS),
            &format!("memory of {bytes} bytes"),
            &format!("it has {bytes} bytes, not {BYTES}"),
        );
    }
}

#[test]
fn memory_that_nobody_has_paid_for_is_refused() {
    let bytes = BYTES as i64;
    for allocated in [0, 4096, bytes - 4096] {
        refused(
            &memory(bytes, allocated, SEALS),
            &format!("memory of which {allocated} bytes are there"),
            &format!("only {allocated} of its {bytes} bytes"),
        );
    }
    let punched = memory(bytes, bytes, SealFlag::empty());
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&punched, punch, 8192, 4096).unwrap();
    fcntl(&punched, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
    refused(&punched, "memory with a hole", "only 61440 of");
}

/// Of a pool that has none, one can be made and sealed, but every touch would be a SIGBUS.
#[test]
fn huge_pages_that_are_not_there_are_refused() {
    for size in [MFdFlags::MFD_HUGE_2MB, MFdFlags::MFD_HUGE_1GB] {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB;
        let Ok(fd) = memfd_create(c"offered", flags | size) else {
            println!("skipped: this kernel has no pages of {size:?}");
            continue;
        };
        let page = if size == MFdFlags::MFD_HUGE_2MB {
            2 << 20
        } else {
            1 << 30
        };
        ftruncate(&fd, page).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        refused(&fd, "huge pages that nobody has taken", "bytes");
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let fd = whole();
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let write_only = OpenOptions::new().write(true).open(&path).unwrap();
    refused(
        &write_only,
        "a descriptor that only writes",
        "cannot be read",
    );
    let name_only = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(&path)
        .unwrap();
    refused(&name_only, "a descriptor of a path", "not a memfd");
    // One that only reads is as good as one that could write.
    let read_only = File::open(&path).unwrap();
    segment::open(&read_only, Kind::Ring, BYTES).unwrap();
}

#[test]
fn what_is_no_memory_at_all_is_refused() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(BYTES).unwrap();
    let shm = tempfile::tempfile_in("/dev/shm").unwrap();
    fallocate(&shm, FallocateFlags::empty(), 0, BYTES as i64).unwrap();
    let (reader, writer) = pipe().unwrap();
    let (socket, _peer) = bus_core::control::Connection::pair().unwrap();
    let eventfd = EventFd::new().unwrap();
    refused(&file, "a file", "not a memfd");
    refused(&shm, "a file in shared memory", "not sealed");
    refused(&reader, "a pipe", "not a memfd");
    refused(&writer, "a pipe", "not a memfd");
    refused(&socket, "a socket", "not a memfd");
    refused(&eventfd, "an eventfd", "not a memfd");
    refused(&File::open("/dev/zero").unwrap(), "a device", "not a memfd");
    refused(&File::open("/").unwrap(), "a directory", "not a memfd");
    // SAFETY: an integer goes in, a descriptor that nobody else has comes out.
    let secret = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    if secret >= 0 {
        // SAFETY: as above.
        let secret = unsafe { OwnedFd::from_raw_fd(secret as i32) };
        ftruncate(&secret, BYTES as i64).unwrap();
        refused(&secret, "secret memory", "not a memfd");
    }
}
