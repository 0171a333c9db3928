//! A segment's pages in this process's address space: mapped, and what the kernel is told of them.
//!
//! Promises: the pages stay at their address for as long as their [`Pages`] live; pages that may be huge start at a multiple of
//! [`HUGE`], without which the kernel maps none. What lies in them is hostile until read with care. This file holds the crate's
//! calls that take an address: each passes on that of a mapping that it made.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{
    MRemapFlags, MapFlags, ProtFlags, mlock, mmap, mmap_anonymous, mremap, munmap,
};

use crate::fork::{Instead, Kept};

/// Bytes of a huge page.
pub(super) const HUGE: usize = 2 << 20;

/// Words of a mask of NUMA nodes, one bit each: as many nodes as any kernel has.
const NODE_WORDS: usize = 1024 / u64::BITS as usize;

/// `MADV_COLLAPSE` of `<asm-generic/mman-common.h>`. The `libc` crate lacks this constant for musl.
const MADV_COLLAPSE: libc::c_int = 25;

/// Mapped pages, which no child of this process has.
#[derive(Debug)]
pub(super) struct Pages {
    base: NonNull<c_void>,
    bytes: usize,
    kept: Kept,
}

// SAFETY: it stands for the mapping itself, and gives out its address only; what is read and written there is its users' part.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Loads only.
    Read,
    /// Loads and stores.
    Write,
}

impl Access {
    fn protection(self) -> ProtFlags {
        match self {
            Self::Read => ProtFlags::PROT_READ,
            Self::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        }
    }
}

impl Pages {
    /// Maps the first `bytes` bytes of a file, shared. A child of this process has `instead`.
    pub(super) fn map(
        file: &impl AsFd,
        bytes: usize,
        access: Access,
        instead: Instead,
    ) -> nix::Result<Self> {
        let length = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        let map = || {
            if bytes >= HUGE {
                return map_aligned(file, length, access);
            }
            // SAFETY: a new mapping at an address that the kernel chooses.
            unsafe {
                let protection = access.protection();
                mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0)
            }
        };
        let (base, kept) = Kept::map(bytes, instead, map, |base| unmap(base, bytes))?;
        Ok(Self { base, bytes, kept })
    }

    /// The same pages mapped a second time, at another address. A child of this process has `instead`.
    pub(super) fn double(&self, instead: Instead) -> nix::Result<Self> {
        let bytes = self.bytes;
        // SAFETY: with an old size of 0 nothing moves: the kernel maps the same shared pages at an address that it chooses.
        let map = || unsafe { mremap(self.base, 0, bytes, MRemapFlags::MREMAP_MAYMOVE, None) };
        let (base, kept) = Kept::map(bytes, instead, map, |base| unmap(base, bytes))?;
        Ok(Self { base, bytes, kept })
    }

    /// Puts these pages in the place of others, which are no longer mapped there. Whoever reads at that address finds either the others
    /// or these, at any moment: the kernel lets nobody look in between, and when this returns every processor finds these. No fork comes
    /// between either.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] where the two differ in size: nothing has happened. Else what the kernel said, which it says before it does anything but
    /// where it has no memory left for a few words of its own.
    pub(super) fn replace(self, others: &Self) -> nix::Result<()> {
        if self.bytes != others.bytes {
            return Err(Errno::EINVAL);
        }
        let this = ManuallyDrop::new(self);
        let mut replaced = Err(Errno::EINVAL);
        this.kept.release(|| {
            let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
            // SAFETY: both ranges are mappings of this size that live now. What lies in either is hostile until read with care, so readers
            // at the address must expect any content at any time; they hold no references but to atomics.
            let moved =
                unsafe { mremap(this.base, this.bytes, this.bytes, flags, Some(others.base)) };
            // They are at the other address now, and go with the others; or they stay, and nobody uses them.
            replaced = moved
                .map(drop)
                .inspect_err(|_| unmap(this.base, this.bytes));
        });
        replaced
    }

    /// The first byte; page-aligned.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base.cast()
    }

    /// Bytes mapped.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Maps every page now, so that no first touch costs a fault; takes what is not yet allocated.
    pub(super) fn populate(&self, access: Access) -> nix::Result<()> {
        self.advise(match access {
            Access::Read => libc::MADV_POPULATE_READ,
            Access::Write => libc::MADV_POPULATE_WRITE,
        })
    }

    /// Asks for huge pages where pages are allocated from now on.
    pub(super) fn want_huge(&self) -> nix::Result<()> {
        self.advise(libc::MADV_HUGEPAGE)
    }

    /// Copies what is allocated in small pages into huge ones.
    pub(super) fn collapse(&self) -> nix::Result<()> {
        self.advise(MADV_COLLAPSE)
    }

    fn advise(&self, advice: libc::c_int) -> nix::Result<()> {
        loop {
            // SAFETY: the range is that of this mapping, and none of the advice given here takes content away.
            let done = unsafe { libc::madvise(self.base.as_ptr(), self.bytes, advice) };
            match Errno::result(done) {
                Err(Errno::EINTR | Errno::EAGAIN) if advice != MADV_COLLAPSE => {}
                done => return done.map(drop),
            }
        }
    }

    /// Keeps every page in memory, and maps it.
    pub(super) fn lock(&self) -> nix::Result<()> {
        // SAFETY: the range is that of this mapping; locking changes no content.
        unsafe { mlock(self.base, self.bytes) }
    }

    /// Has pages that are allocated from now on taken from this node, as far as it has some.
    pub(super) fn prefer_node(&self, node: u32) -> nix::Result<()> {
        let mut mask = [0_u64; NODE_WORDS];
        let word = mask.get_mut((node / u64::BITS) as usize);
        *word.ok_or(Errno::EINVAL)? |= 1 << (node % u64::BITS);
        // SAFETY: the range is that of this mapping; the kernel reads one bit less of the mask than it is told, and no more.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base.as_ptr(),
                self.bytes,
                libc::MPOL_PREFERRED,
                mask.as_ptr(),
                8 * size_of_val(&mask) + 1,
                0,
            )
        };
        Errno::result(done).map(drop)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.kept.release(|| unmap(self.base, self.bytes));
    }
}

