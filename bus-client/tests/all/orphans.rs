//! Handles whose broker is gone: what leaves and dies is noticed without it, by who waits and by who only polls.
//!
//! Classes of bugs that this is to catch: a publisher that waits for ever for a handle that was dropped; a polling loop that
//! never sees an end, because only those who sleep look around.

use std::time::{Duration, Instant};

use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, play, say};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect};
use bus_client::{BytesPublisher, BytesSubscriber, Error};

/// Slots of each ring.
const DEPTH: u32 = 4;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("talker", talker), ("hoarder", hoarder)]);
}

/// Publishes one message, says `sent`, and stays.
fn talker(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).depth(DEPTH).bytes_publisher().unwrap();
    publisher.wait_for_subscribers(1, Some(WATCHDOG)).unwrap();
    publisher.send(b"last words").unwrap();
    say("sent");
    assert_eq!(hear(), None);
}

/// Subscribes, says `joined`, and reads nothing.
fn hoarder(given: &Given) {
    let bus = given.bus();
    let _subscriber = given.topic(&bus).depth(DEPTH).bytes_subscriber().unwrap();
    say("joined");
    assert_eq!(hear(), None);
}

/// A place whose broker can be killed, and both kinds of handle in this process.
fn meet() -> (Stage, Process, BytesPublisher, BytesSubscriber) {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let topic = || bus.topic("t").unwrap().depth(DEPTH);
    let publisher = topic().bytes_publisher().unwrap();
    let subscriber = topic().bytes_subscriber().unwrap();
    (stage, host, publisher, subscriber)
}

fn kill(process: &mut Process) {
    process.kill();
    process.reap();
}

#[test]
fn a_subscriber_that_is_dropped_holds_nobody_up() {
    let (_stage, mut host, mut publisher, subscriber) = meet();
    for _ in 0..DEPTH {
        publisher.send(b"unread").unwrap();
    }
    assert!(matches!(publisher.try_send(b"no"), Err(Error::Full { .. })));
    let kept = subscriber.recv().unwrap().hold();
    kill(&mut host);
    drop(subscriber);
    // A message that is held keeps its slot.
    assert!(matches!(publisher.try_send(b"no"), Err(Error::Full { .. })));
    assert_eq!(kept.bytes(), b"unread");
    drop(kept);
    for _ in 0..3 * DEPTH {
        publisher.send_timeout(b"gone", WATCHDOG).unwrap();
    }
}

#[test]
fn a_publisher_asleep_is_woken_by_a_subscriber_that_is_dropped() {
    let (_stage, mut host, mut publisher, subscriber) = meet();
    kill(&mut host);
    let sender = std::thread::spawn(move || {
        for _ in 0..=DEPTH {
            publisher.send_timeout(b"message", WATCHDOG).unwrap();
        }
    });
    drop(subscriber);
    sender.join().unwrap();
}

#[test]
fn who_polls_learns_that_a_publisher_was_killed() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let mut talker = stage.start("talker");
    let bus = connect(&stage.path, false).unwrap();
    let topic = bus.topic("t").unwrap().depth(DEPTH).end_with_publishers();
    let subscriber = topic.bytes_subscriber().unwrap();
    talker.expect("sent");
    kill(&mut host);
    kill(&mut talker);
    let deadline = Instant::now() + WATCHDOG;
    let mut received = 0;
    loop {
        match subscriber.try_recv() {
            Ok(Some(message)) => {
                assert_eq!(message.bytes(), b"last words");
                received += 1;
            }
            Ok(None) => assert!(Instant::now() < deadline, "it never saw the end"),
            Err(Error::Ended { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(received, 1);
    assert_eq!(subscriber.publishers().unwrap(), []);
}

#[test]
fn who_polls_learns_that_a_subscriber_was_killed() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let mut hoarder = stage.start("hoarder");
    hoarder.expect("joined");
    let bus = connect(&stage.path, false).unwrap();
    let topic = bus.topic("t").unwrap().depth(DEPTH);
    let mut publisher = topic.bytes_publisher().unwrap();
    for _ in 0..DEPTH {
        publisher.send(b"unread").unwrap();
    }
    kill(&mut host);
    kill(&mut hoarder);
    let deadline = Instant::now() + WATCHDOG;
    while let Err(error) = publisher.try_send(b"at last") {
        assert!(matches!(error, Error::Full { .. }), "{error}");
        assert!(Instant::now() < deadline, "it waits for the dead");
    }
    assert_eq!(publisher.subscribers().unwrap(), []);
    let none = publisher.wait_for_subscribers(1, Some(Duration::ZERO));
    assert!(none.is_err(), "the dead are counted");
}
