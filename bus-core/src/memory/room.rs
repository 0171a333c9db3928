//! Whether there is memory for a segment, asked before it is taken.
//!
//! Allocating a memfd page by page finds out too late: past the machine's memory the kernel kills somebody,
//! and past `RLIMIT_FSIZE` it sends SIGXFSZ. So the limits are read first and a clear error comes
//! instead. Two processes that ask at the same moment can both be told yes; the allocation itself is then the judge.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

/// Why `bytes` more cannot be had, if so.
pub(super) fn shortage(bytes: u64) -> Option<String> {
    if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_FSIZE)
        && bytes > limit
    {
        return Some(format!(
            "the limit on file sizes (ulimit -f) is {limit} bytes"
        ));
    }
    if let Some(free) = machine()
        && bytes > free
    {
        return Some(format!("the machine has {free} bytes available"));
    }
    if let Some(free) = cgroup()
        && bytes > free
    {
        return Some(format!(
            "the memory limit of this control group leaves {free} bytes"
        ));
    }
    None
}

/// Bytes that the machine can give without swapping.
fn machine() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Bytes that this process's control group (version 2) leaves; nothing where there is no limit.
fn cgroup() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|l| l.strip_prefix("0::"))?;
    let folder = format!("/sys/fs/cgroup{}", path.trim_end_matches('/'));
    let read = |file: &str| fs::read_to_string(format!("{folder}/{file}")).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    Some(limit.saturating_sub(used))
}
