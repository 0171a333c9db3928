//! One shared mapping, and the only place of the floors with raw pointers.
//!
//! The parent creates a memfd and its children inherit it. A child maps it once
//! and keeps it until it ends, so references into it are `'static`.
#![allow(unsafe_code)]

use anyhow::{Context, Result};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::{File, OpenOptions};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Creates zeroed memory of `bytes` bytes that child processes inherit.
///
/// # Errors
/// The system refuses the file or its size.
pub fn create(bytes: usize) -> Result<File> {
    // Without close-on-exec: being inherited is what it is for.
    let file = File::from(
        memfd_create(c"bus-bench", MFdFlags::empty())
            .context("creating the shared memory failed")?,
    );
    file.set_len(bytes as u64)
        .with_context(|| format!("sizing the shared memory to {bytes} bytes failed"))?;
    Ok(file)
}

/// The mapping of one process.
#[derive(Debug)]
pub struct Shared {
    map: MmapRaw,
}

impl Shared {
    /// Maps the inherited memory, all pages present, for the rest of the process.
    ///
    /// # Errors
    /// `fd` is not open, or memory is short.
    pub fn open(fd: RawFd) -> Result<&'static Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{fd}"))
            .with_context(|| {
                format!("opening the inherited shared memory (descriptor {fd}) failed")
            })?;
        Self::map(&file)
    }

    /// Maps `file`, all pages present, for the rest of the process.
    ///
    /// # Errors
    /// Memory is short.
    pub fn map(file: &File) -> Result<&'static Self> {
        let map = MmapOptions::new()
            .populate()
            .map_raw(file)
            .context("mapping the shared memory failed")?;
        Ok(Box::leak(Box::new(Self { map })))
    }

    /// The 8-byte word at `offset`.
    ///
    /// # Panics
    /// `offset` is outside or not a multiple of 8: a mistake in the layout.
    #[must_use]
    pub fn word(&'static self, offset: usize) -> &'static AtomicU64 {
        self.block(offset, 8).word(0)
    }

    /// The 4-byte word at `offset`, for a futex.
    ///
    /// # Panics
    /// `offset` is outside or not a multiple of 8: a mistake in the layout.
    #[must_use]
    pub fn bell(&'static self, offset: usize) -> &'static AtomicU32 {
        let block = self.block(offset, 8);
        // SAFETY: `block` checked that 8 bytes at a multiple of 8 are mapped; they stay so.
        // Every process touches them atomically only.
        unsafe { AtomicU32::from_ptr(block.base.cast()) }
    }

    /// `len` bytes at `offset`.
    ///
    /// # Panics
    /// The block is outside, or `offset` is not a multiple of 8: a mistake in the layout.
    #[must_use]
    pub fn block(&'static self, offset: usize, len: usize) -> Block {
        assert!(
            offset.is_multiple_of(8) && offset <= self.map.len() && len <= self.map.len() - offset
        );
        // SAFETY: `offset` is within the mapping (checked above), which is never unmapped.
        let base = unsafe { self.map.as_mut_ptr().add(offset) };
        Block { base, len }
    }
}

/// A range of the mapping. It starts at a multiple of 8.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    base: *mut u8,
    len: usize,
}

impl Block {
    /// The 8-byte word at `at`.
    ///
    /// # Panics
    /// `at` is outside or not a multiple of 8.
    #[inline]
    #[must_use]
    pub fn word(&self, at: usize) -> &'static AtomicU64 {
        assert!(at.is_multiple_of(8) && at <= self.len && 8 <= self.len - at);
        // SAFETY: in bounds and aligned (checked above, and `base` is a multiple of 8 in a
        // page-aligned mapping); mapped for ever; touched as an atomic word by every process.
        unsafe { AtomicU64::from_ptr(self.base.add(at).cast()) }
    }

    /// Copies `bytes` to `at`.
    ///
    /// # Safety
    /// Nobody else touches these bytes until this process publishes them.
    ///
    /// # Panics
    /// The bytes do not fit.
    #[inline]
    pub unsafe fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.len && bytes.len() <= self.len - at);
        // SAFETY: in bounds (checked above); exclusive by the caller's promise; the source is
        // private memory, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) }
    }

    /// The `len` bytes at `at`.
    ///
    /// # Safety
    /// Nobody writes these bytes while the slice is in use.
    ///
    /// # Panics
    /// The bytes are outside.
    #[inline]
    #[must_use]
    pub unsafe fn read(&self, at: usize, len: usize) -> &[u8] {
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: in bounds (checked above), initialised (a memfd is zeroed), and unchanged by
        // the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base.add(at), len) }
    }
}
