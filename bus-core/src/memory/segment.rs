//! A segment: a memfd with a fixed size, allocated up front, sealed so that only its creator can write.
//!
//! Promises: once created, touching a segment never faults (its pages exist and its size is sealed); a descriptor that
//! passed [`check`] can neither be resized nor mapped writable by anybody new. It does not say what is in the pages:
//! that is hostile until read with care.

use std::ffi::CString;
use std::fmt;
use std::ops::RangeInclusive;
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

/// A peer's segment as it was handed over, or where it is mapped by now.
#[derive(Debug)]
pub enum Handed {
    /// Its descriptor.
    Descriptor(OwnedFd),
    /// The descriptor is closed.
    Mapped(Mapping),
}

impl Handed {
    /// Maps it, so that it takes no descriptor until somebody wants it. Where that cannot be done, it stays as it is,
    /// and the error is that of its later use.
    pub fn map_ahead(&mut self, kind: Kind, bytes: u64) {
        let Self::Descriptor(fd) = self else {
            return;
        };
        let mapping = match kind {
            // It may have been made before its topic was decided.
            Kind::Reader => open_first(fd, kind, bytes, &Placement::default()),
            Kind::Ring | Kind::Registry => open(fd, kind, bytes),
        };
        if let Ok(mapping) = mapping {
            *self = Self::Mapped(mapping);
        }
    }
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
/// [`Error::OutOfMemory`] says what limits it; nothing is left behind.
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
    let unfilled = |unfilled| match unfilled {
        Unfilled::Refused(call, source) => unsupported(call, source),
        Unfilled::NoRoom(why) => no_room(why),
    };
    let fd = create_memfd(kind, Source::Plain).map_err(|e| match is_refusal(e) {
        true => unsupported("memfd_create", e),
        false => Error::io("memfd_create", e),
    })?;
    fill(fd, kind, bytes, Source::Plain, &placement, pool)
        .map_err(unfilled)
        .and_then(seal)
}

/// Why a new file got no pages.
enum Unfilled {
    /// The kernel or a sandbox refuses the system call as such, whatever the size.
    Refused(&'static str, Errno),
    /// There is not enough room.
    NoRoom(String),
}

impl Unfilled {
    fn of(call: &'static str, error: Errno) -> Self {
        if is_refusal(error) {
            Self::Refused(call, error)
        } else {
            Self::NoRoom(error.to_string())
        }
    }
}

impl fmt::Display for Unfilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(call, error) => write!(f, "{call}: {error}"),
            Self::NoRoom(why) => f.write_str(why),
        }
    }
}

/// Whether an error says that a system call is not permitted or not there. A smaller size does not help then.
fn is_refusal(error: Errno) -> bool {
    matches!(error, Errno::EPERM | Errno::EACCES | Errno::ENOSYS)
}

fn unsupported(call: &'static str, error: Errno) -> Error {
    Error::Unsupported {
        call,
        source: error.into(),
    }
}

/// From now on, nobody can resize it or map it writable.
fn seal((fd, mapping): (OwnedFd, Mapping)) -> Result<(OwnedFd, Mapping)> {
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS)).map_err(|e| match is_refusal(e) {
        true => unsupported("fcntl", e),
        false => Error::io("sealing a segment", e),
    })?;
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
    fill(fd, kind, whole, Source::Pool, placement, None).map_err(|error| {
        let free = told::pool().map_or_else(|| "an unknown number of".into(), |n| n.to_string());
        let wanted = whole / HUGE as u64;
        format!("the pool (vm.nr_hugepages) has {free} pages of 2 MiB free, not {wanted}: {error}")
    })
}

/// Gives a new file its pages and maps them, or says why not. `pool` is why they are not of the pool.
fn fill(
    fd: OwnedFd,
    kind: Kind,
    bytes: u64,
    source: Source,
    placement: &Placement,
    pool: Option<String>,
) -> Result<(OwnedFd, Mapping), Unfilled> {
    let said = |call| move |e| Unfilled::of(call, e);
    let length = i64::try_from(bytes);
    let length = length.map_err(|_| Unfilled::NoRoom("no file is that long".into()))?;
    ftruncate(&fd, length).map_err(said("ftruncate"))?;
    let pages = Pages::map(&fd, length as usize, Access::Write, kind.instead());
    let pages = pages.map_err(said("mmap or madvise"))?;
    let mut report = PlacementReport::default();
    placement.prepare(&pages, &mut report);
    if placement.huge_pages && source == Source::Plain && pages.want_huge().is_ok() {
        // Huge pages are given at a first touch. What that leaves out, or refuses, is for the next call.
        let _ = pages.populate(Access::Write);
    }
    allocate(&fd, length).map_err(said("fallocate"))?;
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
    check_within(fd, kind, bytes..=bytes)
}

/// As [`check`], of a segment that may have any of these sizes, in bytes.
///
/// # Errors
/// As for [`check`].
pub fn check_within(fd: &impl AsFd, kind: Kind, bytes: RangeInclusive<u64>) -> Result<u64> {
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
    let (least, most) = bytes.into_inner();
    let within = |size: &u64| -> Result<bool> {
        let reached = file_bytes(fd, least)?.is_some_and(|least| *size >= least);
        Ok(reached && file_bytes(fd, most)?.is_none_or(|most| *size <= most))
    };
    let bytes = match u64::try_from(size) {
        Ok(size) if within(&size)? => size,
        _ if least == most => return Err(refuse(format!("it has {size} bytes, not {least}"))),
        _ if most == u64::MAX => {
            return Err(refuse(format!(
                "it has {size} bytes, and {least} are needed"
            )));
        }
        _ => {
            return Err(refuse(format!(
                "it has {size} bytes, not {least} to {most}"
            )));
        }
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
    map(fd, kind, bytes, placement)
}

/// As [`open_placed`], of a segment that may be longer: its first `bytes` bytes are mapped, and no more than the rest of
/// their last huge page.
///
/// # Errors
/// As for [`open`].
pub fn open_first(
    fd: &impl AsFd,
    kind: Kind,
    bytes: u64,
    placement: &Placement,
) -> Result<Mapping> {
    let size = check_within(fd, kind, bytes..=u64::MAX)?;
    let bytes = file_bytes(fd, bytes)?.unwrap_or(size);
    map(fd, kind, bytes, placement)
}

/// Maps the first bytes of a segment that was checked, read-only.
fn map(fd: &impl AsFd, kind: Kind, bytes: u64, placement: &Placement) -> Result<Mapping> {
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
    fn a_longer_segment_is_mapped_as_far_as_is_needed() {
        let (fd, _mapping) = create(Kind::Reader, 12288).unwrap();
        let placement = Placement::default();
        let first = open_first(&fd, Kind::Reader, 8192, &placement).unwrap();
        assert_eq!(first.bytes(), 8192);
        open_first(&fd, Kind::Reader, 12288, &placement).unwrap();
        let error = open_first(&fd, Kind::Reader, 16384, &placement);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("12288 bytes, and 16384"), "{error}");
        for (within, is) in [
            (4096..=12288, true),
            (12288..=16384, true),
            (4096..=8192, false),
            (12289..=16384, false),
        ] {
            let checked = check_within(&fd, Kind::Reader, within.clone());
            assert_eq!(checked.is_ok(), is, "{within:?}: {checked:?}");
        }
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
