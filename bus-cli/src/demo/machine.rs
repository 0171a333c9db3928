//! What the figures were taken on.

use std::fs;
use std::thread::available_parallelism;

use serde::Serialize;

/// This machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cpus: usize,
    /// The processor's name; "unknown" where the system does not say.
    pub processor: String,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// Asks the system.
    pub fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
        let unknown = || "unknown".to_owned();
        Self {
            cpus: available_parallelism().map_or(1, usize::from),
            processor: model.unwrap_or_else(unknown),
            kernel: kernel.map_or_else(|_| unknown(), |k| k.trim().to_owned()),
        }
    }
}
