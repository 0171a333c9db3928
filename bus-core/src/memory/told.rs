//! What the kernel says of memory: nodes, huge pages, where the pages of a mapping are. Read from `/proc` and `/sys`.
//!
//! Promises: nothing is guessed; what a kernel or a sandbox does not say is `None`. These are texts of some kilobytes, read when a handle
//! is opened that asks for a placement, never on the data path.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};

const NODES: &str = "/sys/devices/system/node/online";
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/// The NUMA nodes that are there, as the kernel lists them, such as `0-1,4`.
pub(super) fn nodes() -> Option<String> {
    Some(fs::read_to_string(NODES).ok()?.trim().to_owned())
}

/// Whether a list such as `0-1,4` has this number.
pub(super) fn lists(list: &str, number: u32) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.trim().parse::<u32>(), last.trim().parse()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&number),
            _ => false,
        }
    })
}

/// When the kernel gives shared memory transparent huge pages: the word that it marks, such as `never`.
pub(super) fn transparent() -> Option<String> {
    let modes = fs::read_to_string(TRANSPARENT).ok()?;
    let (_, rest) = modes.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Huge pages of 2 MiB that are reserved and free.
pub(super) fn pool() -> Option<u64> {
    fs::read_to_string(POOL).ok()?.trim().parse().ok()
}

/// Bytes of a mapping that huge pages map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Huge {
    /// Pages of the pool.
    pub pool: u64,
    /// Transparent ones.
    pub transparent: u64,
}

/// How much of the mapping that starts at `base` huge pages map.
pub(super) fn huge(base: usize) -> Option<Huge> {
    let smaps = BufReader::new(File::open("/proc/self/smaps").ok()?);
    let start = format!("{base:x}-");
    let lines = smaps.lines().map_while(Result::ok);
    let mut lines = lines.skip_while(|line| !line.starts_with(&start));
    lines.next()?;
    let mut huge = Huge::default();
    // The next mapping begins with a range, every line of this one with a word and a colon.
    for line in lines {
        let (word, value) = line.split_once(':')?;
        let bytes = match word {
            "ShmemPmdMapped" => &mut huge.transparent,
            "Shared_Hugetlb" | "Private_Hugetlb" => &mut huge.pool,
            range if range.contains('-') => break,
            _ => continue,
        };
        let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        *bytes = bytes.saturating_add(kib.saturating_mul(1024));
    }
    Some(huge)
}

/// Pages of the mapping that starts at `base`: those on this node, and all that are mapped.
pub(super) fn on_node(base: usize, node: u32) -> Option<(u64, u64)> {
    let maps = BufReader::new(File::open("/proc/self/numa_maps").ok()?);
    let start = format!("{base:x}");
    let mut lines = maps.lines().map_while(Result::ok);
    let line = lines.find(|line| line.split(' ').next() == Some(&start))?;
    let (mut there, mut all) = (0, 0);
    for word in line.split(' ') {
        let Some((number, count)) = word.strip_prefix('N').and_then(|w| w.split_once('=')) else {
            continue;
        };
        let count: u64 = count.parse().ok()?;
        all += count;
        if number.parse() == Ok(node) {
            there += count;
        }
    }
    Some((there, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_its_numbers_and_no_others() {
        for (list, has, lacks) in [("0", 0, 1), ("0-1", 1, 2), ("0,2-3", 2, 1), ("", 7, 0)] {
            assert_eq!(lists(list, has), !list.is_empty(), "{list}");
            assert!(!lists(list, lacks), "{list}");
        }
    }
}
