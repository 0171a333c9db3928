//! `kill -9` of publishers and subscribers at random moments, and of the process that hosts the broker: who survives is told
//! promptly, and is right.
//!
//! Classes of bugs that this is to catch: a consumer killed stops its producers; a producer killed while it publishes stops
//! the ring, or leaves a message that is not whole; a member that is gone gates for ever.
//!
//! `BUS_TEST_SEED` makes the same choices again; `BUS_TEST_KILLS` sets how many of each kind.

use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::chance::{Chance, kills, some_time};
use crate::common::content::Content;
use crate::common::ledger::Ledger;
use crate::common::process::Process;
use crate::common::role::{Given, hear, lines, play, say};
use crate::common::roles::{HOST, start_host};
use bus_client::{BytesPublisher, BytesSubscriber, Error};

/// Longest time for a survivor to go on.
const PROMPT: Duration = Duration::from_secs(1);
/// Slots of each ring.
const DEPTH: u64 = 64;
/// A slot of this size takes all but one of a hundred messages of `Content`.
const STRIDE: u32 = 256;
/// Messages of a burst.
const BURST: u64 = 100;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("steady", steady),
        ("follower", follower),
        ("taster", taster),
        ("flood", flood),
        ("paced", paced),
        ("solo", solo),
        ("mourner", mourner),
    ]);
}

/// Sends without a pause. Says `stuck` with its next sequence number each time that a taster holds it up. At `on` it
/// sends two more rings full and says `on`; at `stop` it leaves and says `sent` with how many.
fn steady(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
    let lines = lines();
    say("joined");
    let mut mark = None;
    let (mut bytes, mut sequence) = (Vec::new(), 0);
    loop {
        if mark == Some(sequence) {
            say("on");
            mark = None;
        }
        match lines.try_recv().as_deref() {
            Ok("on") => mark = Some(sequence + 2 * DEPTH),
            Ok("stop") => break,
            Ok(other) => panic!("{other}"),
            Err(_) => {}
        }
        let content = Content {
            sequence,
            tag: 1,
            note: 0,
        };
        content.write(&mut bytes);
        send(&mut publisher, &bytes, sequence);
        sequence += 1;
    }
    drop(publisher);
    say(format_args!("sent {sequence}"));
}

fn send(publisher: &mut BytesPublisher, bytes: &[u8], sequence: u64) {
    match publisher.try_send(bytes) {
        Err(Error::Full { .. }) => {}
        sent => return assert_eq!(sent.unwrap(), sequence),
    }
    let (peer, lag) = publisher.slowest().unwrap();
    if peer.client == "taster" && lag == DEPTH {
        say(format_args!("stuck {sequence}"));
    }
    assert_eq!(publisher.send(bytes).unwrap(), sequence);
}

/// Receives and checks; says `received` with how many when the publishers have ended.
fn follower(given: &Given) {
    let bus = given.bus();
    let topic = given.topic(&bus).depth(DEPTH as u32).stride(STRIDE);
    let subscriber = topic.end_with_publishers().bytes_subscriber().unwrap();
    say("joined");
    let mut ledger = Ledger::default();
    take_all(&subscriber, &mut ledger);
    say(format_args!("received {}", ledger.count()));
}

