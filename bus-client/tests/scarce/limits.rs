//! Limits of messages and of the machine: a message that is too large, memory, file sizes, descriptors. Each is an error that says
//! what, where, and what to do; nothing is left behind, and who was served before still is.

use std::fs;
use std::time::Duration;

use crate::alone;
use crate::common::role::{Given, hear, play, say, wait_for};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect, told};
use bus_client::Error;
use bus_testkit::needs;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("wordy", wordy),
        ("short_of_files", short_of_files),
        ("short_of_descriptors", short_of_descriptors),
        ("short_of_memory", short_of_memory),
        ("crammed_subscriber", crammed_subscriber),
        ("crammed_publisher", crammed_publisher),
    ]);
}

/// Sends messages of which some are too large, as bytes and as values, alone and in batches.
fn wordy(given: &Given) {
    let bus = given.bus();
    let topic = bus.topic("bytes").unwrap().max_payload(100).depth(4);
    let mut bytes = topic.bytes_publisher().unwrap();
    let topic = bus.topic("values").unwrap().max_payload(100).depth(4);
    let mut values = topic.publisher::<String>().unwrap();
    say("joined");
    wait_for("go");
    let large = "x".repeat(101);
    for n in 0..50_u64 {
        let text = n.to_string();
        assert_eq!(bytes.send(text.as_bytes()).unwrap(), 2 * n);
        told(bytes.send(large.as_bytes()), &["bytes", "101", "100"]);
        told(bytes.try_send(large.as_bytes()), &["too large"]);
        told(bytes.loan(101).map(drop), &["too large"]);
        let batch = [text.as_bytes(), large.as_bytes(), b"never"];
        told(bytes.publish_batch(batch), &["too large"]);

        assert_eq!(values.send(&text).unwrap(), 2 * n);
        told(values.send(&large), &["values", "too large", "100"]);
        told(values.try_send(&large), &["too large"]);
        let batch = [text.clone(), large.clone(), "never".into()];
        told(values.publish_batch(&batch), &["too large"]);
    }
}

#[test]
fn a_message_that_is_too_large_leaves_the_ring_as_it_was() {
    let _alone = alone();
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut wordy = stage.start("wordy");
    wordy.expect("joined");
    let bus = connect(&stage.path, false).unwrap();
    let bytes = bus.bytes_subscriber("bytes").unwrap();
    let values = bus.subscriber::<String>("values").unwrap();
    wordy.tell("go");
    for sequence in 0..100_u64 {
        let text = (sequence / 2).to_string();
        let got = bytes.recv().unwrap();
        assert_eq!((got.bytes(), got.sequence()), (text.as_bytes(), sequence));
        let got = values.recv().unwrap();
        assert_eq!((got.as_str(), got.sequence()), (&*text, sequence));
    }
    wordy.finish();
    assert!(bytes.try_recv().unwrap().is_none());
    assert!(values.try_recv().unwrap().is_none());
    host.finish();
}

/// Descriptors and mappings of this process that are segments.
fn segments() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let segment = |text: &str| text.contains("memfd:bus-");
    let links = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok());
    (
        maps.lines().filter(|line| segment(line)).count(),
        links
            .filter(|link| segment(&link.to_string_lossy()))
            .count(),
    )
}

/// Opens topics that are larger than what it may have, then one that is not, on the same names.
fn short_of_files(given: &Given) {
    let bus = given.bus();
    let before = segments();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, hard).unwrap();
    let topic = bus.topic("files").unwrap().depth(1 << 16).stride(64);
    told(
        topic.publisher::<u64>().map(drop),
        &["files", "ring", "ulimit -f", "1048576", "smaller depth"],
    );
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    let topic = bus.topic("memory").unwrap();
    told(
        topic
            .depth(1 << 24)
            .stride(1 << 16)
            .publisher::<u64>()
            .map(drop),
        &["memory", "ring", "1099511", "available", "smaller depth"],
    );
    assert_eq!(segments(), before, "something is left");
    let mut small = bus.publisher::<u64>("small").unwrap();
    small.send(&1).unwrap();
    say("right");
}

#[test]
fn more_than_there_is_memory_for_is_an_error_at_creation() {
    let _alone = alone();
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut short = stage.start("short_of_files");
    short.expect("right");
    short.finish();
    // Nobody has them open, so whoever comes decides anew.
    let bus = connect(&stage.path, false).unwrap();
    for topic in ["files", "memory"] {
        bus.topic(topic)
            .unwrap()
            .depth(4)
            .publisher::<u64>()
            .unwrap();
    }
    host.finish();
}

/// What failed leaves its topic to be made anew, at once.
#[test]
fn a_topic_that_could_not_be_opened_can_be_opened_smaller_at_once() {
    let _alone = alone();
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    for round in 0..50 {
        let topic = || bus.topic("t").unwrap();
        let huge = topic().depth(1 << 24).stride(1 << 16);
        told(huge.publisher::<u64>().map(drop), &["smaller depth"]);
        if let Err(error) = topic().depth(4).publisher::<u64>() {
            panic!("round {round}: {error}");
        }
    }
    host.finish();
}

