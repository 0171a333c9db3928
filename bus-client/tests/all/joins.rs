//! Subscribers and publishers that come and go while traffic flows: who stays misses nothing and gets nothing twice; who comes
//! gets all from its start on.
//!
//! Classes of bugs that this is to catch: what was published between a subscriber's creation and its first receive is lost;
//! membership that changes while somebody walks over it; a member that is added at the wrong position.

use std::collections::HashSet;
use std::time::Duration;

use crate::common::chance::Chance;
use crate::common::content::Content;
use crate::common::ledger::Ledger;
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, lines, play, say};
use crate::common::roles::{HOST, SENDER, TAKER, start_host};
use bus_client::{Bus, Error};

/// Times that each process that comes and goes does so.
const ROUNDS: u64 = 40;
/// Messages that each ring keeps.
const KEEP: u32 = 16;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        SENDER,
        TAKER,
        ("answering", answering),
        ("joiner", joiner),
        ("comer", comer),
        ("bursts", bursts),
        ("patient", patient),
    ]);
}

/// Sends without a pause, and puts each number that it is asked for into one message's note. Leaves at a line, and says `sent`
/// with how many.
fn answering(given: &Given) {
    let bus = given.bus();
    let asks = bus.subscriber::<u32>("asks").unwrap();
    let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
    let lines = lines();
    say("joined");
    let (mut bytes, mut sequence) = (Vec::new(), 0);
    while lines.try_recv().is_err() {
        let note = asks.try_recv().unwrap().map_or(0, |ask| ask.to_native());
        let content = Content {
            sequence,
            tag: 0,
            note,
        };
        content.write(&mut bytes);
        assert_eq!(publisher.send(&bytes).unwrap(), sequence);
        sequence += 1;
    }
    drop(publisher);
    say(format_args!("sent {sequence}"));
}

/// Joins and leaves. Each time asks for a number once `subscriber()` has returned, and checks all up to the answer: it was
/// published later, so it must come.
fn joiner(given: &Given) {
    let bus = given.bus();
    let base = given.get::<u32>("tag") * 1000;
    let mut chance = Chance::seeded(base.into());
    let mut asks = bus.publisher::<u32>("asks").unwrap();
    for ask in base..base + ROUNDS as u32 {
        let history = chance.of(0..u64::from(KEEP) + 1) as u32;
        let topic = given.topic(&bus).history(history);
        let subscriber = topic.bytes_subscriber().unwrap();
        asks.send(&ask).unwrap();
        let mut ledger = Ledger::default();
        let mut more = chance.of(0..300);
        let mut answered = false;
        while !answered || more > 0 {
            let m = subscriber.recv().unwrap();
            let content = ledger.enter(m.publisher(), m.sequence(), m.bytes());
            answered |= content.note == ask;
            more = more.saturating_sub(1);
        }
    }
    say(format_args!("joined {ROUNDS}"));
}

/// Comes, sends some messages, and goes. Says `sent` with how many in all.
fn comer(given: &Given) {
    let bus = given.bus();
    let base = given.get::<u32>("tag") * 1000;
    let mut chance = Chance::seeded(base.into());
    let mut sent = 0;
    let mut bytes = Vec::new();
    for tag in base..base + ROUNDS as u32 {
        let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
        // Now and then more than fit at once.
        for sequence in 0..chance.of(1..200) {
            let content = Content {
                sequence,
                tag,
                note: 0,
            };
            content.write(&mut bytes);
            assert_eq!(publisher.send(&bytes).unwrap(), sequence);
            sent += 1;
        }
    }
    say(format_args!("sent {sent}"));
}

/// Sends as many messages as each line says, then says `sent`; idle in between.
fn bursts(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
    say("joined");
    let (mut bytes, mut sequence) = (Vec::new(), 0);
    while let Some(count) = hear() {
        for _ in 0..count.parse().unwrap() {
            let content = Content {
                sequence,
                tag: 0,
                note: 0,
            };
            content.write(&mut bytes);
            assert_eq!(publisher.send(&bytes).unwrap(), sequence);
            sequence += 1;
        }
        say("sent");
    }
}

