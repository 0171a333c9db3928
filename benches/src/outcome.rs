//! What a side reports when its work is done.

use crate::clock::{cpu_ns, monotonic_ns};
use crate::counters::memory::Resident;
use crate::counters::usage::Usage;
use crate::counters::{allocations, syscalls};
use crate::joins::Joins;
use crate::placed::Placed;
use crate::stretches::Stretch;
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The figures of one side, over the measured messages only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The monotonic clock at the first measured message.
    pub start_ns: u64,
    /// The monotonic clock after the last.
    pub end_ns: u64,
    /// Processor time between the two.
    pub cpu_ns: u64,
    /// Processor time of the bursts alone.
    pub burst_cpu_ns: u64,
    /// Round trips: length in picoseconds, and how many were so long.
    pub trips: Vec<(u64, u64)>,
    /// The stretches of a stream, where they were asked for.
    pub stretches: Vec<Stretch>,
    /// Slots of the ring that the messages took, of a publisher that can put several into one.
    pub slots: u64,
    /// Context switches and page faults.
    pub usage: Usage,
    /// Calls of the allocator.
    pub allocations: u64,
    /// Resident memory at the end, in KiB.
    pub resident_kib: u64,
    /// Medians of the round trips of two neighbouring blocks, in nanoseconds, if messages were handed over.
    pub pairs: Vec<[f64; 2]>,
    /// What came of a setting of memory or threads, if that was the work.
    pub placed: Option<Placed>,
    /// What joining took, if that was the work.
    pub joins: Option<Joins>,
}

impl Outcome {
    /// From the first measured message to after the last.
    #[must_use]
    pub fn wall_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// The measured part of a side's work: opened before its first message, closed after its last.
#[derive(Debug)]
pub struct Window {
    traced: bool,
    start_ns: u64,
    cpu_ns: u64,
    usage: Usage,
    allocations: u64,
}

impl Window {
    /// Begins; `traced` tells a tracer to start counting.
    ///
    /// # Errors
    /// The system does not tell the time or the usage.
    pub fn open(traced: bool) -> Result<Self> {
        let usage = Usage::now()?;
        let cpu_ns = cpu_ns()?;
        let allocations = allocations::count();
        if traced {
            syscalls::mark();
        }
        Ok(Self {
            traced,
            start_ns: monotonic_ns()?,
            cpu_ns,
            usage,
            allocations,
        })
    }

    /// Ends.
    ///
    /// # Errors
    /// The system does not tell the time or the usage.
    pub fn close(self) -> Result<Outcome> {
        let end_ns = monotonic_ns()?;
        if self.traced {
            syscalls::mark();
        }
        Ok(Outcome {
            start_ns: self.start_ns,
            end_ns,
            allocations: allocations::count() - self.allocations,
            cpu_ns: cpu_ns()? - self.cpu_ns,
            usage: Usage::now()?.since(self.usage),
            resident_kib: Resident::now()?.rss_kib,
            ..Outcome::default()
        })
    }
}
