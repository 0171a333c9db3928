//! Memory: what a process has resident, and what the segments of bus take.
//!
//! Resident memory counts a shared page in full in each process that touched it; the
//! proportional share divides it by their number. Neither counts pages of a segment that nobody
//! has touched yet, though they are allocated: [`segment_bytes`] does.

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::stat;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Memory of this process, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// Pages that it has mapped and touched.
    pub rss_kib: u64,
    /// The same, shared pages divided by those who share them.
    pub pss_kib: u64,
}

impl Resident {
    /// As it is now.
    ///
    /// # Errors
    /// `/proc` is not there or not as the kernel writes it.
    pub fn now() -> Result<Self> {
        let path = "/proc/self/smaps_rollup";
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {path} failed"))?;
        Self::parse(&text).with_context(|| {
            format!("{path} has no lines 'Rss:' and 'Pss:' with a number of kB each")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let kib = |name| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Some(Self {
            rss_kib: kib("Rss:")?,
            pss_kib: kib("Pss:")?,
        })
    }
}

/// How many descriptors a process has open.
///
/// # Errors
/// `/proc` does not tell.
pub fn descriptors(pid: u32) -> Result<u64> {
    let folder = format!("/proc/{pid}/fd");
    let list = std::fs::read_dir(&folder).with_context(|| format!("listing {folder} failed"))?;
    Ok(list.count() as u64)
}

/// How many threads a process has.
///
/// # Errors
/// `/proc` does not tell.
pub fn threads(pid: u32) -> Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let list = std::fs::read_dir(&folder).with_context(|| format!("listing {folder} failed"))?;
    Ok(list.count() as u64)
}

/// Bytes allocated to the segments of bus that these processes have a descriptor of, each segment
/// counted once.
///
/// # Errors
/// `/proc` does not tell of one of them.
pub fn segment_bytes(pids: &[u32]) -> Result<u64> {
    const BLOCK: u64 = 512;
    let mut segments = HashMap::new();
    for pid in pids {
        let folder = format!("/proc/{pid}/fd");
        let list =
            std::fs::read_dir(&folder).with_context(|| format!("listing {folder} failed"))?;
        for descriptor in list {
            let path = descriptor?.path();
            // A descriptor may be closed while the list is read.
            let Ok(target) = std::fs::read_link(&path) else {
                continue;
            };
            if is_segment(&target.to_string_lossy())
                && let Ok(file) = stat(&path)
            {
                segments.insert((file.st_dev, file.st_ino), file.st_blocks as u64 * BLOCK);
            }
        }
    }
    Ok(segments.values().sum())
}

fn is_segment(target: &str) -> bool {
    ["ring", "reader", "registry"]
        .iter()
        .any(|kind| target.starts_with(&format!("/memfd:bus-{kind}")))
}

/// Lets this process and its children have as many descriptors as they may.
///
/// # Errors
/// The kernel refuses.
pub fn allow_descriptors() -> Result<()> {
    let (_, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of descriptors failed")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .context("raising the limit of descriptors failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read() {
        let read = Resident::parse("x\nRss:               123 kB\nPss: 5 kB\n");
        assert_eq!(
            read,
            Some(Resident {
                rss_kib: 123,
                pss_kib: 5
            })
        );
        assert_eq!(Resident::parse("Pss: 5 kB\n"), None);
        assert!(Resident::now().expect("proc").rss_kib > 100);
    }

    #[test]
    fn only_segments_of_bus_are_counted() {
        assert!(is_segment("/memfd:bus-ring (deleted)"));
        assert!(!is_segment("/memfd:bus-bench (deleted)"));
        assert!(!is_segment("socket:[12]"));
    }
}