/// For each line opens a publisher on the topic that it names, waits for a subscriber, and sends two rings full as soon as one is there;
/// says `sent`.
fn patient(given: &Given) {
    let bus = given.bus();
    let mut bytes = Vec::new();
    while let Some(topic) = hear() {
        let topic = bus.topic(topic).unwrap().depth(32).stride(256);
        let mut publisher = topic.bytes_publisher().unwrap();
        say("open");
        publisher.wait_for_subscribers(1, Some(WATCHDOG)).unwrap();
        for sequence in 0..64 {
            let content = Content {
                sequence,
                tag: 0,
                note: 0,
            };
            content.write(&mut bytes);
            assert_eq!(publisher.send(&bytes).unwrap(), sequence);
        }
        say("sent");
    }
}

#[test]
fn who_stays_misses_nothing_and_who_comes_gets_all_from_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let socket = path.display();
    let mut taker = Process::start(
        "taker",
        &[
            ("socket", &socket),
            ("depth", &64),
            ("stride", &256),
            ("keep", &KEEP),
        ],
    );
    taker.expect("joined");
    let mut answering = Process::start("answering", &[("socket", &socket)]);
    answering.expect("joined");
    let start = |role, tag| Process::start(role, &[("socket", &socket), ("tag", &tag)]);
    let mut joiners = [start("joiner", 1), start("joiner", 2)];
    let mut comers = [start("comer", 3), start("comer", 4)];
    let mut sent = 0;
    for joiner in &mut joiners {
        assert_eq!(joiner.number("joined"), ROUNDS);
    }
    for comer in &mut comers {
        sent += comer.number("sent");
    }
    joiners.into_iter().chain(comers).for_each(Process::finish);
    answering.tell("stop");
    sent += answering.number("sent");
    answering.finish();
    let said = taker.expect("received");
    assert!(
        said.starts_with(&format!("{} {sent} ", 1 + 2 * ROUNDS)),
        "{sent} sent by {}; publishers, messages: {said}",
        1 + 2 * ROUNDS
    );
    println!("{sent} messages, all right, with {} joins", 4 * ROUNDS);
    taker.finish();
    host.finish();
}

/// What is published after `subscriber()` returned is received, from an idle publisher as well, and nothing older is.
#[test]
fn a_subscriber_starts_exactly_where_an_idle_publisher_stands() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let mut bursts = Process::start(
        "bursts",
        &[
            ("socket", &path.display()),
            ("depth", &32),
            ("stride", &256),
        ],
    );
    bursts.expect("joined");
    let bus = connect(&path);
    let mut chance = Chance::new("a_subscriber_starts_exactly_where_an_idle_publisher_stands");
    let mut head = 0;
    for _ in 0..100 {
        let subscriber = bus.bytes_subscriber("t").unwrap();
        let count = chance.of(1..100);
        bursts.tell(&count.to_string());
        let mut ledger = Ledger::default();
        while ledger.count() < count {
            let m = subscriber.recv().unwrap();
            ledger.enter(m.publisher(), m.sequence(), m.bytes());
        }
        assert_eq!(ledger.of(0).unwrap().first, head);
        bursts.expect("sent");
        assert!(subscriber.try_recv().unwrap().is_none());
        head += count;
    }
    bursts.finish();
    host.finish();
}

