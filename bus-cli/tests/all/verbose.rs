//! `-v`: who is on the other side is told on standard error, once when it comes and once when it goes.

use std::io::Write;

use crate::common::{self, Place, collect, heard, until};

#[test]
fn both_sides_are_told_of_each_other_and_nothing_else_changes() {
    let place = Place::new();
    let mut subscriber = place.start(&["sub", "t", "-v", "--lines", "--name", "reader"]);
    let told = heard(subscriber.stderr());
    let read = collect(subscriber.stdout());
    let mut publisher = place.start(&["pub", "t", "--verbose", "--lines", "--name", "writer"]);
    let its = heard(publisher.stderr());
    let user = nix::unistd::geteuid();

    let came = its.recv_timeout(common::LIMIT).unwrap();
    let (reader, writer) = (subscriber.id(), publisher.id());
    assert!(
        came.starts_with("bus pub: subscriber reader, user "),
        "{came}"
    );
    assert!(came.ends_with(&format!("process {reader}, came")), "{came}");
    let came = told.recv_timeout(common::LIMIT).unwrap();
    assert!(
        came.starts_with("bus sub: publisher writer, user "),
        "{came}"
    );
    assert!(came.contains(&user.to_string()), "{came}");
    let says = format!("process {writer}, came; trusted: read in place");
    assert!(came.ends_with(&says), "{came}");

    // While it waits for input: one more comes and is killed.
    let other = place.start(&["sub", "t", "--follow", "--name", "guest"]);
    let came = its.recv_timeout(common::LIMIT).unwrap();
    assert!(
        came.contains("subscriber guest") && came.ends_with("came"),
        "{came}"
    );
    drop(other);
    let left = its.recv_timeout(common::LIMIT).unwrap();
    assert!(
        left.contains("subscriber guest") && left.ends_with("left"),
        "{left}"
    );

    publisher.stdin().write_all(b"one\ntwo\n").unwrap();
    assert_eq!(read.recv_timeout(common::LIMIT).unwrap(), b"one\ntwo\n");
    let left = told.recv_timeout(common::LIMIT).unwrap();
    assert!(
        left.contains("publisher writer") && left.ends_with("left"),
        "{left}"
    );
    assert!(told.recv_timeout(common::LIMIT).is_err(), "told twice");
}

#[test]
fn a_pattern_names_the_topics_too() {
    let place = Place::new();
    let mut subscriber = place.start(&["sub", "logs/*", "-v", "--lines"]);
    let told = heard(subscriber.stderr());
    let read = collect(subscriber.stdout());
    until("it hosts the broker", || place.socket().exists());
    for topic in ["logs/a", "logs/b"] {
        // It has ended before anybody looks, or not.
        let arguments = ["pub", topic, "--lines", "--subscribers", "0"];
        let mut publisher = place.start(&arguments);
        publisher.stdin().write_all(b"line\n").unwrap();
        publisher.end_well();
        let says = format!("bus sub: topic {topic}: publisher bus-pub, user ");
        for end in ["came; trusted: read in place", "left"] {
            let line = told.recv_timeout(common::LIMIT).unwrap();
            assert!(line.starts_with(&says) && line.ends_with(end), "{line}");
        }
    }
    subscriber.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(read.recv_timeout(common::LIMIT).unwrap(), b"line\nline\n");
}
