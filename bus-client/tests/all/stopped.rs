//! Processes that are stopped for a while: slow, not dead. Nothing is lost for them or by them, also where the broker went
//! meanwhile: what it had said before still counts.
//!
//! Classes of bugs that this is to catch: slow is taken for dead; what came between two looks is thrown away with the broker.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::content::Content;
use crate::common::ledger::Ledger;
use crate::common::process::WATCHDOG;
use crate::common::role::{Given, hear, play, say};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect};
use crate::common::stops::{go_on, stop_asleep};
use bus_client::{BytesPublisher, BytesSubscriber, Error};

/// Slots of each ring.
const DEPTH: u64 = 8;
/// Longer than any sleep of a handle that waits: it looks around first when it goes on.
const WHILE: Duration = Duration::from_millis(150);
/// How long to wait for one of several.
const TURN: Duration = Duration::from_millis(5);

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("listener", listener), ("talker", talker)]);
}

/// Joins and says `joined`; receives and checks, and says `got` with tag and sequence number.
fn listener(given: &Given) {
    let bus = given.bus();
    let topic = given.topic(&bus).depth(DEPTH as u32).stride(256);
    let subscriber = topic.end_with_publishers().bytes_subscriber().unwrap();
    say("joined");
    let mut ledger = Ledger::default();
    loop {
        match subscriber.recv() {
            Ok(m) => {
                let content = ledger.enter(m.publisher(), m.sequence(), m.bytes());
                say(format_args!("got {} {}", content.tag, content.sequence));
            }
            Err(Error::Ended { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Joins and says `joined`; for each line sends as many messages as it says, and says `sent`.
fn talker(given: &Given) {
    let bus = given.bus();
    let topic = given.topic(&bus).depth(DEPTH as u32).stride(256);
    let mut publisher = topic.bytes_publisher().unwrap();
    say("joined");
    let mut next = 0;
    while let Some(count) = hear() {
        next = send(
            &mut publisher,
            0,
            next..next + count.parse::<u64>().unwrap(),
        );
        say("sent");
    }
}

fn send(publisher: &mut BytesPublisher, tag: u32, sequences: std::ops::Range<u64>) -> u64 {
    let end = sequences.end;
    let mut bytes = Vec::new();
    for sequence in sequences {
        let note = 0;
        let content = Content {
            sequence,
            tag,
            note,
        };
        content.write(&mut bytes);
        assert_eq!(publisher.send(&bytes).unwrap(), sequence);
    }
    end
}

#[test]
fn a_stopped_subscriber_is_waited_for() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut listener = stage.start("listener");
    listener.expect("joined");
    stop_asleep(&listener);
    let bus = connect(&stage.path, false).unwrap();
    let mut publisher = bus.bytes_publisher("t").unwrap();
    let next = send(&mut publisher, 7, 0..DEPTH);
    let mut bytes = Vec::new();
    let content = Content {
        sequence: next,
        tag: 7,
        note: 0,
    };
    content.write(&mut bytes);
    let full = publisher.send_timeout(&bytes, 3 * WHILE);
    assert!(matches!(full, Err(Error::Timeout { .. })), "{full:?}");
    go_on(&listener);
    send(&mut publisher, 7, next..100);
    drop(publisher);
    for sequence in 0..100 {
        assert_eq!(listener.expect("got"), format!("7 {sequence}"));
    }
    listener.finish();
    host.finish();
}

/// The publisher had joined before the broker went, and its subscriber was told of it: it only had not listened yet.
#[test]
fn a_publisher_that_came_to_a_stopped_subscriber_is_heard_though_the_broker_went() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let mut listener = stage.start("listener");
    listener.expect("joined");
    stop_asleep(&listener);
    let bus = connect(&stage.path, false).unwrap();
    let mut publisher = bus.bytes_publisher("t").unwrap();
    assert_eq!(publisher.subscribers().unwrap().len(), 1);
    send(&mut publisher, 7, 0..DEPTH);
    host.kill();
    host.reap();
    // Nobody to be in step with: it is to be late.
    thread::sleep(WHILE);
    go_on(&listener);
    for sequence in 0..DEPTH {
        assert_eq!(listener.expect("got"), format!("7 {sequence}"));
    }
    drop(publisher);
    listener.finish();
}

/// The subscriber had joined before the broker went, so nothing that is sent later may miss it.
#[test]
fn a_subscriber_that_came_to_a_stopped_publisher_misses_nothing_though_the_broker_went() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let mut talker = stage.start("talker");
    talker.expect("joined");
    let bus = connect(&stage.path, false).unwrap();
    let first = bus.bytes_subscriber("t").unwrap();
    talker.tell(&(4 * DEPTH).to_string());
    stop_asleep(&talker);
    let second = bus.bytes_subscriber("t").unwrap();
    host.kill();
    host.reap();
    // As above.
    thread::sleep(WHILE);
    go_on(&talker);
    // The first goes ahead as far as it may: that is one ring before the second, which then gets all from its start on.
    let mut ledgers = [Ledger::default(), Ledger::default()];
    let take = |ledger: &mut Ledger, subscriber: &BytesSubscriber, time| {
        let Some(m) = subscriber.recv_timeout(time).unwrap() else {
            return false;
        };
        ledger.enter(m.publisher(), m.sequence(), m.bytes());
        true
    };
    while take(&mut ledgers[0], &first, WHILE) {}
    let deadline = Instant::now() + WATCHDOG;
    while ledgers[0].count() < 4 * DEPTH || ledgers[1].count() < 3 * DEPTH {
        take(&mut ledgers[1], &second, TURN);
        take(&mut ledgers[0], &first, TURN);
        assert!(
            Instant::now() < deadline,
            "{:?}",
            ledgers.map(|ledger| ledger.accounts().to_vec())
        );
    }
    let accounts = ledgers.map(|ledger| ledger.of(0).map(|a| (a.first, a.next)));
    assert_eq!(accounts, [Some((0, 4 * DEPTH)), Some((DEPTH, 4 * DEPTH))]);
    talker.expect("sent");
    talker.finish();
}
