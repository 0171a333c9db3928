//! Where memory is, as users ask for it: what a handle reports is so, what cannot be had is said, and nothing of it keeps messages from
//! coming.

use std::fs;
use std::time::Duration;

use crate::common::role::{Given, play, say, wait_for};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect, told};
use bus_client::Error;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Uid, setresuid};

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("wishful", wishful), ("bounded", bounded)]);
}

/// Bytes of each kind, by the first word of their line, of this process's rings: of those that it writes, or of those that it reads.
fn rings(permissions: &str, word: &str) -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut ours = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.contains(' '))
        else {
            ours = line.contains("memfd:bus-ring") && line.contains(permissions);
            continue;
        };
        if ours && name == word {
            let kib = value.trim().strip_suffix(" kB").unwrap();
            bytes += kib.parse::<u64>().unwrap() * 1024;
        }
    }
    bytes
}

/// Asks for everything, and compares what is reported with what the kernel says.
fn wishful(given: &Given) {
    let bus = given.bus();
    let topic = || {
        let topic = bus.topic("large").unwrap().max_payload(4 << 20).depth(8);
        topic.huge_pages().lock_memory().numa_node(0)
    };
    let mut publisher = topic().bytes_publisher().unwrap();
    let subscriber = topic().bytes_subscriber().unwrap();
    publisher
        .wait_for_subscribers(1, Some(Duration::from_secs(10)))
        .unwrap();
    let (ring, whole) = (rings("rw-s", "Size"), rings("rw-s", "Size") & !0x1f_ffff);
    assert!(ring >= 12 << 20, "{ring}");
    println!("{}", publisher.placement());
    for (report, permissions) in [
        (publisher.placement().clone(), "rw-s"),
        (subscriber.placement(), "r--s"),
    ] {
        let huge = rings(permissions, "ShmemPmdMapped")
            + rings(permissions, "Private_Hugetlb")
            + rings(permissions, "Shared_Hugetlb");
        assert_eq!(report.huge_pages.granted(), huge >= whole, "{report}");
        assert!(report.prefault.granted(), "{report}");
        // The kernel counts a locked page that two map as half a page of each; those of the pool are locked always, and not counted.
        let locked = rings(permissions, "Locked") >= rings(permissions, "Pss");
        assert_eq!(report.lock.granted(), locked, "{report}");
        assert_eq!(
            report.as_asked(),
            !report.to_string().contains("not as"),
            "{report}"
        );
    }
    assert_eq!(publisher.placement().node, subscriber.placement().node);
    let mut loan = publisher.loan(4 << 20).unwrap();
    loan.bytes()[(4 << 20) - 1] = 7;
    loan.send(4 << 20);
    assert_eq!(subscriber.recv().unwrap().bytes()[(4 << 20) - 1], 7);

    for node in [999, u32::MAX] {
        let elsewhere = bus.topic("elsewhere").unwrap().numa_node(node);
        told(
            elsewhere.bytes_publisher().map(drop),
            &[&node.to_string(), "NUMA", "this machine has"],
        );
    }
    say("right");
}

#[test]
fn what_is_reported_is_so_and_messages_come() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut wishful = stage.start("wishful");
    wishful.expect("right");
    wishful.finish();
    host.finish();
}

/// Asks to lock more than it may.
fn bounded(given: &Given) {
    let bus = given.bus();
    setrlimit(Resource::RLIMIT_MEMLOCK, 16 << 10, 16 << 10).unwrap();
    let topic = || bus.topic("t").unwrap().max_payload(100_000);
    // What is not locked here is known to the broker as any other.
    let subscriber = topic().lock_memory().bytes_subscriber().unwrap();
    assert!(
        subscriber.placement().as_asked(),
        "{}",
        subscriber.placement()
    );
    say("joined");
    wait_for("sent");
    assert_eq!(subscriber.recv().unwrap().bytes(), b"still here");
    if Uid::effective().is_root() {
        // Root locks what it likes; the next ring is mapped by nobody.
        let nobody = Uid::from_raw(65_534);
        setresuid(nobody, nobody, nobody).unwrap();
    }
    say("ready");
    wait_for("come");
    subscriber
        .wait_for_publishers(2, Some(Duration::from_secs(10)))
        .unwrap();
    let report = subscriber.placement();
    let why = report.lock.fell_back().unwrap();
    assert!(why.contains("16384") && why.contains("ulimit -l"), "{why}");
    assert_eq!(subscriber.recv().unwrap().bytes(), b"read all the same");
    say("right");
}

#[test]
fn a_ring_that_may_not_be_locked_is_read_all_the_same() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut bounded = stage.start("bounded");
    bounded.expect("joined");
    let bus = connect(&stage.path, false).unwrap();
    let mut first = bus.bytes_publisher("t").unwrap();
    first.send(b"still here").unwrap();
    bounded.tell("sent");
    bounded.expect("ready");
    let mut second = bus.bytes_publisher("t").unwrap();
    bounded.tell("come");
    second.send(b"read all the same").unwrap();
    bounded.expect("right");
    bounded.finish();
    host.finish();
}

#[test]
fn a_placement_that_cannot_be_had_is_no_error() {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let topic = || bus.topic("small").unwrap().huge_pages();
    let mut publisher = topic().publisher::<u64>().unwrap();
    let why = publisher.placement().huge_pages.fell_back().unwrap();
    assert!(why.contains("less than one huge page"), "{why}");
    let subscriber = topic().prefault(false).subscriber::<u64>().unwrap();
    assert!(!subscriber.placement().prefault.granted());
    publisher.send(&7).unwrap();
    assert_eq!(*subscriber.recv().unwrap(), 7);
    // A publisher that polls is not told that its topic is full by who has no wish.
    match publisher.try_send(&8) {
        Ok(_) | Err(Error::Full { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}
