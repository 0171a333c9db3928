//! Memory and descriptors of a process, and whether they grow.

use std::fs;

use anyhow::{Context, Result};

/// What a process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Resident memory, in KiB, that of shared segments included.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Mapped segments of the bus.
    pub segments: u64,
    /// Threads.
    pub threads: u64,
}

impl Vitals {
    /// Those of a process now.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let gone = || format!("looking at process {pid}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(gone)?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| word.parse().ok()).with_context(gone)
        };
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).with_context(gone)?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).with_context(gone)?;
        Ok(Self {
            resident: field("VmRSS:")?,
            descriptors: descriptors.count() as u64,
            segments: maps.lines().filter(|map| map.contains("/memfd:")).count() as u64,
            threads: field("Threads:")?,
        })
    }
}

/// Memory over time: time in seconds, and KiB.
#[derive(Clone, Debug, Default)]
pub struct Growth(Vec<(f64, f64)>);

impl Growth {
    /// So much at that time.
    pub fn enter(&mut self, seconds: f64, kib: u64) {
        self.0.push((seconds, kib as f64));
    }

    /// How many times it was looked at.
    #[must_use]
    pub fn looks(&self) -> usize {
        self.0.len()
    }

    /// Most that it was.
    #[must_use]
    pub fn most(&self) -> f64 {
        self.0.iter().map(|(_, kib)| *kib).fold(0.0, f64::max)
    }

    /// How much it grew over the second half, in KiB: the slope of the straight line that fits it best, times its length; and what it was
    /// on average. None of fewer than four looks.
    #[must_use]
    pub fn second_half(&self) -> Option<(f64, f64)> {
        let half = &self.0[self.0.len() / 2..];
        if self.0.len() < 4 {
            return None;
        }
        let count = half.len() as f64;
        let time = half.iter().map(|(time, _)| time).sum::<f64>() / count;
        let mean = half.iter().map(|(_, kib)| kib).sum::<f64>() / count;
        let (mut product, mut square) = (0.0, 0.0);
        for (at, kib) in half {
            product += (at - time) * (kib - mean);
            square += (at - time).powi(2);
        }
        let long = half[half.len() - 1].0 - half[0].0;
        let slope = if square > 0.0 { product / square } else { 0.0 };
        Some((slope * long, mean))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_told_from_what_is_flat() {
        let (mut flat, mut grows) = (Growth::default(), Growth::default());
        for second in 0..20 {
            let noise = second % 3;
            flat.enter(second as f64, 1000 + noise);
            grows.enter(second as f64, 1000 + 50 * second + noise);
        }
        let (slope, mean) = flat.second_half().unwrap_or_default();
        assert!(slope.abs() < 3.0 && mean > 999.0, "{slope} {mean}");
        let (slope, _) = grows.second_half().unwrap_or_default();
        assert!((400.0..500.0).contains(&slope), "{slope}");
        assert!(Growth::default().second_half().is_none());
    }

    #[test]
    fn a_process_has_something() {
        let vitals = Vitals::of(std::process::id()).unwrap();
        assert!(vitals.resident > 100 && vitals.descriptors >= 3 && vitals.threads > 0);
    }
}
