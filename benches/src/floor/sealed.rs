//! A payload in a memfd of its own that is sealed against writing, against a payload that is copied out of memory that stays shared.
//!
//! Both build the payload, hand it over within this process, and read a word of each of its pages. The memfd's pages come from the kernel, zeroed, and
//! are mapped twice; those of the copy are there already.
#![allow(unsafe_code)]

use anyhow::{Context, Result, ensure};
use bus_core::control::{Connection, Request};
use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::Instant;

/// Bytes between two words that are read.
const PAGE: usize = 4096;

/// What a reader of another user's payload has to see before it reads in place.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW);

/// Makes, fills, seals, passes, checks, maps and reads a memfd; the nanoseconds that it takes.
///
/// # Errors
/// The system refuses, for want of memory for example.
pub fn sealed(bytes: usize, (from, to): &(Connection, Connection)) -> Result<f64> {
    let begun = Instant::now();
    let file = File::from(memfd_create(c"bus-bench", MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(bytes as u64)?;
    let map = MmapOptions::new().len(bytes).map_raw(&file)?;
    // SAFETY: the mapping has as many bytes, and nobody else has it.
    unsafe { map.as_mut_ptr().write_bytes(7, bytes) };
    drop(map);
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).context("sealing failed")?;
    from.send(&Request::Join, &[file.as_fd()])?;
    let (_, descriptors) = to.recv::<Request>(None)?;
    let received = descriptors.first().context("the descriptor was lost")?;
    let seals = fcntl(received, FcntlArg::F_GET_SEALS)?;
    ensure!(SealFlag::from_bits_retain(seals).contains(SEALS));
    let map = MmapOptions::new().len(bytes).map_raw_read_only(received)?;
    // SAFETY: the mapping has as many bytes.
    unsafe { read(map.as_ptr(), bytes) };
    drop(map);
    drop((file, descriptors));
    Ok(begun.elapsed().as_nanos() as f64)
}

/// Memory that stays shared, and a buffer that stays private, both with all pages there.
pub struct Warm {
    shared: MmapRaw,
    private: Vec<u8>,
}

impl Warm {
    /// Room for so many bytes.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn new(bytes: usize) -> Result<Self> {
        let file = super::memory::create(bytes)?;
        let shared = MmapOptions::new().len(bytes).populate().map_raw(&file)?;
        Ok(Self {
            shared,
            private: vec![1; bytes],
        })
    }

    /// Fills, copies and reads; the nanoseconds that it takes.
    pub fn copied(&mut self, bytes: usize) -> f64 {
        let bytes = bytes.min(self.private.len());
        let begun = Instant::now();
        // SAFETY: both have as many bytes, and nobody else has either.
        unsafe {
            self.shared.as_mut_ptr().write_bytes(7, bytes);
            self.private
                .as_mut_ptr()
                .copy_from_nonoverlapping(self.shared.as_ptr(), bytes);
            read(self.private.as_ptr(), bytes);
        }
        begun.elapsed().as_nanos() as f64
    }
}

/// # Safety
/// There are as many bytes.
unsafe fn read(from: *const u8, bytes: usize) {
    let mut sum = 0_u64;
    for at in (0..bytes).step_by(PAGE) {
        // SAFETY: the caller's promise.
        sum += u64::from(unsafe { from.add(at).read_volatile() });
    }
    black_box(sum);
}
