//! What this process has open and mapped because of the bus: that of the broker and of the survivors, who live in it.

use std::fs;

use anyhow::{Context, Result};

/// Counts of what the kernel knows of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    sockets: usize,
    segments: usize,
    pidfds: usize,
    eventfds: usize,
    /// Segments that are mapped.
    mapped: usize,
}

impl Census {
    /// Counts.
    ///
    /// # Errors
    /// `/proc` is not to be seen.
    pub fn take() -> Result<Self> {
        let mut census = Self::default();
        for entry in fs::read_dir("/proc/self/fd").context("listing descriptors")? {
            // One that was closed meanwhile is none.
            let Some(link) = entry
                .ok()
                .and_then(|entry| fs::read_link(entry.path()).ok())
            else {
                continue;
            };
            let link = link.to_string_lossy();
            let counted = if link.starts_with("socket:") {
                &mut census.sockets
            } else if link.starts_with("/memfd:bus-") {
                &mut census.segments
            } else if link.contains("pidfd") {
                &mut census.pidfds
            } else if link.contains("eventfd") {
                &mut census.eventfds
            } else {
                continue;
            };
            *counted += 1;
        }
        let maps = fs::read_to_string("/proc/self/maps").context("reading what is mapped")?;
        census.mapped = maps.matches("/memfd:bus-").count();
        Ok(census)
    }
}
