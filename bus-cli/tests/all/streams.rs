//! Real input through real processes: what goes in comes out, whoever starts first, whoever hosts the broker, whoever stops meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{LIMIT, Place, collect, heard, segments, state, until};
use bus_client::{Bus, Delivery};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// Enough to pass the ring and all pipes many times.
const MUCH: u64 = 48 << 20;

/// A tar of whatever sources are here, the crate registry if there is one, else this package; cut or repeated to `most` bytes.
fn tar(most: u64) -> Vec<u8> {
    let home = std::env::var_os("CARGO_HOME").map(Into::into);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let registry = home.map(|home| home.join("registry"));
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).to_owned();
    let tree = registry.filter(|tree| tree.is_dir()).unwrap_or(package);
    let mut tar = Command::new("tar");
    let tar = tar.arg("c").arg(".").current_dir(tree);
    let mut tar = tar.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let tar = tar.as_mut().unwrap();
    let mut all = Vec::new();
    let stdout = tar.stdout.take().unwrap();
    stdout.take(most).read_to_end(&mut all).unwrap();
    tar.wait().unwrap();
    assert!(all.len() > 4096);
    // As much as was asked for, also where the sources are few: tests count on filling rings and pipes.
    let once = all.len();
    while all.len() < most as usize {
        all.extend_from_within(..once.min(most as usize - all.len()));
    }
    all
}

/// Feeds a process on a thread; its input ends with the data.
fn feed(mut stdin: std::process::ChildStdin, data: Vec<u8>) {
    thread::spawn(move || stdin.write_all(&data));
}

#[test]
fn a_tar_comes_out_as_it_went_in() {
    let data = tar(MUCH);
    let place = Place::new();
    let mut publisher = place.start(&["pub", "raw"]);
    feed(publisher.stdin(), data.clone());
    assert!(place.start(&["sub", "raw"]).end_well() == data);
    publisher.end_well();
}

#[test]
fn every_subscriber_gets_all_of_it() {
    let data = tar(MUCH);
    let place = Place::new();
    let first = place.start(&["sub", "raw"]);
    let mut publisher = place.start(&["pub", "raw", "--subscribers", "2"]);
    feed(publisher.stdin(), data.clone());
    let second = place.start(&["sub", "raw"]);
    let (first, second) = (
        thread::spawn(|| first.end_well()),
        thread::spawn(|| second.end_well()),
    );
    assert!(first.join().unwrap() == data);
    assert!(second.join().unwrap() == data);
    publisher.end_well();
}

/// Topics that are there and topics to come, among them one whose publisher has ended before the subscriber came to it.
#[test]
fn a_pattern_takes_what_all_matching_topics_say() {
    let place = Place::new();
    let mut subscriber = place.start(&["sub", "--lines", "--count", "40", "logs/*"]);
    let mut others = Vec::new();
    for n in 0..20 {
        let mut publisher = place.start(&["pub", "--lines", &format!("logs/{n}")]);
        feed(
            publisher.stdin(),
            format!("{n} first\n{n} second\n").into_bytes(),
        );
        others.push(publisher);
    }
    let mut silent = place.start(&["pub", "--lines", "--subscribers", "0", "other/1"]);
    feed(silent.stdin(), b"nothing\n".to_vec());
    drop(subscriber.child.stdin.take());
    let got = String::from_utf8(subscriber.end_well()).unwrap();
    let mut got: Vec<_> = got.lines().collect();
    got.sort_unstable();
    let said = (0..20).flat_map(|n| [format!("{n} first"), format!("{n} second")]);
    let mut said: Vec<_> = said.collect();
    said.sort_unstable();
    assert_eq!(got, said);
    for other in others.into_iter().chain([silent]) {
        other.end_well();
    }
    let refused = place.start(&["sub", "--depth", "8", "logs/*"]);
    refused.end_badly(1, "leave out --depth");
    place.start(&["sub", "logs*"]).end_badly(2, "whole part");
}

#[test]
fn a_subscriber_stopped_in_the_middle_misses_nothing() {
    let data = tar(MUCH);
    let place = Place::new();
    let mut publisher = place.start(&["pub", "raw"]);
    let mut subscriber = place.start(&["sub", "raw"]);
    let stdin = publisher.stdin();
    let pipe = stdin.as_fd().try_clone_to_owned().unwrap();
    feed(stdin, data.clone());
    let mut stdout = subscriber.stdout();
    let mut got = vec![0; 1 << 20];
    stdout.read_exact(&mut got).unwrap();
    subscriber.signal(Signal::SIGSTOP);
    until("the subscriber stands still", || {
        state(subscriber.id()) == 'T'
    });
    // With input at hand, waiting for room is the only sleep of a publisher.
    until("the publisher waits for room", || {
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
        let full = poll(&mut fds, PollTimeout::ZERO) == Ok(0);
        full && state(publisher.id()) == 'S'
    });
    drop(pipe);
    let rest = collect(stdout);
    subscriber.signal(Signal::SIGCONT);
    got.extend(rest.recv_timeout(LIMIT).unwrap());
    assert!(got == data);
    publisher.end_well();
    subscriber.end_well();
}

