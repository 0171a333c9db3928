//! Whether there is memory for a segment, asked before it is taken.
//!
//! Allocating a memfd page by page finds out too late: past the machine's memory the kernel kills somebody,
//! and past `RLIMIT_FSIZE` it sends SIGXFSZ. So the limits are read first and a clear error comes
//! instead. Two processes that ask at the same moment can both be told yes; the allocation itself is then the judge.
//!
//! The kernel adds up a control group's memory when it is asked, which takes longer than all the rest of a join. So
//! segments that follow each other share one answer: for [`HOLDS`], and for a [`SHARE`]th of what was free.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// Why no file of `bytes` bytes can be made, if so.
pub(super) fn file_limit(bytes: u64) -> Option<String> {
    if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_FSIZE)
        && bytes > limit
    {
        return Some(format!(
            "the limit on file sizes (ulimit -f) is {limit} bytes"
        ));
    }
    None
}

/// How long an answer holds.
const HOLDS: Duration = Duration::from_millis(100);
/// Which part of the free bytes may be taken before the kernel is asked again.
const SHARE: u64 = 64;

/// What may still be taken before the kernel is asked again.
struct Allowance {
    until: Instant,
    bytes: u64,
}

impl Allowance {
    /// Of so many free bytes, from now on.
    fn of(free: u64, now: Instant) -> Self {
        Self {
            until: now + HOLDS,
            bytes: free / SHARE,
        }
    }

    /// Takes `bytes` of it, if it has them.
    fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let has = now < self.until && bytes <= self.bytes;
        if has {
            self.bytes -= bytes;
        }
        has
    }
}

static ALLOWANCE: Mutex<Option<Allowance>> = Mutex::new(None);

/// Why `bytes` more cannot be had, if so. Not asked of huge pages that are reserved: they are nobody else's.
pub(super) fn shortage(bytes: u64) -> Option<String> {
    // Not waited for: in a child of `fork` the lock may be held for ever.
    let mut allowance = ALLOWANCE.try_lock().ok();
    let known = allowance.as_deref_mut().and_then(Option::as_mut);
    if known.is_some_and(|known| known.take(bytes, Instant::now())) {
        return None;
    }
    let (machine, group) = (machine(), cgroup());
    if let Some(free) = machine.filter(|free| bytes > *free) {
        return Some(format!("the machine has {free} bytes available"));
    }
    if let Some(free) = group.filter(|free| bytes > *free) {
        return Some(format!(
            "the memory limit of this control group leaves {free} bytes"
        ));
    }
    if let (Some(allowance), Some(free)) = (
        allowance.as_deref_mut(),
        machine.into_iter().chain(group).min(),
    ) {
        *allowance = Some(Allowance::of(free - bytes, Instant::now()));
    }
    None
}

/// Why `bytes` more cannot be mapped, if so.
pub(super) fn address_limit(bytes: u64) -> Option<String> {
    let (limit, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    if limit == RLIM_INFINITY {
        return None;
    }
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').next()?.parse().ok()?;
    let left = limit.saturating_sub(pages.saturating_mul(super::pages::page() as u64));
    (bytes > left).then(|| format!("the limit on addresses (ulimit -v) leaves {left} bytes"))
}

/// Bytes that the machine can give without swapping.
fn machine() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Where a version of control groups keeps what is asked here.
struct Version {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Lines of `memory.stat`: pages of files, which the kernel gives back when memory is asked for.
    cache: [&'static str; 2],
}

const FIRST: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: ["total_active_file", "total_inactive_file"],
};

const SECOND: Version = Version {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    cache: ["active_file", "inactive_file"],
};

/// Bytes that this process's control groups, and those that these are in, leave; nothing where there is no limit.
fn cgroup() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    // Such as "4:memory:/a/b" and, of the second version, "0::/a/b".
    let room = own.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let version = match controllers {
            "" => SECOND,
            _ if controllers.split(',').any(|c| c == "memory") => FIRST,
            _ => return None,
        };
        let groups = Path::new(path).ancestors();
        groups.filter_map(|group| version.room(group)).min()
    });
    room.min()
}

impl Version {
    /// Bytes that one group leaves.
    fn room(&self, group: &Path) -> Option<u64> {
        let folder = format!("{}{}", self.root, group.display());
        let read = |file: &str| fs::read_to_string(format!("{folder}/{file}")).ok();
        let limit: u64 = read(self.limit)?.trim().parse().ok()?;
        let used: u64 = read(self.used)?.trim().parse().ok()?;
        let stat = read("memory.stat")?;
        let counts = stat.lines().filter_map(|line| line.split_once(' '));
        let cache = counts.filter(|(name, _)| self.cache.contains(name));
        let cache = cache
            .filter_map(|(_, bytes)| bytes.parse().ok())
            .fold(0, u64::saturating_add);
        Some(limit.saturating_sub(used.saturating_sub(cache)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_about_free_memory_covers_a_share_of_it_and_ends() {
        let now = Instant::now();
        let mut allowance = Allowance::of(64 << 20, now);
        assert!(allowance.take(1 << 19, now));
        assert!(!allowance.take((1 << 19) + 1, now), "more than the share");
        assert!(allowance.take(1 << 19, now));
        assert!(!allowance.take(1, now), "nothing is left of the share");
        let mut allowance = Allowance::of(64 << 20, now);
        assert!(!allowance.take(1, now + HOLDS), "the answer is old");
    }

    #[test]
    fn more_than_the_machine_has_is_refused_after_a_small_request_too() {
        assert_eq!(shortage(1), None);
        assert_eq!(shortage(1), None);
        let why = shortage(u64::MAX).unwrap();
        assert!(why.contains("available") || why.contains("leaves"), "{why}");
    }
}