/// Enters everything until the end.
fn take_all(subscriber: &BytesSubscriber, ledger: &mut Ledger) {
    loop {
        match subscriber.recv() {
            Ok(m) => drop(ledger.enter(m.publisher(), m.sequence(), m.bytes())),
            Err(Error::Ended { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Joins, and checks what comes. From the message number `count` on it takes no more, but holds that one and says `holding` with
/// its sequence number.
fn taster(given: &Given) {
    let bus = given.bus();
    let subscriber = given.topic(&bus).bytes_subscriber().unwrap();
    let mut ledger = Ledger::default();
    let count = given.find::<u64>("count");
    loop {
        let message = subscriber.recv().unwrap();
        ledger.enter(message.publisher(), message.sequence(), message.bytes());
        if count == Some(ledger.count()) {
            say(format_args!("holding {}", message.sequence()));
            assert_eq!(hear(), None);
        }
    }
}

/// Sends without a pause; says `sent` with how many after the first and after each hundred.
fn flood(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
    let tag = given.get("tag");
    let mut bytes = Vec::new();
    for sequence in 0.. {
        let content = Content {
            sequence,
            tag,
            note: 0,
        };
        content.write(&mut bytes);
        assert_eq!(publisher.send(&bytes).unwrap(), sequence);
        if sequence % 100 == 0 {
            say(format_args!("sent {}", sequence + 1));
        }
    }
}

/// Sends bursts, each when the one before was received, so that the topic is idle in between. Leaves at `stop`, and
/// says `sent` with how many.
fn paced(given: &Given) {
    let bus = given.bus();
    let acknowledged = bus.subscriber::<u64>("acknowledged").unwrap();
    let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
    let lines = lines();
    say("joined");
    let (mut bytes, mut sequence) = (Vec::new(), 0);
    while lines.try_recv().is_err() {
        for _ in 0..BURST {
            let content = Content {
                sequence,
                tag: 0,
                note: 0,
            };
            content.write(&mut bytes);
            assert_eq!(publisher.send(&bytes).unwrap(), sequence);
            sequence += 1;
        }
        assert_eq!(*acknowledged.recv().unwrap(), sequence);
    }
    say(format_args!("sent {sequence}"));
}

/// Receives and checks, and acknowledges the bursts. Says `ended` with tag and number of messages when a publisher is gone, and
/// `received` with the number of all messages when all are.
fn mourner(given: &Given) {
    let bus = given.bus();
    let topic = given.topic(&bus).depth(DEPTH as u32).stride(STRIDE);
    let subscriber = topic.end_with_publishers().bytes_subscriber().unwrap();
    say("joined");
    let mut acknowledge = bus.publisher::<u64>("acknowledged").unwrap();
    let mut ledger = Ledger::default();
    let mut mourned = Vec::new();
    loop {
        match subscriber.try_recv() {
            Ok(Some(m)) => {
                let content = ledger.enter(m.publisher(), m.sequence(), m.bytes());
                let next = content.sequence + 1;
                if content.tag == 0 && next % BURST == 0 {
                    acknowledge.send(&next).unwrap();
                }
            }
            Ok(None) => {
                for account in ledger.accounts() {
                    let publisher = account.publisher;
                    if subscriber.peer(publisher).is_none() && !mourned.contains(&publisher) {
                        mourned.push(publisher);
                        say(format_args!("ended {} {}", account.tag, account.next));
                    }
                }
            }
            Err(Error::Ended { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(ledger.accounts().iter().all(|a| a.first == 0));
    say(format_args!("received {}", ledger.count()));
}

/// For each `again`: joins, says `open`, receives and checks until the publishers have ended, says `received` with how many.
fn solo(given: &Given) {
    let bus = given.bus();
    while hear().is_some() {
        let topic = given.topic(&bus).depth(DEPTH as u32).stride(STRIDE);
        let subscriber = topic.end_with_publishers().bytes_subscriber().unwrap();
        say("open");
        let mut ledger = Ledger::default();
        take_all(&subscriber, &mut ledger);
        assert!(ledger.accounts().iter().all(|a| a.first == 0));
        say(format_args!("received {}", ledger.count()));
    }
}

/// How long survivors took.
#[derive(Default)]
struct Delays(Vec<Duration>);

impl Delays {
    fn enter(&mut self, since: Instant) {
        let delay = since.elapsed();
        assert!(delay < PROMPT, "a survivor went on after {delay:?}");
        self.0.push(delay);
    }

    fn print(mut self, what: &str) {
        self.0.sort_unstable();
        let (count, last) = (self.0.len(), self.0.last());
        if let Some(longest) = last {
            let median = self.0[count / 2];
            println!("{what}: {count} kills, median {median:?}, longest {longest:?}");
        }
    }
}

/// Waits until the steady publisher can send no more because of who holds this message.
fn await_stuck(steady: &mut Process, holding: u64) {
    while steady.await_word("stuck").parse::<u64>().unwrap() != holding + DEPTH {}
}

#[test]
fn a_killed_subscriber_holds_nobody_up() {
    let mut chance = Chance::new("a_killed_subscriber_holds_nobody_up");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let socket = path.display();
    let mut follower = Process::start("follower", &[("socket", &socket)]);
    follower.expect("joined");
    let mut steady = Process::start("steady", &[("socket", &socket)]);
    steady.expect("joined");
    let (mut holding, mut running) = (Delays::default(), Delays::default());
    for round in 0..kills(100) {
        let held = round % 2 == 0;
        let mut taster = if held {
            let count = chance.of(1..2 * DEPTH);
            let mut taster = Process::start("taster", &[("socket", &socket), ("count", &count)]);
            await_stuck(&mut steady, taster.number("holding"));
            taster
        } else {
            let name = "runner";
            Process::start("taster", &[("socket", &socket), ("name", &name)])
        };
        // At any moment: one that is still starting may be hit as well.
        some_time(&mut chance, if held { 1_000 } else { 60_000 });
        let killed = taster.kill();
        steady.tell("on");
        steady.await_word("on");
        let delays = if held { &mut holding } else { &mut running };
        delays.enter(killed);
        taster.reap();
    }
    holding.print("the publisher that a killed subscriber had stopped sent two rings full");
    running.print("the publisher of a killed subscriber sent two rings full");
    steady.tell("stop");
    let sent = steady.await_word("sent");
    assert_eq!(follower.expect("received"), sent);
    println!("the other subscriber received {sent} messages, all right");
    steady.finish();
    follower.finish();
    host.finish();
}

/// Starts a publisher, and kills it at some moment after its first message; when, and how many it surely sent.
fn kill_flood(socket: &Path, topic: &str, tag: u64, chance: &mut Chance) -> (Instant, u64) {
    let settings: [(&str, &dyn Display); 3] = [
        ("socket", &socket.display()),
        ("topic", &topic),
        ("tag", &tag),
    ];
    let mut flood = Process::start("flood", &settings);
    flood.expect("sent 1");
    some_time(chance, 5_000);
    let killed = flood.kill();
    flood.reap();
    let sent = flood.last_words().last().map_or(1, |line| {
        let sent = line.strip_prefix("sent ").unwrap();
        sent.parse().unwrap()
    });
    (killed, sent)
}

#[test]
fn a_killed_publisher_leaves_what_it_sent_and_disturbs_no_other() {
    let mut chance = Chance::new("a_killed_publisher_leaves_what_it_sent");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let socket = path.display();
    let mut mourner = Process::start("mourner", &[("socket", &socket)]);
    mourner.expect("joined");
    let mut follower = Process::start("follower", &[("socket", &socket)]);
    follower.expect("joined");
    let mut paced = Process::start("paced", &[("socket", &socket)]);
    paced.expect("joined");
    let mut delays = Delays::default();
    let mut of_killed = 0;
    for tag in 1..=kills(50) {
        let (killed, sent) = kill_flood(&path, "t", tag, &mut chance);
        let said = mourner.expect("ended");
        delays.enter(killed);
        let (whom, received) = said.split_once(' ').unwrap();
        assert_eq!(whom, tag.to_string());
        let received: u64 = received.parse().unwrap();
        assert!(received >= sent, "{received} of at least {sent} came");
        of_killed += received;
    }
    delays.print("the end of a killed publisher was seen beside another");
    paced.tell("stop");
    let sent: u64 = paced.number("sent");
    paced.finish();
    assert_eq!(mourner.number("received"), sent + of_killed);
    assert_eq!(follower.number("received"), sent + of_killed);
    println!("{of_killed} messages of killed publishers and {sent} of another, all right");
    mourner.finish();
    follower.finish();
    host.finish();
}

#[test]
fn the_end_of_a_killed_publisher_is_the_end_of_receiving() {
    let mut chance = Chance::new("the_end_of_a_killed_publisher_is_the_end_of_receiving");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let mut solo = Process::start("solo", &[("socket", &path.display())]);
    let mut delays = Delays::default();
    for tag in 1..=kills(50) {
        solo.tell("again");
        solo.expect("open");
        let (killed, sent) = kill_flood(&path, "t", tag, &mut chance);
        let received = solo.number("received");
        delays.enter(killed);
        assert!(received >= sent, "{received} of at least {sent} came");
    }
    delays.print("receiving ended with a killed publisher");
    solo.finish();
    host.finish();
}

/// With nobody to tell them, the survivors ask the kernel.
#[test]
fn a_killed_host_of_the_broker_stops_no_traffic_and_hides_no_death() {
    let mut chance = Chance::new("a_killed_host_of_the_broker");
    let (mut subscribers, mut publishers) = (Delays::default(), Delays::default());
    for _ in 0..kills(6) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let socket = path.display();
        let mut host = start_host(&path);
        let mut follower = Process::start("follower", &[("socket", &socket)]);
        follower.expect("joined");
        let mut steady = Process::start("steady", &[("socket", &socket)]);
        steady.expect("joined");
        let alone = "alone";
        let mut solo = Process::start("solo", &[("socket", &socket), ("topic", &alone)]);
        solo.tell("again");
        solo.expect("open");
        let mut flood = Process::start(
            "flood",
            &[("socket", &socket), ("topic", &alone), ("tag", &1)],
        );
        flood.expect("sent 1");
        let count = chance.of(1..DEPTH);
        let mut taster = Process::start("taster", &[("socket", &socket), ("count", &count)]);
        let holding = taster.number("holding");
        some_time(&mut chance, 2_000);
        host.kill();
        host.reap();

        await_stuck(&mut steady, holding);
        let killed = taster.kill();
        steady.tell("on");
        steady.await_word("on");
        subscribers.enter(killed);
        taster.reap();

        let killed = flood.kill();
        let received = solo.number("received");
        publishers.enter(killed);
        flood.reap();
        let words = flood.last_words();
        let sent = words.last().unwrap().strip_prefix("sent ").unwrap();
        assert!(received >= sent.parse().unwrap());

        steady.tell("stop");
        let sent = steady.await_word("sent");
        assert_eq!(follower.expect("received"), sent);
        steady.finish();
        follower.finish();
        solo.finish();
    }
    subscribers.print(
        "without a broker, the publisher that a killed subscriber had stopped sent two rings full",
    );
    publishers.print("without a broker, receiving ended with a killed publisher");
}
