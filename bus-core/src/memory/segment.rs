//! A segment: a memfd with a fixed size, allocated up front, sealed so that only its creator can write.
//!
//! Promises: once created, touching a segment never faults (its pages exist and its size is sealed); a descriptor that
//! passed [`check`] can neither be resized nor mapped writable by anybody new. It does not say what is in the pages:
//! that is hostile until read with care.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use super::room;
use crate::{Error, Result};

/// What every segment is sealed with: no resizing, no new writable mapping, no further seal.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_FUTURE_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

/// Which kind of segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A publisher's ring.
    Ring,
    /// A subscriber's cursors.
    Reader,
    /// A topic's versions.
    Registry,
}

impl Kind {
    /// Its name in messages, and of the memfd in `/proc/PID/maps`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Reader => "reader",
            Self::Registry => "registry",
        }
    }
}

/// A segment's pages, mapped for as long as this lives.
#[derive(Debug)]
pub struct Mapping {
    pages: MmapRaw,
}

impl Mapping {
    /// The first byte; page-aligned.
    pub(crate) fn base(&self) -> NonNull<u8> {
        NonNull::new(self.pages.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.pages.len()
    }
}

/// Makes a segment of zeroes, maps it read-write, and seals it.
///
/// The descriptor is what others are given; they can map it read-only.
///
/// # Errors
/// [`Error::OutOfMemory`] says what limits it; nothing is left behind.
pub fn create(kind: Kind, bytes: u64) -> Result<(OwnedFd, Mapping)> {
    let segment = kind.name();
    let no_room = |why: String| Error::OutOfMemory {
        segment,
        bytes,
        why,
    };
    let length = i64::try_from(bytes).map_err(|_| no_room("no file is that long".into()))?;
    if let Some(why) = room::shortage(bytes) {
        return Err(no_room(why));
    }
    let name = CString::new(format!("bus-{segment}")).unwrap_or_default();
    let fd = create_memfd(&name).map_err(|e| Error::io("memfd_create", e))?;
    ftruncate(&fd, length).map_err(|e| no_room(e.to_string()))?;
    loop {
        match fallocate(&fd, FallocateFlags::empty(), 0, length) {
            Ok(()) => break,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(no_room(e.to_string())),
        }
    }
    let file = File::from(fd);
    let pages = MmapOptions::new()
        .len(length as usize)
        .populate()
        .map_raw(&file)
        .map_err(|e| no_room(e.to_string()))?;
    let fd = OwnedFd::from(file);
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS)).map_err(|e| Error::io("sealing a segment", e))?;
    Ok((fd, Mapping { pages }))
}

/// The unit of `st_blocks`, see stat(2).
const BLOCK: u64 = 512;

/// A memfd that can be sealed and never executed; kernels before 6.3 do not know the latter.
fn create_memfd(name: &CString) -> nix::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = MFdFlags::from_bits_retain(0x8);
    memfd_create(name.as_c_str(), flags | no_exec).or_else(|error| match error {
        Errno::EINVAL => memfd_create(name.as_c_str(), flags),
        error => Err(error),
    })
}

/// Checks that a descriptor from somebody else is a sealed segment of exactly this size.
///
/// # Errors
/// [`Error::Segment`] says what is wrong with it.
pub fn check(fd: &impl AsFd, kind: Kind, bytes: u64) -> Result<()> {
    let refuse = |why: String| Error::Segment {
        segment: kind.name(),
        why,
    };
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS)
        .map_err(|_| refuse("the descriptor is not a memfd".into()))?;
    if !SealFlag::from_bits_retain(seals).contains(SEALS) {
        return Err(refuse(
            "it is not sealed against resizing and writing".into(),
        ));
    }
    let stat = fstat(fd).map_err(|e| Error::io("fstat", e))?;
    let size = stat.st_size;
    if u64::try_from(size) != Ok(bytes) {
        return Err(refuse(format!("it has {size} bytes, not {bytes}")));
    }
    // Else whoever maps it would pay for the pages that its maker did not.
    let allocated = u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(BLOCK);
    if allocated < bytes {
        return Err(refuse(format!(
            "only {allocated} of its {bytes} bytes are allocated"
        )));
    }
    Ok(())
}

/// Checks a descriptor from somebody else and maps it read-only.
///
/// # Errors
/// [`Error::Segment`] where it is not what it should be.
pub fn open(fd: &impl AsFd, kind: Kind, bytes: u64) -> Result<Mapping> {
    check(fd, kind, bytes)?;
    let length = usize::try_from(bytes).map_err(|_| Error::Segment {
        segment: kind.name(),
        why: format!("{bytes} bytes do not fit this machine's address space"),
    })?;
    let pages = MmapOptions::new()
        .len(length)
        .populate()
        .map_raw_read_only(fd.as_fd().as_raw_fd())
        .map_err(|e| Error::io("mapping a segment", e))?;
    Ok(Mapping { pages })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_whose_pages_its_maker_did_not_take_is_refused() {
        let fd = create_memfd(&CString::new("sparse").unwrap()).unwrap();
        ftruncate(&fd, 1 << 30).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        let error = open(&fd, Kind::Ring, 1 << 30).err().unwrap().to_string();
        assert!(error.contains("only 0 of"), "{error}");
    }

    #[test]
    fn a_new_segment_passes_its_own_check_and_no_other() {
        let (fd, mapping) = create(Kind::Reader, 4096).unwrap();
        assert_eq!(mapping.bytes(), 4096);
        check(&fd, Kind::Reader, 4096).unwrap();
        let error = check(&fd, Kind::Reader, 8192).unwrap_err().to_string();
        assert!(error.contains("4096 bytes, not 8192"), "{error}");
    }

    #[test]
    fn a_file_or_an_unsealed_memfd_is_refused() {
        let file = File::open("/proc/self/exe").unwrap();
        assert!(check(&file, Kind::Ring, 4096).is_err());
        let fd = create_memfd(&CString::new("bare").unwrap()).unwrap();
        ftruncate(&fd, 4096).unwrap();
        let error = open(&fd, Kind::Ring, 4096).unwrap_err().to_string();
        assert!(error.contains("not sealed"), "{error}");
    }

    #[test]
    fn nobody_else_can_resize_or_map_it_writable() {
        let (fd, _mapping) = create(Kind::Ring, 8192).unwrap();
        assert_eq!(ftruncate(&fd, 4096), Err(Errno::EPERM));
        assert_eq!(ftruncate(&fd, 16384), Err(Errno::EPERM));
        let file = File::from(fd);
        assert!(MmapOptions::new().len(8192).map_raw(&file).is_err());
        open(&file, Kind::Ring, 8192).unwrap();
    }

    #[test]
    fn more_than_the_machine_has_is_an_error_at_creation() {
        let error = create(Kind::Ring, 1 << 45).unwrap_err().to_string();
        assert!(error.contains("35184372088832 bytes"), "{error}");
        assert!(
            error.contains("available") || error.contains("limit"),
            "{error}"
        );
    }
}
