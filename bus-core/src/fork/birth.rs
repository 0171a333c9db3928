//! Which process made something.
//!
//! A process number does not tell: a child in a process namespace of its own may have its parent's. One word in a page does, which the kernel
//! wipes in every child, however that was made.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::memory::layout::PAGE;
use crate::{Error, Result};

#[allow(
    clippy::disallowed_types,
    reason = "a word of this process alone, which no model has"
)]
type Word = std::sync::atomic::AtomicU64;

/// The process that made something, told from its forks.
///
/// ```
/// let birth = bus_core::fork::Birth::here();
/// assert!(birth.is_here());
/// assert_eq!(birth.process(), std::process::id());
/// birth.check()?;
/// # Ok::<(), bus_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// What the word says in that process, and in none of those that it descends from or forks.
    mark: u64,
    process: u32,
}

impl Birth {
    /// This process.
    pub fn here() -> Self {
        Self {
            mark: word().map_or(0, mark),
            process: std::process::id(),
        }
    }

    /// Whether this is that process still, and not a fork of it.
    #[inline]
    pub fn is_here(self) -> bool {
        match word() {
            // ORDERING: a word that one process has to itself; it changes when the process begins, and once after.
            Some(word) => word.load(Relaxed) == self.mark,
            None => self.process == std::process::id(),
        }
    }

    /// That process's number.
    pub fn process(self) -> u32 {
        self.process
    }

    /// That this is that process.
    ///
    /// # Errors
    /// [`Error::Forked`] in a fork of it.
    pub fn check(self) -> Result<()> {
        if self.is_here() {
            return Ok(());
        }
        Err(Error::Forked {
            process: self.process,
        })
    }
}

/// Marks given so far by this process and those that it descends from.
static MARKS: Word = Word::new(0);

/// The mark of this process; a new one, where it has none.
fn mark(word: &Word) -> u64 {
    // ORDERING: as in `is_here`; of two threads that give the first mark, both take the one that was stored first.
    match word.load(Relaxed) {
        0 => {
            // ORDERING: as above; only that no number comes twice matters.
            let new = MARKS.fetch_add(1, Relaxed) + 1;
            word.compare_exchange(0, new, Relaxed, Relaxed)
                .err()
                .unwrap_or(new)
        }
        mark => mark,
    }
}

/// The word that is 0 in a new process. None where the kernel has no such pages: then process numbers have to do.
#[inline]
fn word() -> Option<&'static Word> {
    static WORD: OnceLock<Option<&'static Word>> = OnceLock::new();
    *WORD.get_or_init(|| {
        let bytes = NonZeroUsize::new(PAGE)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let page = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) };
        let page: NonNull<c_void> = page.ok()?;
        // SAFETY: the range is that of the mapping. What the advice takes away in a child are words that any value is right for.
        let wiped = unsafe { libc::madvise(page.as_ptr(), PAGE, libc::MADV_WIPEONFORK) };
        if Errno::result(wiped).is_err() {
            // SAFETY: nobody has the address.
            let _ = unsafe { munmap(page, PAGE) };
            return None;
        }
        // SAFETY: a page of zeroes, aligned, that is never unmapped and that only this word's users touch.
        Some(unsafe { page.cast::<Word>().as_ref() })
    })
}
