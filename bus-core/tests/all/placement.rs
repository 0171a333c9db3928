//! What a placement report claims is so: looked up in `/proc/self/smaps` and `numa_maps`, which no code of the bus wrote.
//!
//! Whether this machine has huge pages to give is its owner's choice, so the tests ask what it has and hold the report
//! to that. A child is this test program again, with one ignored test to run.

use std::fs;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use bus_core::Error;
use bus_core::memory::placement::{Placement, PlacementOutcome};
use bus_core::memory::segment::{self, Kind, Mapping, check, create_placed, open_placed};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::fstat;
use nix::unistd::{Uid, setresuid};

use crate::common::{full_name, mapping};

const HUGE: u64 = 2 << 20;
/// Bytes of a segment of three huge pages and some small ones.
const BYTES: u64 = 3 * HUGE + 8192;

/// One test at a time counts the pages of the pool, or takes some.
static POOL: Mutex<()> = Mutex::new(());

/// A line of a mapping in `/proc/self/smaps`, in bytes.
fn smaps(fd: &impl AsFd, permissions: &str, word: &str) -> u64 {
    let (base, _) = mapping(fd, permissions).unwrap();
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (_, ours) = smaps.split_once(&format!("{base:x}-")).unwrap();
    let line = ours.lines().find_map(|line| line.strip_prefix(word));
    let value = line.unwrap().trim_start_matches(':').trim();
    value.strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Bytes of a mapping that huge pages map, of either kind.
fn huge(fd: &impl AsFd, permissions: &str) -> u64 {
    let words = ["ShmemPmdMapped", "Shared_Hugetlb", "Private_Hugetlb"];
    words
        .map(|word| smaps(fd, permissions, word))
        .into_iter()
        .sum()
}

fn free_in_pool() -> u64 {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    fs::read_to_string(path).map_or(0, |free| free.trim().parse().unwrap())
}

/// Whether this kernel lets a process have transparent huge pages when it asks for them by itself.
fn transparent_allowed() -> bool {
    let mode = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let collapse = (numbers.next(), numbers.next()) >= (Some(6), Some(1));
    mode.is_ok_and(|mode| collapse && !mode.contains("[deny]"))
}

fn created(placement: &Placement) -> (std::os::fd::OwnedFd, Mapping) {
    create_placed(Kind::Ring, BYTES, placement).unwrap()
}

#[test]
fn huge_pages_are_there_where_the_report_says_so() {
    let _alone = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let free = free_in_pool();
    let wish = Placement {
        huge_pages: true,
        ..Placement::default()
    };
    let (fd, ours) = created(&wish);
    let theirs = open_placed(&fd, Kind::Ring, BYTES, &wish).unwrap();
    let pooled = fstat(&fd).unwrap().st_blksize as u64 == HUGE;
    println!("{free} pages in the pool: {}", ours.report());
    println!("the reader's: {}", theirs.report());
    let whole = BYTES / HUGE * HUGE;
    for (mapped, permissions) in [(&ours, "rw-s"), (&theirs, "r--s")] {
        let found = huge(&fd, permissions);
        let outcome = &mapped.report().huge_pages;
        assert_eq!(
            outcome.granted(),
            found >= whole,
            "{outcome}, found {found}"
        );
        let says_pool = outcome.to_string().contains("of the pool");
        assert!(!pooled || says_pool, "{outcome}");
    }
    if free > BYTES / HUGE {
        assert!(pooled);
        assert_eq!(smaps(&fd, "rw-s", "KernelPageSize"), HUGE);
    } else {
        assert!(!pooled);
        let outcome = &ours.report().huge_pages;
        assert!(outcome.granted() == transparent_allowed(), "{outcome}");
        if let Some(why) = outcome.fell_back() {
            assert!(why.contains(&format!("{free} pages")), "{why}");
            assert!(why.contains("shmem_enabled"), "{why}");
        }
    }
    // A reader that did not ask maps the same pages.
    segment::open(&fd, Kind::Ring, BYTES).unwrap();
}

#[test]
fn the_size_of_a_segment_is_exact_up_to_its_last_huge_page() {
    let _alone = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let wish = Placement {
        huge_pages: true,
        ..Placement::default()
    };
    let (fd, _ours) = created(&wish);
    let pooled = fstat(&fd).unwrap().st_blksize as u64 == HUGE;
    let file = if pooled { 4 * HUGE } else { BYTES };
    assert_eq!(check(&fd, Kind::Ring, BYTES).unwrap(), file);
    for other in [3 * HUGE, 4 * HUGE + 1, BYTES + 4 * HUGE] {
        let error = check(&fd, Kind::Ring, other).unwrap_err().to_string();
        assert!(error.contains(&format!("it has {file} bytes")), "{error}");
    }
    if !pooled {
        println!("skipped the pool's: it has {} pages free", free_in_pool());
    }
}

#[test]
fn less_than_a_huge_page_is_said_to_be() {
    let wish = Placement {
        huge_pages: true,
        ..Placement::default()
    };
    let (_fd, ours) = create_placed(Kind::Ring, HUGE - 4096, &wish).unwrap();
    let why = ours.report().huge_pages.fell_back().unwrap();
    assert!(why.contains("less than one huge page"), "{why}");
}

#[test]
fn pages_are_mapped_up_front_or_at_first_touch() {
    let (fd, ours) = created(&Placement::default());
    assert!(ours.report().prefault.granted());
    assert_eq!(smaps(&fd, "rw-s", "Rss"), BYTES);
    let later = Placement {
        prefault: false,
        ..Placement::default()
    };
    let theirs = open_placed(&fd, Kind::Ring, BYTES, &later).unwrap();
    assert_eq!(theirs.report().prefault, PlacementOutcome::NotAsked);
    assert_eq!(smaps(&fd, "r--s", "Rss"), 0);
    drop(theirs);
    let theirs = segment::open(&fd, Kind::Ring, BYTES).unwrap();
    assert!(theirs.report().prefault.granted());
    assert_eq!(smaps(&fd, "r--s", "Rss"), BYTES);
}

#[test]
fn node_0_is_where_it_says_and_a_node_that_is_not_there_is_an_error() {
    let on = |node| Placement {
        node: Some(node),
        ..Placement::default()
    };
    let (fd, ours) = created(&on(0));
    let (base, _) = mapping(&fd, "rw-s").unwrap();
    let maps = fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
    let line = maps
        .lines()
        .find(|line| line.starts_with(&format!("{base:x} ")));
    let there = line.is_some_and(|line| {
        let elsewhere = (1..8).any(|node| line.contains(&format!(" N{node}=")));
        line.contains(" N0=") && !elsewhere
    });
    println!("{}: {line:?}", ours.report());
    assert_eq!(ours.report().node.granted(), there, "{line:?}");
    for node in [63, 1023, 1024, u32::MAX] {
        match create_placed(Kind::Ring, BYTES, &on(node)) {
            Err(error @ Error::Node { .. }) => {
                assert!(error.to_string().contains(&node.to_string()), "{error}");
            }
            other => panic!("node {node}: {other:?}"),
        }
    }
}

/// Runs an ignored test of this file in a process of its own; what it printed.
fn child(test: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &full_name(module_path!(), test)])
        .args(["--ignored", "--nocapture"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");
    shown
}

#[test]
fn pages_are_locked_as_far_as_the_limit_goes() {
    let shown = child("lock_within_and_beyond_the_limit");
    assert!(shown.contains("both as they should be"), "{shown}");
}

#[test]
#[ignore = "the child of pages_are_locked_as_far_as_the_limit_goes"]
fn lock_within_and_beyond_the_limit() {
    const LIMIT: u64 = 64 << 10;
    setrlimit(Resource::RLIMIT_MEMLOCK, LIMIT, LIMIT).unwrap();
    if Uid::effective().is_root() {
        // Root locks what it likes.
        let nobody = Uid::from_raw(65_534);
        setresuid(nobody, nobody, nobody).unwrap();
    }
    let wish = Placement {
        lock: true,
        ..Placement::default()
    };
    let (fd, little) = create_placed(Kind::Ring, LIMIT / 2, &wish).unwrap();
    assert!(little.report().lock.granted(), "{}", little.report());
    assert_eq!(smaps(&fd, "rw-s", "Locked"), LIMIT / 2);
    drop(little);
    let (fd, much) = created(&wish);
    let why = much.report().lock.fell_back().unwrap();
    assert!(
        why.contains("65536") && why.contains("ulimit -l") && why.contains(&BYTES.to_string()),
        "{why}"
    );
    assert_eq!(smaps(&fd, "rw-s", "Locked"), 0);
    let theirs = open_placed(&fd, Kind::Ring, BYTES, &wish).unwrap();
    assert!(theirs.report().lock.fell_back().is_some());
    assert!(!theirs.report().as_asked());
    println!("both as they should be");
}