/// Opens handles until it has no more descriptors, then goes on with those it has.
fn short_of_descriptors(given: &Given) {
    let bus = given.bus();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 60, hard).unwrap();
    let subscriber = bus.subscriber::<u64>("numbers").unwrap();
    let mut publisher = bus.publisher::<u64>("numbers").unwrap();
    publisher.send(&0).unwrap();
    assert_eq!(*subscriber.recv().unwrap(), 0);
    let mut more = Vec::new();
    let error = loop {
        match bus.publisher::<u64>("more") {
            Ok(publisher) => more.push(publisher),
            Err(error) => break error,
        }
    };
    // What was open works, and so does what needs no descriptors.
    for n in 0..100 {
        publisher.send(&n).unwrap();
        assert_eq!(*subscriber.recv().unwrap(), n);
    }
    say(format_args!("short {error}"));
    drop(more);
    bus.publisher::<u64>("more").unwrap();
    say("right");
}

#[test]
fn a_client_without_descriptors_says_so_and_goes_on() {
    let _alone = alone();
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut short = stage.start("short_of_descriptors");
    let said = short.expect("short");
    println!("{said}");
    assert!(
        said.contains("descriptors") || said.contains(Errno::EMFILE.desc()),
        "{said}"
    );
    short.expect("right");
    short.finish();
    host.finish();
}

#[test]
fn a_memory_limit_is_an_error_at_creation() {
    let _alone = alone();
    let second = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let (root, limit) = if second.is_ok_and(|c| c.contains("memory")) {
        ("/sys/fs/cgroup", "memory.max")
    } else if fs::exists("/sys/fs/cgroup/memory/memory.limit_in_bytes").unwrap() {
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        needs::skipped("needs control groups with a memory controller");
        return;
    };
    let group = format!("{root}/bus-test-{}", std::process::id());
    if let Err(error) = fs::create_dir(&group) {
        needs::skipped(format_args!("needs the control group {group}: {error}"));
        return;
    }
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut short = stage.start("short_of_memory");
    short.expect("joined");
    let limited = fs::write(format!("{group}/{limit}"), "64M")
        .and_then(|()| fs::write(format!("{group}/cgroup.procs"), short.pid().to_string()));
    match limited {
        Ok(()) => short.tell("go"),
        Err(error) => needs::skipped(format_args!("needs to limit the group {group}: {error}")),
    }
    short.finish();
    fs::remove_dir(&group).unwrap();
    host.finish();
}

/// Opens a topic larger than its control group's memory, then one that is not.
fn short_of_memory(given: &Given) {
    let bus = given.bus();
    say("joined");
    if hear().is_none() {
        return;
    }
    let topic = bus.topic("large").unwrap().depth(1 << 20).stride(128);
    told(
        topic.publisher::<u64>().map(drop),
        &["large", "ring", "control group", "smaller depth"],
    );
    bus.publisher::<u64>("small").unwrap().send(&1).unwrap();
}

/// Takes every descriptor that this process may have.
fn cram() -> Vec<fs::File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 40, hard).unwrap();
    let mut files = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        files.push(file);
    }
    files
}

/// Says `error` and which, or `right`, or `silent`.
fn say_outcome(outcome: Result<bool, Error>) {
    match outcome {
        Ok(true) => say("right"),
        Ok(false) => say("silent"),
        Err(error) => say(format_args!("error {error}")),
    }
}

/// Subscribes, then has no descriptors left for a publisher that comes; says what comes of it.
fn crammed_subscriber(given: &Given) {
    let bus = given.bus();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let files = cram();
    say("crammed");
    wait_for("sent");
    let received = |time| {
        let message = subscriber.recv_timeout(time)?;
        Ok(message.is_some_and(|m| *m == 0))
    };
    let outcome = received(Duration::from_millis(500));
    drop(files);
    // Late is as good as told.
    say_outcome(match outcome {
        Ok(false) => received(Duration::from_secs(2)),
        told => told,
    });
}

/// Publishes, then has no descriptors left for a subscriber that comes; says what comes of two rings full, for which there is
/// no room.
fn crammed_publisher(given: &Given) {
    let bus = given.bus();
    let topic = bus.topic("t").unwrap().depth(4);
    let mut publisher = topic.publisher::<u64>().unwrap();
    let _files = cram();
    say("crammed");
    wait_for("joined");
    let sent = (0..8_u64).try_for_each(|n| publisher.try_send(&n).map(drop));
    say_outcome(match sent {
        Err(Error::Full { .. }) => Ok(true),
        sent => sent.map(|()| false),
    });
}

#[test]
fn a_subscriber_without_descriptors_is_told_of_a_publisher_that_it_cannot_follow() {
    let _alone = alone();
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut crammed = stage.start("crammed_subscriber");
    crammed.expect("crammed");
    let bus = connect(&stage.path, false).unwrap();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    publisher.send(&0).unwrap();
    crammed.tell("sent");
    let outcome = crammed.expect("");
    assert_ne!(outcome, "silent", "a message is lost, and nobody is told");
    crammed.finish();
    host.finish();
}

#[test]
fn a_publisher_without_descriptors_is_told_of_a_subscriber_that_it_cannot_wait_for() {
    let _alone = alone();
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut crammed = stage.start("crammed_publisher");
    crammed.expect("crammed");
    let bus = connect(&stage.path, false).unwrap();
    let _subscriber = bus.subscriber::<u64>("t").unwrap();
    crammed.tell("joined");
    let outcome = crammed.expect("");
    assert_ne!(
        outcome, "silent",
        "what a subscriber has not read was overwritten, and nobody is told"
    );
    crammed.finish();
    host.finish();
}
