//! Tracer and traced on one processor, for as long as the one steps the other: the kernel then switches between them, with no call from one processor to
//! another in every step.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::Tracee;

/// This thread and a process, together. Dropping it lets this thread go where it may.
#[derive(Debug)]
pub struct Together(CpuSet);

impl Together {
    /// Puts both where this thread is now.
    ///
    /// # Errors
    /// A sandbox does not let it.
    pub fn with(tracee: &Tracee) -> Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).context("asking where this thread may run")?;
        let mut here = CpuSet::new();
        let processor = sched_getcpu().context("asking where this thread runs")?;
        here.set(processor).context("choosing a processor")?;
        sched_setaffinity(this, &here).context("staying on a processor")?;
        let together = Self(before);
        tracee.keep_on(&here)?;
        Ok(together)
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        // It was there before.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}
