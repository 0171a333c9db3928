//! What a forked child gets of the bus: nothing that it could do harm with.
//!
//! A child of `fork` has copies of its parent's handles, and is no member of any topic. Three things make that so, whatever it does:
//!
//! | what | by | what the child has instead |
//! | --- | --- | --- |
//! | segments | `MADV_DONTFORK`: a promise of the kernel's | memory of its own: registries that say that something has moved, zeroes, no payloads |
//! | descriptors in an [`Unshared`] | replaced at the fork | a socket that leads nowhere, under the same number |
//! | who asks [`Birth`] | `MADV_WIPEONFORK`: a promise of the kernel's | the answer that it is not here |
//!
//! So a handle or message that the child drops writes to nobody's memory. Every call that sends or receives looks at a registry first: it
//! finds that moved, goes the slow way, and there says [`Error::Forked`]. The data path pays nothing for this. What
//! a child reads or writes of a payload that was in its parent's hands at the fork ends that child, with `SIGSEGV`.
//!
//! It covers `fork` of the C library, which `std::process::Command` uses as well, where it forks at all. A child made by `clone(2)` itself has no
//! segments either, and [`Birth`] knows it; but it has the descriptors until it execs, and finds nothing where the segments were, so that
//! any use of a handle ends it. After an exec nothing is left of either: every descriptor is closed then.

mod birth;
mod table;
mod unshared;

use std::ffi::c_void;
use std::ptr::NonNull;

pub use birth::Birth;
use nix::errno::Errno;
pub use unshared::Unshared;

use crate::Error;

/// The error of a descriptor that cannot be kept from children.
pub(crate) fn unshared(error: Errno) -> Error {
    Error::io("keeping a descriptor from forked children", error)
}

/// What a child finds where its parent has a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instead {
    /// Bytes from the segment's base on that it may read and write, in vain. Touching others ends it.
    pub(crate) open: usize,
    /// What is there.
    pub(crate) fill: u8,
}

/// A mapping that is kept from children, for as long as it is there.
#[derive(Debug)]
pub(crate) struct Kept {
    place: usize,
    birth: Birth,
}

impl Kept {
    /// Makes a mapping of `bytes` bytes and keeps it from children. No fork comes between the two.
    pub(crate) fn map(
        bytes: usize,
        instead: Instead,
        map: impl FnOnce() -> nix::Result<NonNull<c_void>>,
        unmap: impl FnOnce(NonNull<c_void>),
    ) -> nix::Result<(NonNull<c_void>, Self)> {
        table::watch_forks()?;
        let birth = Birth::here();
        let mut table = table::lock();
        let base = map()?;
        let segment = table::Segment {
            base,
            bytes,
            instead,
        };
        if let Err(error) = table::keep_from_children(&segment) {
            unmap(base);
            return Err(error);
        }
        let place = table.segments.add(segment);
        Ok((base, Self { place, birth }))
    }

    /// Lets it be unmapped; in a fork of the process that mapped it there is nothing to unmap, and addresses stay taken.
    pub(crate) fn release(&self, unmap: impl FnOnce()) {
        if self.birth.is_here() {
            let mut table = table::lock();
            table.segments.remove(self.place);
            unmap();
        }
    }
}