/// Takes a mapping of this file's away, which nobody uses any more.
fn unmap(base: NonNull<c_void>, bytes: usize) {
    // SAFETY: whoever uses the address keeps its `Pages` alive. The kernel refuses only ranges that are none.
    let _ = unsafe { munmap(base, bytes) };
}

/// Maps at a multiple of [`HUGE`], in the midst of a reservation that is large enough to have one. What is left of the
/// reservation costs addresses, and goes at once.
fn map_aligned(
    file: &impl AsFd,
    length: NonZeroUsize,
    access: Access,
) -> nix::Result<NonNull<c_void>> {
    let bytes = length.get();
    let whole = bytes.checked_next_multiple_of(HUGE).ok_or(Errno::ENOMEM)?;
    let room = whole.checked_add(HUGE).ok_or(Errno::ENOMEM)?;
    let room = NonZeroUsize::new(room).ok_or(Errno::ENOMEM)?;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let reserved = unsafe {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        mmap_anonymous(None, room, ProtFlags::PROT_NONE, flags)
    }?;
    let before = reserved.as_ptr().align_offset(HUGE);
    let address = NonZeroUsize::new(reserved.as_ptr() as usize + before);
    // SAFETY: `before` is less than `HUGE`, so the pages replaced are all of the reservation, which nobody uses.
    let mapped = unsafe {
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        mmap(address, length, access.protection(), flags, file, 0)
    };
    let base = mapped.inspect_err(|_| unmap(reserved, room.get()))?;
    let after = room.get() - before - whole;
    let mapped = bytes.next_multiple_of(page());
    // Where one of these cannot be given back, addresses are lost and nothing else.
    if before > 0 {
        unmap(reserved, before);
    }
    // SAFETY: both ends are of the reservation, outside what was mapped since.
    unsafe {
        unmap(base.add(whole), after);
        if whole > mapped {
            unmap(base.add(mapped), whole - mapped);
        }
    }
    Ok(base)
}

/// Bytes of a plain page of this machine.
pub(super) fn page() -> usize {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().map_or(4096, |size| size as usize)
}
