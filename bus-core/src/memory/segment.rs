//! A segment: a memfd with a fixed size, allocated up front, sealed so that only its creator can write.
//!
//! Promises: once created, touching a segment never faults (its pages exist and its size is sealed); a descriptor that
//! passed [`check`] can neither be resized nor mapped writable by anybody new. It does not say what is in the pages:
//! that is hostile until read with care.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use nix::unistd::ftruncate;

use super::layout::PAGE;
use super::pages::{Access, HUGE, Pages};
use super::placement::{Placement, PlacementReport};
use super::{room, told};
use crate::fork::Instead;
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

    /// What a forked child finds in its place. A registry where every word differs from what it was makes the child look up from the data path;
    /// a cursor may move and a bell ring in vain, when it drops what it has; payloads are not to be seen.
    fn instead(self) -> Instead {
        match self {
            Self::Ring => Instead {
                open: PAGE,
                fill: 0,
            },
            Self::Reader => Instead {
                open: usize::MAX,
                fill: 0,
            },
            Self::Registry => Instead {
                open: PAGE,
                fill: u8::MAX,
            },
        }
    }
}

/// A segment's pages, mapped for as long as this lives.
#[derive(Debug)]
pub struct Mapping {
    pages: Pages,
    report: PlacementReport,
}

impl Mapping {
    /// The first byte; page-aligned.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.pages.base()
    }

    /// Bytes mapped: those of the segment, up to whole pages of its own.
    pub fn bytes(&self) -> usize {
        self.pages.bytes()
    }

    /// The same pages mapped a second time.
    pub(super) fn double(&self, kind: Kind) -> Result<Self> {
        let pages = self.pages.double(kind.instead());
        let pages = pages.map_err(|e| Error::io("mapping a segment a second time", e))?;
        Ok(Self {
            pages,
            report: PlacementReport::default(),
        })
    }

    /// Puts this segment in the place of another one of its size: see [`Pages::replace`].
    pub(super) fn replace(self, other: &Self) -> Result<()> {
        let replaced = self.pages.replace(&other.pages);
        replaced.map_err(|e| Error::io("putting a segment in the place of another", e))
    }

    /// What became of the placement that was asked for.
    pub fn report(&self) -> &PlacementReport {
        &self.report
    }
}

/// Makes a segment of zeroes, maps it read-write, and seals it; placed as the kernel likes it.
///
/// The descriptor is what others are given; they can map it read-only.
///
/// # Errors
/// [`Error::OutOfMemory`] says what limits it, [`Error::Unsupported`] which call a sandbox refuses; nothing is left behind.
pub fn create(kind: Kind, bytes: u64) -> Result<(OwnedFd, Mapping)> {
    create_placed(kind, bytes, &Placement::default())
}

/// As [`create`]; placed as asked, as far as that can be had: see [`Mapping::report`].
///
/// # Errors
/// As for [`create`]; [`Error::Node`] where there is no such NUMA node.
pub fn create_placed(kind: Kind, bytes: u64, placement: &Placement) -> Result<(OwnedFd, Mapping)> {
    placement.check()?;
    let placement = placement.of(kind, true);
    let no_room = |why: String| Error::OutOfMemory {
        segment: kind.name(),
        bytes,
        why,
    };
    if let Some(why) = room::file_limit(bytes).or_else(|| room::address_limit(bytes)) {
        return Err(no_room(why));
    }
    let mut pool = None;
    if placement.huge_pages && bytes >= HUGE as u64 {
        match of_the_pool(kind, bytes, &placement) {
            Ok(made) => return seal(made),
            Err(why) => pool = Some(why),
        }
    }
    if let Some(why) = room::shortage(bytes) {
        return Err(no_room(why));
    }
    let fd = create_memfd(kind, Source::Plain).map_err(|e| {
        refused("memfd_create(2)", e).unwrap_or_else(|| Error::io("memfd_create", e))
    })?;
    fill(fd, kind, bytes, Source::Plain, &placement, pool)
        .map_err(|Failed { call, why }| {
            refused(call, why).unwrap_or_else(|| no_room(why.to_string()))
        })
        .and_then(seal)
}

/// A call that failed while a file was given its pages.
struct Failed {
    call: &'static str,
    why: Errno,
}

