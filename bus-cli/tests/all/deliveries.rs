//! What a topic does about who comes late or does not keep up, from the shell.

use std::io::Write;

use crate::common::{Place, segments, until};
use nix::sys::signal::Signal;

#[test]
fn who_comes_later_gets_the_last_messages_of_a_publisher_that_has_ended() {
    let place = Place::new();
    let first = ["sub", "t", "--follow", "--keep", "8", "--retain", "2", "-q"];
    let first = place.start(&first);
    until("it has the topic", || segments(first.id(), "reader") > 0);
    let mut publisher = place.start(&["pub", "t", "--lines", "-q"]);
    publisher.stdin().write_all(b"a\nb\nc\n").unwrap();
    publisher.end_well();
    let late = place.start(&["sub", "t", "--history", "2", "--lines", "-q"]);
    assert_eq!(late.end_well(), b"b\nc\n");
    first.signal(Signal::SIGINT);
}

#[test]
fn a_lossy_subscriber_says_how_many_it_lost() {
    let place = Place::new();
    // It hosts the broker, and goes on while the other is stopped.
    let host = place.start(&["sub", "elsewhere", "--follow", "-q"]);
    until("it is there", || segments(host.id(), "reader") > 0);
    let topic = ["--delivery", "lossy", "--depth", "16", "--lines", "-q"];
    let slow = place.start(&[&["sub", "t"][..], &topic].concat());
    until("it has the topic", || segments(slow.id(), "reader") > 0);
    let mut publisher = place.start(&[&["pub", "t"][..], &topic].concat());
    until("they know each other", || segments(slow.id(), "ring") > 0);
    slow.signal(Signal::SIGSTOP);
    let lines: String = (0..1000).map(|n| format!("{n}\n")).collect();
    publisher.stdin().write_all(lines.as_bytes()).unwrap();
    publisher.end_well();
    slow.signal(Signal::SIGCONT);
    let ended = slow.end();
    let received = ended.stdout.iter().filter(|byte| **byte == b'\n').count();
    let lost = format!("{} messages were lost", 1000 - received);
    assert!(ended.stderr.contains(&lost), "{received}: {}", ended.stderr);
    assert_eq!(ended.code, Some(0));
    host.signal(Signal::SIGINT);
}

#[test]
fn a_delivery_that_is_none_is_refused_with_those_that_are() {
    let place = Place::new();
    let ended = place.start(&["pub", "t", "--delivery", "evict:9"]).end();
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("evict:50ms"), "{}", ended.stderr);
    let pattern = place.start(&["sub", "t/*", "--history", "3"]);
    pattern.end_badly(1, "leave out --history");
}
