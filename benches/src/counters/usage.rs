//! What the kernel counts for a process: context switches and page faults.

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

/// Counts of this process.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Context switches because it waited.
    pub voluntary_switches: u64,
    /// Context switches because somebody else was to run.
    pub involuntary_switches: u64,
    /// Page faults served without reading from a disk.
    pub minor_faults: u64,
}

impl Usage {
    /// The counts so far, all threads.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn now() -> Result<Self> {
        let usage =
            getrusage(UsageWho::RUSAGE_SELF).context("reading the resource usage failed")?;
        Ok(Self {
            voluntary_switches: usage.voluntary_context_switches() as u64,
            involuntary_switches: usage.involuntary_context_switches() as u64,
            minor_faults: usage.minor_page_faults() as u64,
        })
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            voluntary_switches: self
                .voluntary_switches
                .saturating_sub(earlier.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_sub(earlier.involuntary_switches),
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_pages_are_counted() {
        let before = Usage::now().expect("usage");
        // Above the allocator's largest threshold, so that the pages are new ones.
        let mut pages = vec![0_u8; 64 << 20];
        for page in pages.chunks_mut(2 << 20) {
            page[0] = 1;
        }
        std::hint::black_box(&pages);
        assert!(Usage::now().expect("usage").since(before).minor_faults >= 32);
    }
}