impl Failed {
    fn of(call: &'static str) -> impl Fn(Errno) -> Self {
        move |why| Self { call, why }
    }
}

/// The error where a sandbox refuses a call, or a kernel lacks it: on memory of its own no process is denied one of these.
fn refused(call: &'static str, why: Errno) -> Option<Error> {
    let sandbox = matches!(why, Errno::EPERM | Errno::EACCES | Errno::ENOSYS);
    sandbox.then(|| Error::Unsupported {
        call,
        source: why.into(),
    })
}

/// From now on, nobody can resize it or map it writable.
fn seal((fd, mapping): (OwnedFd, Mapping)) -> Result<(OwnedFd, Mapping)> {
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS))
        .map_err(|e| refused("fcntl(2)", e).unwrap_or_else(|| Error::io("sealing a segment", e)))?;
    Ok((fd, mapping))
}

/// Which memory a segment is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Pages as the kernel has them, which it may give up for larger ones.
    Plain,
    /// Huge pages that the machine's owner has reserved.
    Pool,
}

/// Makes a segment of reserved huge pages, as many as hold `bytes`, or says why not.
fn of_the_pool(
    kind: Kind,
    bytes: u64,
    placement: &Placement,
) -> Result<(OwnedFd, Mapping), String> {
    let whole = bytes.checked_next_multiple_of(HUGE as u64);
    let whole = whole.ok_or("no file is that long")?;
    if let Some(why) = room::file_limit(whole) {
        return Err(why);
    }
    let fd = create_memfd(kind, Source::Pool).map_err(|e| format!("memfd_create: {e}"))?;
    fill(fd, kind, whole, Source::Pool, placement, None).map_err(|failed| {
        let error = failed.why;
        let free = told::pool().map_or_else(|| "an unknown number of".into(), |n| n.to_string());
        let wanted = whole / HUGE as u64;
        format!("the pool (vm.nr_hugepages) has {free} pages of 2 MiB free, not {wanted}: {error}")
    })
}

/// Gives a new file its pages and maps them. `pool` is why they are not of the pool.
fn fill(
    fd: OwnedFd,
    kind: Kind,
    bytes: u64,
    source: Source,
    placement: &Placement,
    pool: Option<String>,
) -> Result<(OwnedFd, Mapping), Failed> {
    let truncated = Failed::of("ftruncate(2)");
    // As the kernel says it of a length that is just not too large for the call.
    let length = i64::try_from(bytes).map_err(|_| truncated(Errno::EFBIG))?;
    ftruncate(&fd, length).map_err(truncated)?;
    let pages = Pages::map(&fd, length as usize, Access::Write, kind.instead())
        .map_err(Failed::of("mmap(2) or madvise(2)"))?;
    let mut report = PlacementReport::default();
    placement.prepare(&pages, &mut report);
    if placement.huge_pages && source == Source::Plain && pages.want_huge().is_ok() {
        // Huge pages are given at a first touch. What that leaves out, or refuses, is for the next call.
        let _ = pages.populate(Access::Write);
    }
    allocate(&fd, length).map_err(Failed::of("fallocate(2)"))?;
    let what = format!("a {} of {length} bytes", kind.name());
    placement.finish(&pages, Access::Write, &what, pool.as_deref(), &mut report);
    Ok((fd, Mapping { pages, report }))
}

