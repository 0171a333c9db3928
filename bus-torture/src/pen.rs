//! Segments that are written as their owner pleases, and looked at as anybody may. All of the `unsafe` of the hostile peer is here.
//!
//! Promises: no access outside the mapping, whatever offset is asked for. What a [`Pen`] writes is seen by whoever maps its segment; there is no
//! order in it, as there is none in what a hostile process does.

use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use anyhow::{Context, Result, ensure};
use bus_core::memory::layout::LAYOUT_VERSION;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// What a segment has to be sealed with.
pub const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_FUTURE_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

/// Pages of a file, mapped.
#[derive(Debug)]
struct Pages {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is an address and a length; every access through it is volatile and within bounds, from whichever thread.
unsafe impl Send for Pages {}
// SAFETY: as above. Two threads that write the same word race as two processes do, which is the purpose.
unsafe impl Sync for Pages {}

impl Pages {
    fn map(fd: &impl AsFd, bytes: usize, write: bool) -> nix::Result<Self> {
        let length = NonZeroUsize::new(bytes).ok_or(nix::Error::EINVAL)?;
        let mut protection = ProtFlags::PROT_READ;
        protection.set(ProtFlags::PROT_WRITE, write);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self {
            base: base.cast(),
            bytes,
        })
    }

    /// The word at this offset, rounded down to where a word is, and taken round where it is too far.
    fn word(&self, offset: usize) -> NonNull<u64> {
        let offset = (offset % (self.bytes & !7)) & !7;
        // SAFETY: the offset is a multiple of 8, and 8 bytes or more before the end; the base is page-aligned.
        unsafe { self.base.add(offset).cast() }
    }

    fn read(&self, offset: usize) -> u64 {
        // SAFETY: the word is mapped and aligned; others may write it at any time, so volatile.
        unsafe { self.word(offset).read_volatile() }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nobody has the address but this. The kernel refuses only ranges that are none.
        let _ = unsafe { munmap(self.base.cast(), self.bytes) };
    }
}

/// A segment of this process, written word by word.
#[derive(Debug)]
pub struct Pen {
    fd: OwnedFd,
    pages: Pages,
}

impl Pen {
    /// Makes a sealed segment that says that it is of the kind `magic`.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn create(magic: u32, bytes: u64) -> Result<Self> {
        Self::create_sealed(magic, bytes, SEALS)
    }

    /// As [`create`](Self::create), with these seals only.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn create_sealed(magic: u32, bytes: u64, seals: SealFlag) -> Result<Self> {
        let fd = memfd_create(
            c"hostile",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )
        .context("memfd_create")?;
        let length = i64::try_from(bytes).context("no file is that long")?;
        ftruncate(&fd, length).context("ftruncate")?;
        fallocate(&fd, FallocateFlags::empty(), 0, length).context("fallocate")?;
        let pages = Pages::map(&fd, bytes as usize, true).context("mapping a segment")?;
        let pen = Self { fd, pages };
        pen.write(0, u64::from(LAYOUT_VERSION) << 32 | u64::from(magic));
        fcntl(&pen.fd, FcntlArg::F_ADD_SEALS(seals)).context("sealing a segment")?;
        Ok(pen)
    }

    /// Bytes of the segment.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.bytes
    }

    /// The word at this offset. Any offset means some word of the segment.
    #[must_use]
    pub fn read(&self, offset: usize) -> u64 {
        self.pages.read(offset)
    }

    /// Writes the word at this offset. Any offset means some word of the segment.
    pub fn write(&self, offset: usize, value: u64) {
        // SAFETY: as in `Pages::read`; this mapping is writable.
        unsafe { self.pages.word(offset).write_volatile(value) }
    }

    /// Writes half a word.
    pub fn write_half(&self, offset: usize, value: u32) {
        let shift = offset % 8 / 4 * 32;
        let rest = self.read(offset) & !(u64::from(u32::MAX) << shift);
        self.write(offset, rest | u64::from(value) << shift);
    }
}

impl AsFd for Pen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Somebody's segment, to look at.
#[derive(Debug)]
pub struct Look(Pages);