#[test]
fn started_at_the_same_moment_they_find_each_other() {
    for round in 0..20 {
        let place = Place::new();
        let (one, two) = (["sub", "raw"], ["pub", "raw"]);
        let mut processes = if round % 2 == 0 {
            let subscriber = place.start(&one);
            (place.start(&two), subscriber)
        } else {
            (place.start(&two), place.start(&one))
        };
        processes.0.stdin().write_all(b"found").unwrap();
        processes.0.end_well();
        assert_eq!(processes.1.end_well(), b"found");
    }
}

#[test]
fn the_publishers_end_does_not_hurt_who_still_reads() {
    let place = Place::new();
    let mut publisher = place.start(&["pub", "raw"]);
    until("it hosts the broker", || place.socket().exists());
    let subscriber = place.start(&["sub", "raw"]);
    // More than a pipe holds, less than the ring does: the publisher is done while the subscriber is stuck with its output.
    let data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    publisher.stdin().write_all(&data).unwrap();
    publisher.end_well();
    assert!(subscriber.end_well() == data);
    assert!(!place.socket().exists());
}

#[test]
fn the_end_of_a_subscriber_that_hosts_does_not_hurt_the_others() {
    let data = tar(MUCH);
    let place = Place::new();
    let host = place.start(&["sub", "raw", "--count", "3"]);
    until("it hosts the broker", || place.socket().exists());
    let stays = place.start(&["sub", "raw"]);
    let mut publisher = place.start(&["pub", "raw", "--subscribers", "2"]);
    feed(publisher.stdin(), data.clone());
    let head = thread::spawn(|| host.end_well());
    assert!(stays.end_well() == data);
    assert!(data.starts_with(&head.join().unwrap()));
    publisher.end_well();
}

#[test]
fn who_waits_goes_on_with_the_next_broker() {
    for waiting in [["sub", "raw"], ["pub", "raw"]] {
        let place = Place::new();
        let host = place.start(&["sub", "elsewhere"]);
        until("it hosts the broker", || place.socket().exists());
        let mut waits = place.start(&waiting);
        let kind = if waiting[0] == "sub" {
            "reader"
        } else {
            "ring"
        };
        until("it waits", || segments(waits.id(), kind) > 0);
        host.signal(Signal::SIGTERM);
        host.end_well();
        if waiting[0] == "sub" {
            let mut publisher = place.start(&["pub", "raw"]);
            publisher.stdin().write_all(b"at last").unwrap();
            publisher.end_well();
            assert_eq!(waits.end_well(), b"at last");
        } else {
            let subscriber = place.start(&["sub", "raw"]);
            waits.stdin().write_all(b"at last").unwrap();
            waits.end_well();
            assert_eq!(subscriber.end_well(), b"at last");
        }
    }
}

#[test]
fn a_follower_stays_for_the_next_publisher_and_the_next_broker() {
    let place = Place::new();
    let mut publisher = place.start(&["pub", "raw"]);
    until("it hosts the broker", || place.socket().exists());
    let mut follower = place.start(&["sub", "raw", "--follow"]);
    let mut stdout = follower.stdout();
    for word in [b"one", b"two"] {
        publisher.stdin().write_all(word).unwrap();
        publisher.end_well();
        let mut got = [0; 3];
        stdout.read_exact(&mut got).unwrap();
        assert_eq!(&got, word);
        publisher = place.start(&["pub", "raw"]);
    }
    follower.signal(Signal::SIGINT);
    follower.end_well();
}

#[test]
fn a_topic_that_evicts_a_pattern_does_not_end_the_others() {
    let place = Place::new();
    let bus = Bus::builder("test").socket(place.socket());
    let bus = bus.embedded(true).connect().unwrap();
    let topic = |name: &str| bus.topic(name).unwrap().depth(4);
    let evicting = topic("a/evicting").delivery(Delivery::evict_after(Duration::from_millis(1)));
    let mut evicting = evicting.bytes_publisher().unwrap();
    let mut fine = topic("a/fine").bytes_publisher().unwrap();
    let mut reader = place.start(&["sub", "--lines", "a/**"]);
    let lines = heard(reader.stdout());
    let complaints = heard(reader.stderr());
    for publisher in [&mut evicting, &mut fine] {
        publisher.wait_for_subscribers(1, Some(LIMIT)).unwrap();
    }
    reader.signal(Signal::SIGSTOP);
    until("it is stopped", || state(reader.id()) == 'T');
    // More than the ring has: the publisher waits, and then evicts.
    for _ in 0..16 {
        evicting.send(b"x").unwrap();
    }
    reader.signal(Signal::SIGCONT);
    let complaint = complaints.recv_timeout(LIMIT).unwrap();
    assert!(
        complaint.contains("a/evicting") && complaint.contains("evicted"),
        "{complaint}"
    );
    fine.send(b"fine").unwrap();
    while lines.recv_timeout(LIMIT).unwrap() != "fine" {}
    reader.signal(Signal::SIGINT);
    let ended = reader.child.wait().unwrap();
    assert_eq!(ended.code(), Some(1), "something was lost");
    assert_eq!(complaints.iter().count(), 0, "it is said once");
}