/// Takes every page that a file has not yet.
fn allocate(fd: &OwnedFd, length: i64) -> nix::Result<()> {
    loop {
        match fallocate(fd, FallocateFlags::empty(), 0, length) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// The unit of `st_blocks`, see stat(2).
const BLOCK: u64 = 512;

/// A memfd that can be sealed and never executed; kernels before 6.3 do not know the latter.
fn create_memfd(kind: Kind, source: Source) -> nix::Result<OwnedFd> {
    let name = CString::new(format!("bus-{}", kind.name())).unwrap_or_default();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let flags = match source {
        Source::Plain => flags,
        Source::Pool => flags | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
    };
    let no_exec = MFdFlags::from_bits_retain(0x8);
    memfd_create(name.as_c_str(), flags | no_exec).or_else(|error| match error {
        Errno::EINVAL => memfd_create(name.as_c_str(), flags),
        error => Err(error),
    })
}

/// Largest huge page that a segment may be made of, in bytes: mappings are aligned to it.
const LARGEST_PAGE: u64 = HUGE as u64;

/// What a segment of `bytes` bytes has in its file: as many, or, of huge pages from a pool, up to a whole number of them.
fn file_bytes(fd: &impl AsFd, bytes: u64) -> Result<Option<u64>> {
    let system = fstatfs(fd).map_err(|e| Error::io("fstatfs", e))?;
    if system.filesystem_type() != HUGETLBFS_MAGIC {
        return Ok(Some(bytes));
    }
    let page = u64::try_from(system.block_size()).unwrap_or(0);
    let page = Some(page).filter(|page| page.is_power_of_two() && *page <= LARGEST_PAGE);
    Ok(page.and_then(|page| bytes.checked_next_multiple_of(page)))
}

/// Checks that a descriptor from somebody else is a sealed segment of exactly this size, or of this size and the rest of its last huge
/// page; returns the bytes of its file.
///
/// # Errors
/// [`Error::Segment`] says what is wrong with it.
pub fn check(fd: &impl AsFd, kind: Kind, bytes: u64) -> Result<u64> {
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
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|e| Error::io("fcntl", e))?;
    if OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE == OFlag::O_WRONLY {
        return Err(refuse("it cannot be read by this descriptor".into()));
    }
    let stat = fstat(fd).map_err(|e| Error::io("fstat", e))?;
    let size = stat.st_size;
    let Some(bytes) = file_bytes(fd, bytes)?.filter(|bytes| u64::try_from(size) == Ok(*bytes))
    else {
        return Err(refuse(format!("it has {size} bytes, not {bytes}")));
    };
    // Else whoever maps it would pay for the pages that its maker did not.
    let allocated = u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(BLOCK);
    if allocated < bytes {
        return Err(refuse(format!(
            "only {allocated} of its {bytes} bytes are allocated"
        )));
    }
    Ok(bytes)
}

/// Checks a descriptor from somebody else and maps it read-only.
///
/// # Errors
/// [`Error::Segment`] where it is not what it should be.
pub fn open(fd: &impl AsFd, kind: Kind, bytes: u64) -> Result<Mapping> {
    open_placed(fd, kind, bytes, &Placement::default())
}

/// As [`open`]; mapped and locked as asked, as far as that can be had: see [`Mapping::report`]. Huge pages are there if its maker has
/// them; on which node it is, its maker decides.
///
/// # Errors
/// As for [`open`].
pub fn open_placed(
    fd: &impl AsFd,
    kind: Kind,
    bytes: u64,
    placement: &Placement,
) -> Result<Mapping> {
    let bytes = check(fd, kind, bytes)?;
    let length = usize::try_from(bytes).map_err(|_| Error::Segment {
        segment: kind.name(),
        why: format!("{bytes} bytes do not fit this machine's address space"),
    })?;
    let pages = Pages::map(fd, length, Access::Read, kind.instead())
        .map_err(|e| Error::io("mapping a segment", e))?;
    let mut report = PlacementReport::default();
    let what = format!("a {} of {bytes} bytes", kind.name());
    let placement = placement.of(kind, false);
    placement.finish(&pages, Access::Read, &what, None, &mut report);
    Ok(Mapping { pages, report })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_whose_pages_its_maker_did_not_take_is_refused() {
        let fd = create_memfd(Kind::Ring, Source::Plain).unwrap();
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
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(check(&file, Kind::Ring, 4096).is_err());
        let fd = create_memfd(Kind::Ring, Source::Plain).unwrap();
        ftruncate(&fd, 4096).unwrap();
        let error = open(&fd, Kind::Ring, 4096).unwrap_err().to_string();
        assert!(error.contains("not sealed"), "{error}");
    }

    #[test]
    fn nobody_else_can_resize_or_map_it_writable() {
        let (fd, _mapping) = create(Kind::Ring, 8192).unwrap();
        assert_eq!(ftruncate(&fd, 4096), Err(Errno::EPERM));
        assert_eq!(ftruncate(&fd, 16384), Err(Errno::EPERM));
        assert!(Pages::map(&fd, 8192, Access::Write, Kind::Ring.instead()).is_err());
        open(&fd, Kind::Ring, 8192).unwrap();
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
