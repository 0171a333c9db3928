//! A payload in a memfd of its own that is sealed against writing: what the kernel takes to make it, hand it over and take it away again.
//!
//! Promises: each reader gets the descriptor through a socket, checks the seals, maps the memory, and unmaps it. Pages are mapped with one call on both sides,
//! which is cheaper than a fault for each. No memfd is used twice: a seal cannot be broken, so there is no pool of them ([`reusable`]).
#![allow(unsafe_code)]

use crate::clock;
use anyhow::{Context, Result, ensure};
use bus_core::control::{Connection, Request};
use memmap2::{Advice, MmapOptions};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

/// What a reader of another user's payload has to see before it reads in place.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW);

/// How the payload gets into its memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// Mapped and built there, as a loan is.
    Mapped,
    /// The same, in huge pages if the kernel gives them.
    Huge,
    /// Built in private memory, and written with `write`: the kernel zeroes nothing, and the publisher maps nothing.
    Written,
}

impl Build {
    /// All of them, with the names of their figures.
    pub const ALL: [(Self, &str); 3] = [
        (Self::Mapped, "mapped"),
        (Self::Huge, "huge"),
        (Self::Written, "written"),
    ];
}

/// Processor time of one message, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Of who publishes it.
    pub publisher: f64,
    /// Of each who reads it, on average.
    pub reader: f64,
}

impl Spent {
    /// Of all together.
    #[must_use]
    pub fn all(self, readers: usize) -> f64 {
        self.publisher + self.reader * readers as f64
    }
}

/// Publishes these bytes in a memfd of their own, to a reader at the end of each of these pairs of connections.
///
/// # Errors
/// The system refuses, for want of memory for example; a reader does.
pub fn message(
    bytes: &[u8],
    build: Build,
    readers: &[(Connection, Connection)],
    mut read: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Spent> {
    let begun = clock::cpu_ns()?;
    let file = built(bytes, build)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).context("sealing failed")?;
    for (publisher, _) in readers {
        publisher.send(&Request::Join, &[file.as_fd()])?;
    }
    drop(file);
    let sent = clock::cpu_ns()?;
    for (_, reader) in readers {
        let (_, descriptors) = reader.recv::<Request>(None)?;
        let received = descriptors.first().context("the descriptor was lost")?;
        let seals = fcntl(received, FcntlArg::F_GET_SEALS)?;
        ensure!(SealFlag::from_bits_retain(seals).contains(SEALS));
        let map = MmapOptions::new()
            .len(bytes.len())
            .map_raw_read_only(received)?;
        if build == Build::Huge {
            map.advise(Advice::HugePage)?;
        }
        map.advise(Advice::PopulateRead)?;
        // SAFETY: the mapping has as many bytes, nobody can write them any more, and it stays until after the call.
        read(unsafe { std::slice::from_raw_parts(map.as_ptr(), bytes.len()) })?;
    }
    Ok(Spent {
        publisher: (sent - begun) as f64,
        reader: (clock::cpu_ns()? - sent) as f64 / readers.len() as f64,
    })
}

/// A memfd with these bytes.
fn built(bytes: &[u8], build: Build) -> Result<File> {
    let mut file = File::from(memfd_create(c"bus-bench", MFdFlags::MFD_ALLOW_SEALING)?);
    if build == Build::Written {
        file.write_all(bytes).context("filling a memfd failed")?;
        return Ok(file);
    }
    file.set_len(bytes.len() as u64)?;
    let map = MmapOptions::new().len(bytes.len()).map_raw(&file)?;
    if build == Build::Huge {
        map.advise(Advice::HugePage)?;
    }
    map.advise(Advice::PopulateWrite)
        .context("there is no memory for a memfd")?;
    // SAFETY: the mapping has as many bytes, and nobody else has it.
    unsafe {
        map.as_mut_ptr()
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
    };
    Ok(file)
}

/// Whether a memfd that is sealed against writing can be written again, by any way that a pool of them would need.
///
/// # Errors
/// The system refuses to make one.
pub fn reusable() -> Result<bool> {
    let mut file = built(&[7; 4096], Build::Mapped)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).context("sealing failed")?;
    let again = File::options().write(true).open(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&file)
    ))?;
    Ok(file.write_all(&[8]).is_ok()
        || (&again).write_all(&[8]).is_ok()
        || file.set_len(0).is_ok()
        || MmapOptions::new().len(4096).map_raw(&again).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_what_was_sent_however_it_was_built() {
        let pairs = [Connection::pair().unwrap(), Connection::pair().unwrap()];
        let bytes: Vec<_> = (0..100_000_u32).map(|at| at as u8).collect();
        for (build, _) in Build::ALL {
            let mut seen = 0;
            let spent = message(&bytes, build, &pairs, |read| {
                assert_eq!(read, bytes);
                seen += 1;
                Ok(())
            });
            assert!(spent.unwrap().all(2) > 0.0);
            assert_eq!(seen, 2);
        }
    }

    #[test]
    fn what_is_sealed_against_writing_stays_as_it_is() {
        assert!(!reusable().unwrap());
    }
}