impl Look {
    /// Maps a segment of somebody else.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn at(fd: &impl AsFd) -> Result<Self> {
        let bytes = usize::try_from(fstat(fd).context("fstat")?.st_size)?;
        Ok(Self(
            Pages::map(fd, bytes, false).context("mapping a segment to look at")?,
        ))
    }

    /// The word at this offset. Any offset means some word of the segment.
    #[must_use]
    pub fn read(&self, offset: usize) -> u64 {
        self.0.read(offset)
    }

    /// Bytes of the segment.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }
}

/// Whether this process could map the descriptor so that it may write.
#[must_use]
pub fn maps_writable(fd: &impl AsFd, bytes: usize) -> bool {
    Pages::map(fd, bytes, true).is_ok()
}

/// Tries what else would change a segment through a mapping that only reads: to make it writable, and to take its pages away. What the
/// kernel let happen.
///
/// # Errors
/// It cannot even be mapped.
pub fn force(fd: &impl AsFd, bytes: usize) -> Result<Vec<&'static str>> {
    let pages = Pages::map(fd, bytes, false).context("mapping a segment to look at")?;
    let base = pages.base.cast();
    let mut happened = Vec::new();
    let write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the range is that of this mapping, which nobody else uses.
    if unsafe { nix::sys::mman::mprotect(base, bytes, write) }.is_ok() {
        happened.push("mprotect made a mapping writable");
    }
    // SAFETY: as above.
    let removed = unsafe { libc::madvise(base.as_ptr(), bytes, libc::MADV_REMOVE) };
    if removed == 0 {
        happened.push("madvise took pages away");
    }
    Ok(happened)
}

/// The descriptor that this process was started with under a number, above those that every process has. None where there is none.
///
/// Ask once for each number, and before anything else in this process makes descriptors of its own.
#[must_use]
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: it is looked at, and closed by nobody.
    let there = unsafe { BorrowedFd::borrow_raw(number.max(3)) };
    if number < 3 || fcntl(there, FcntlArg::F_GETFD).is_err() {
        return None;
    }
    // SAFETY: it is open, and was there before this process began: nobody in it owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Where this process has mapped the file behind a descriptor so that it may only read: first address and end of each mapping.
///
/// # Errors
/// `/proc` is not to be seen.
pub fn mappings(fd: &impl AsFd) -> Result<Vec<(usize, usize)>> {
    let inode = fstat(fd).context("fstat")?.st_ino.to_string();
    let maps = fs::read_to_string("/proc/self/maps").context("reading /proc/self/maps")?;
    let found: Vec<_> = maps
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (range, allowed, found) = (words.next()?, words.next()?, words.nth(2)?);
            let (from, to) = range.split_once('-')?;
            let ours = allowed == "r--s" && found == inode && line.contains("memfd:");
            let address = |text| usize::from_str_radix(text, 16).ok();
            ours.then_some((address(from)?, address(to)?))
        })
        .collect();
    ensure!(
        !found.is_empty(),
        "a segment that should be mapped is not in /proc/self/maps"
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_offset_leads_outside() {
        let pen = Pen::create(7, 8192).unwrap();
        for offset in [0, 7, 8191, 8192, usize::MAX, usize::MAX - 8] {
            pen.write(offset, 5);
            assert_eq!(pen.read(offset), 5);
        }
        pen.write_half(68, 9);
        assert_eq!(pen.read(64), 9 << 32);
        assert_eq!(Look::at(&pen).unwrap().read(64), 9 << 32);
    }

    #[test]
    fn a_sealed_segment_is_not_forced_and_an_unsealed_one_is() {
        let sealed = Pen::create(7, 4096).unwrap();
        assert!(!maps_writable(&sealed, 4096));
        assert_eq!(force(&sealed, 4096).unwrap(), [""; 0]);
        let open = Pen::create_sealed(7, 4096, SealFlag::empty()).unwrap();
        assert!(maps_writable(&open, 4096));
        assert!(!force(&open, 4096).unwrap().is_empty());
    }
}
