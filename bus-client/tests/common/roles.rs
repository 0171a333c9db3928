//! Roles that several tests use.

use std::path::Path;
use std::time::Instant;

use bus_client::Error;
use nix::time::{ClockId, clock_gettime};

use super::content::Content;
use super::ledger::Ledger;
use super::process::{Process, WATCHDOG};
use super::role::{Given, Part, hear, say, wait_for};

/// The roles of this file.
pub const HOST: Part = ("host", host);
/// Sends `count` messages and leaves.
pub const SENDER: Part = ("sender", sender);
/// Receives until the publishers have ended.
pub const TAKER: Part = ("taker", taker);

/// A process that hosts the broker and does nothing else.
#[track_caller]
pub fn start_host(socket: &Path) -> Process {
    let mut host = Process::start(
        "host",
        &[("socket", &socket.display()), ("embedded", &true)],
    );
    host.expect("listening");
    host
}

/// Hosts the broker until the test lets it end.
fn host(given: &Given) {
    let bus = given.bus();
    assert!(bus.hosts_broker());
    say("listening");
    assert_eq!(hear(), None);
}

/// Joins and says `joined`; at `go` sends `count` messages, waits for `subscribers` first; says `sent`; at `leave` leaves.
fn sender(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
    say("joined");
    wait_for("go");
    let subscribers = given.or("subscribers", 1);
    publisher
        .wait_for_subscribers(subscribers, Some(WATCHDOG))
        .unwrap();
    let (tag, count) = (given.get("tag"), given.get::<u64>("count"));
    let mut bytes = Vec::new();
    for sequence in 0..count {
        let note = 0;
        let content = Content {
            sequence,
            tag,
            note,
        };
        content.write(&mut bytes);
        assert_eq!(publisher.send(&bytes).unwrap(), sequence);
    }
    say(format_args!("sent {count}"));
    wait_for("leave");
}

/// Joins and says `joined`; receives and checks until all publishers have ended; says `received` with the number of publishers,
/// of messages, and of microseconds from the first message to the last.
fn taker(given: &Given) {
    let bus = given.bus();
    let topic = given.topic(&bus).end_with_publishers();
    let subscriber = topic.bytes_subscriber().unwrap();
    say("joined");
    let mut ledger = Ledger::default();
    let mut began = None;
    let mut last = Instant::now();
    loop {
        match subscriber.recv() {
            Ok(message) => {
                ledger.enter(message.publisher(), message.sequence(), message.bytes());
                if began.is_none() {
                    began = Some(Instant::now());
                }
            }
            Err(Error::Ended { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        if ledger.count() % 1024 == 0 {
            last = Instant::now();
        }
    }
    assert!(ledger.accounts().iter().all(|a| a.first == 0));
    let micros = began.map_or(0, |began| last.duration_since(began).as_micros());
    say(format_args!(
        "received {} {} {micros}",
        ledger.accounts().len(),
        ledger.count()
    ));
}

/// Nanoseconds of the clock that all processes share.
pub fn clock() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