/// A publisher that waited for a subscriber may send at once: whoever was waited for gets the first message, and all others.
#[test]
fn who_was_waited_for_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let mut patient = Process::start("patient", &[("socket", &path.display())]);
    let bus = connect(&path);
    for round in 0..100 {
        let topic = format!("t{round}");
        patient.tell(&topic);
        patient.expect("open");
        let subscriber = bus.bytes_subscriber(topic).unwrap();
        let mut ledger = Ledger::default();
        while ledger.of(0).is_none_or(|account| account.next < 64) {
            let m = subscriber.recv().unwrap();
            ledger.enter(m.publisher(), m.sequence(), m.bytes());
        }
        assert_eq!(ledger.of(0).unwrap().first, 0, "round {round}");
        patient.expect("sent");
    }
    patient.finish();
    host.finish();
}

/// While there is no broker nobody comes, but another broker may: who waits, waits for as long as it may.
#[test]
fn waiting_for_peers_goes_on_while_there_is_no_broker() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let mut host = start_host(&path);
    let bus = connect(&path);
    let subscriber = bus.bytes_subscriber("a").unwrap();
    let mut publisher = bus.bytes_publisher("b").unwrap();
    let mut wait = |time| {
        [
            subscriber.wait_for_publishers(1, Some(time)),
            publisher.wait_for_subscribers(1, Some(time)),
        ]
    };
    let before = wait(Duration::ZERO);
    host.kill();
    host.reap();
    let after = wait(Duration::from_millis(250));
    for waited in before.into_iter().chain(after) {
        assert!(matches!(waited, Err(Error::Timeout { .. })), "{waited:?}");
    }
}

fn connect(path: &std::path::Path) -> Bus {
    let bus = Bus::builder("test").socket(path).embedded(false);
    bus.connect().unwrap()
}

#[test]
fn history_is_what_was_asked_for_as_far_as_there_is_so_much() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let socket = path.display();
    let bus = connect(&path);
    let first = |topic: &str, history: u32, until: u64| {
        let topic = bus.topic(topic).unwrap().history(history);
        let subscriber = topic.bytes_subscriber().unwrap();
        let mut ledger = Ledger::default();
        while let Some(m) = subscriber.try_recv().unwrap() {
            ledger.enter(m.publisher(), m.sequence(), m.bytes());
        }
        let account = ledger.of(0).map(|a| (a.first, a.next));
        assert!(account.is_none_or(|(_, next)| next == until), "{account:?}");
        account.map(|(first, _)| first)
    };
    let mut senders = Vec::new();
    for (topic, count) in [("many", 100), ("few", 3)] {
        let mut sender = Process::start(
            "sender",
            &[
                ("socket", &socket),
                ("topic", &topic),
                ("depth", &64),
                ("keep", &KEEP),
                ("tag", &0),
                ("count", &count),
                ("subscribers", &0),
            ],
        );
        sender.expect("joined");
        sender.tell("go");
        sender.expect("sent");
        senders.push(sender);
    }
    assert_eq!(first("many", 0, 100), None);
    assert_eq!(first("many", 10, 100), Some(90));
    assert_eq!(first("many", KEEP, 100), Some(84));
    let more = bus.topic("many").unwrap().history(KEEP + 1);
    let refused = more.bytes_subscriber().err().unwrap().to_string();
    assert!(
        refused.contains("keep 16, asked for a history of 17"),
        "{refused}"
    );
    assert_eq!(first("few", 10, 3), Some(0));
    assert_eq!(first("few", 2, 3), Some(1));
    for mut sender in senders {
        sender.tell("leave");
        sender.finish();
    }
    host.finish();
}

/// Ids name one handle each, for as long as the broker lives.
#[test]
fn who_comes_later_is_never_taken_for_who_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let bus = connect(&path);
    let subscriber = bus.subscriber::<u32>("t").unwrap();
    let mut ids = HashSet::new();
    for n in 0..200_u32 {
        let mut publisher = bus.publisher::<u32>("t").unwrap();
        publisher.send(&n).unwrap();
        let got = subscriber.recv().unwrap();
        assert_eq!(
            (got.to_native(), got.sequence(), got.publisher()),
            (n, 0, publisher.id())
        );
        assert!(ids.insert(publisher.id()));
    }
    host.finish();
}
