//! How long it is since somebody died, without the time in which the survivors could not run: on a busy machine they wait for a processor, which no
//! bus can give them.

use std::fs;
use std::time::{Duration, Instant};

/// When somebody died.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    at: Instant,
    starved: Duration,
}

impl Death {
    /// Just now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            starved: starved(),
        }
    }

    /// When that was.
    #[must_use]
    pub fn instant(&self) -> Instant {
        self.at
    }

    /// Time since then in which no thread of this process waited for a processor: what broker and survivors took, which all live in it.
    #[must_use]
    pub fn taken(&self) -> Duration {
        let starved = starved().saturating_sub(self.starved);
        self.at.elapsed().saturating_sub(starved)
    }
}

/// How long the threads of this process have waited for a processor; nothing where the kernel does not count it.
fn starved() -> Duration {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return Duration::ZERO;
    };
    let waited = |task: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(waited).sum())
}