#[test]
fn what_is_retained_without_busd_is_said_to_end_with_the_process() {
    let place = Place::new();
    let publish = ["pub", "--retain", "1", "--subscribers", "0", "raw"];
    let ended = place.start(&publish).end();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended
            .stderr
            .contains("what it retains ends with this process"),
        "{}",
        ended.stderr
    );
    let broker = bus_daemon::Broker::bind(place.socket())
        .unwrap()
        .spawn()
        .unwrap();
    place.start(&publish).end_well();
    broker.stop().unwrap();
}

#[test]
fn a_socket_that_is_removed_is_there_again() {
    let place = Place::new();
    let mut publisher = place.start(&["pub", "--lines", "--subscribers", "0", "raw"]);
    // The socket is there a moment before its broker has set who may connect.
    let probe = || Bus::builder("probe").socket(place.socket()).connect();
    until("it hosts the broker", || probe().is_ok());
    fs::remove_file(place.socket()).unwrap();
    let mut reader = place.start(&["sub", "--lines", "--count", "1", "raw"]);
    let lines = heard(reader.stdout());
    // It waits for nobody, so what it publishes before the reader has joined is for nobody.
    let mut input = publisher.stdin();
    let since = Instant::now();
    let line = loop {
        input.write_all(b"there\n").unwrap();
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => break line,
            Err(_) => assert!(since.elapsed() < LIMIT, "they never met"),
        }
    };
    assert_eq!(line, "there");
    drop((lines, input));
    assert!(reader.child.wait().unwrap().success());
    publisher.end();
}

#[test]
fn a_broker_of_its_own_is_used_with_no_change() {
    let data = tar(MUCH / 4);
    let place = Place::new();
    let broker = bus_daemon::Broker::bind(place.socket()).unwrap();
    let broker = broker.spawn().unwrap();
    for _ in 0..2 {
        let subscriber = place.start(&["sub", "raw", "--no-embedded"]);
        let mut publisher = place.start(&["pub", "raw", "--no-embedded"]);
        feed(publisher.stdin(), data.clone());
        assert!(subscriber.end_well() == data);
        publisher.end_well();
    }
    broker.stop().unwrap();
}

#[test]
fn lines_are_messages_also_the_last_one_and_empty_ones() {
    let place = Place::new();
    let mut publisher = place.start(&["pub", "--lines", "log"]);
    let subscriber = place.start(&["sub", "--lines", "log"]);
    let bytes = "first\n\nthird ä\r\n".repeat(10_000) + "last";
    feed(publisher.stdin(), bytes.clone().into_bytes());
    let got = String::from_utf8(subscriber.end_well()).unwrap();
    assert!(got == bytes + "\n");
    publisher.end_well();
}

#[test]
fn counted_lines_are_counted() {
    let place = Place::new();
    let mut publisher = place.start(&["pub", "--lines", "log"]);
    let subscriber = place.start(&["sub", "--lines", "--count", "2", "log"]);
    publisher.stdin().write_all(b"1\n2\n3\n4\n").unwrap();
    assert_eq!(subscriber.end_well(), b"1\n2\n");
}

#[test]
fn a_line_longer_than_any_buffer_passes_where_the_topic_allows_it() {
    let place = Place::new();
    let long = ["--lines", "--max-payload", "1M", "log"];
    let mut publisher = place.start(&[&["pub"], &long[..]].concat());
    let subscriber = place.start(&[&["sub"], &long[..]].concat());
    let mut line = vec![b'x'; 1 << 20];
    line.push(b'\n');
    feed(publisher.stdin(), line.clone());
    assert!(subscriber.end_well() == line);
    publisher.end_well();
}

#[test]
fn no_input_is_an_end_like_any_other() {
    for mode in ["--lines", "--bytes"] {
        let place = Place::new();
        let publisher = place.start(&["pub", mode, "raw"]);
        let subscriber = place.start(&["sub", mode, "raw"]);
        publisher.end_well();
        assert_eq!(subscriber.end_well(), b"");
        assert_eq!(place.left(), ["bus.sock.lock"]);
    }
}
