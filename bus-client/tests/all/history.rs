//! History: the last messages first, without a gap or a double to the live ones, from publishers that are busy, that have ended, and
//! that were killed.
//!
//! Classes of bugs that this is to catch: a batch in flight overwrites what a joiner is about to read; a joiner starts one too early or
//! too late; a ring that is kept loses its last messages, or is taken for that of the publisher that has its index next.

use std::path::Path;

use crate::common::chance::Chance;
use crate::common::content::Content;
use crate::common::ledger::Ledger;
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, lines, play, say};
use crate::common::roles::{HOST, clock, start_host};
use crate::common::stage::Stage;
use bus_client::{Bus, BytesSubscriber, Error};

/// Slots of each ring.
const DEPTH: u32 = 64;
/// Messages that each ring keeps.
const KEEP: u32 = 16;
/// Of a ring of which a batch takes longer than a join, so that joins fall into batches: slots, and messages that it keeps.
const LONG_DEPTH: u32 = 1024;
const LONG_KEEP: u32 = 512;
/// Rings of ended publishers that the topic keeps.
const RETAIN: usize = 3;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("busy", busy),
        ("batches", batches),
        ("brief", brief),
        ("reader", reader),
    ]);
}

/// Sends without a pause, one by one and in batches as chance has it. Says `sent` with how many now and then, and at the end; ends
/// at a line.
fn busy(given: &Given) {
    let bus = given.bus();
    let tag = given.get("tag");
    let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
    let lines = lines();
    let mut chance = Chance::seeded(u64::from(tag));
    let (mut buffers, mut sequence, mut told) = (vec![Vec::new(); 3 * DEPTH as usize], 0, 0);
    say("joined");
    while lines.try_recv().is_err() {
        let count = chance.of(1..buffers.len() as u64) as usize;
        for (buffer, sequence) in buffers[..count].iter_mut().zip(sequence..) {
            content(sequence, tag).write(buffer);
        }
        if count.is_multiple_of(2) {
            let batch = buffers[..count].iter().map(Vec::as_slice);
            publisher.publish_batch(batch).unwrap();
        } else {
            buffers[..count].iter().for_each(|bytes| {
                publisher.send(bytes).unwrap();
            });
        }
        sequence += count as u64;
        if sequence >= told + 5000 {
            told = sequence;
            say(format_args!("sent {sequence}"));
        }
    }
    drop(publisher);
    say(format_args!("sent {sequence}"));
}

/// Sends without a pause in batches of a whole ring, with as little work besides as can be: the number of each message, and when its
/// batch was begun, in nanoseconds. Ends at a line.
fn batches(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
    let lines = lines();
    let (mut batch, mut sequence) = (vec![[0_u8; 16]; LONG_DEPTH as usize], 0_u64);
    say("joined");
    while lines.try_recv().is_err() {
        let now = clock().to_le_bytes();
        for message in &mut batch {
            message[..8].copy_from_slice(&sequence.to_le_bytes());
            message[8..].copy_from_slice(&now);
            sequence += 1;
        }
        let batch = batch.iter().map(|message| &message[..]);
        publisher.publish_batch(batch).unwrap();
    }
}

fn content(sequence: u64, tag: u32) -> Content {
    Content {
        sequence,
        tag,
        note: 0,
    }
}

/// For each line `tag count` comes, sends as many, and says `sent`; at the next line it goes, and says `gone`.
fn brief(given: &Given) {
    let bus = given.bus();
    let mut bytes = Vec::new();
    while let Some(line) = hear() {
        let (tag, count) = line.split_once(' ').unwrap();
        let mut publisher = given.topic(&bus).bytes_publisher().unwrap();
        for sequence in 0..count.parse().unwrap() {
            content(sequence, tag.parse().unwrap()).write(&mut bytes);
            publisher.send(&bytes).unwrap();
        }
        say("sent");
        hear();
        drop(publisher);
        say("gone");
    }
}

/// Asks for history, holds the first message, and says `holding`.
fn reader(given: &Given) {
    let bus = given.bus();
    let topic = given.topic(&bus).history(KEEP);
    let subscriber = topic.bytes_subscriber().unwrap();
    let _message = subscriber.recv().unwrap();
    say("holding");
    hear();
}

struct Play {
    stage: Stage,
    _host: Process,
    bus: Bus,
}

impl Play {
    fn new() -> Self {
        let stage = Stage::new();
        let host = start_host(&stage.path);
        let bus = connect(&stage.path);
        Self {
            stage,
            _host: host,
            bus,
        }
    }

    fn start(&self, role: &str, tag: u32) -> Process {
        self.start_with(role, tag, DEPTH, KEEP)
    }

    fn start_with(&self, role: &str, tag: u32, depth: u32, keep: u32) -> Process {
        let settings: [(&str, &dyn std::fmt::Display); 6] = [
            ("socket", &self.stage.path.display()),
            ("tag", &tag),
            ("depth", &depth),
            ("stride", &256),
            ("keep", &keep),
            ("retain", &RETAIN),
        ];
        Process::start(role, &settings)
    }

    fn late(&self, history: u32) -> BytesSubscriber {
        let topic = self.bus.topic("t").unwrap().history(history);
        topic.end_with_publishers().bytes_subscriber().unwrap()
    }

    /// What who comes now gets of publishers that have all ended: tag, first and next sequence number.
    fn rest(&self, history: u32) -> Vec<(u32, u64, u64)> {
        let late = self.late(history);
        let mut ledger = Ledger::default();
        loop {
            match late.recv() {
                Ok(m) => drop(ledger.enter(m.publisher(), m.sequence(), m.bytes())),
                Err(Error::Ended { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(late.publishers().unwrap().is_empty());
        let accounts = ledger.accounts().iter();
        let mut rest: Vec<_> = accounts.map(|a| (a.tag, a.first, a.next)).collect();
        rest.sort_unstable();
        rest
    }
}

fn connect(path: &Path) -> Bus {
    let bus = Bus::builder("test").socket(path).embedded(false);
    bus.connect().unwrap()
}

#[test]
fn history_of_a_busy_publisher_goes_on_with_its_live_messages() {
    const JOINS: usize = 100;
    let play = Play::new();
    let mut busy = play.start_with("batches", 0, LONG_DEPTH, LONG_KEEP);
    busy.expect("joined");
    let mut chance = Chance::new("history_of_a_busy_publisher_goes_on_with_its_live_messages");
    // Messages that are known to be published.
    let mut before = 0;
    for join in 0..JOINS {
        let history = match chance.of(0..3) {
            0 => [0, 1, LONG_KEEP][join % 3],
            _ => chance.of(0..u64::from(LONG_KEEP)) as u32 + 1,
        };
        let late = play.late(history);
        let joined = clock();
        let (mut first, mut next, mut last_begun) = (None, 0, 0);
        for count in 1..=u64::from(history) + chance.of(1..200) {
            let m = late.recv_timeout(WATCHDOG).unwrap();
            let m = m.unwrap_or_else(|| panic!("history of {history} stops at {next}"));
            let (words, _) = m.bytes().as_chunks::<8>();
            let &[number, begun] = words else {
                panic!("{words:?}");
            };
            let sequence = m.sequence();
            assert!(
                first.is_none() || sequence == next,
                "{sequence}, not {next}"
            );
            assert_eq!(u64::from_le_bytes(number), sequence);
            first = first.or(Some(sequence));
            next = sequence + 1;
            if count == u64::from(history) {
                last_begun = u64::from_le_bytes(begun);
            }
        }
        let first = first.unwrap();
        // In its first moments a ring has less.
        assert!(
            first + u64::from(history) >= before || first == 0,
            "history of {history} begins at {first}, and {before} were published before"
        );
        // The last message of the history was there when the subscriber was.
        assert!(last_begun <= joined || first == 0, "history of {history}");
        before = next;
    }
    busy.tell("stop");
    println!("{JOINS} joins, {before} messages or more");
    busy.finish();
}

/// Nobody was there while it published: the broker has kept its ring.
#[test]
fn history_of_a_publisher_that_has_ended_is_what_it_sent_last() {
    let play = Play::new();
    let mut brief = play.start("brief", 0);
    for (tag, count) in [(1, 100_u64), (2, 5), (3, 0)] {
        brief.tell(&format!("{tag} {count}"));
        brief.expect("sent");
        brief.tell("go");
        brief.expect("gone");
    }
    assert_eq!(play.rest(KEEP), [(1, 84, 100), (2, 0, 5)]);
    assert_eq!(play.rest(1), [(1, 99, 100), (2, 4, 5)]);
    assert_eq!(play.rest(KEEP), [(1, 84, 100), (2, 0, 5)]);
    // Who asks for none waits for the next publisher.
    let late = play.late(0);
    assert!(late.try_recv().unwrap().is_none());
    assert!(late.publishers().unwrap().is_empty());
    brief.tell("4 1");
    brief.expect("sent");
    assert_eq!(Content::read(late.recv().unwrap().bytes()).unwrap().tag, 4);
    brief.tell("go");
    brief.expect("gone");
    brief.finish();
}

#[test]
fn history_of_a_publisher_that_was_killed_is_whole_up_to_its_last_message() {
    let play = Play::new();
    let mut chance = Chance::new("history_of_a_publisher_that_was_killed_is_whole");
    for tag in 1..=12_u32 {
        let mut busy = play.start("busy", tag);
        busy.expect("joined");
        let sent = (0..chance.of(1..4))
            .map(|_| busy.number("sent"))
            .last()
            .unwrap();
        busy.kill();
        busy.reap();
        // Whoever the broker took for alive still has ended by now, for all that it is asked by the kernel.
        let of = |rest: Vec<(u32, u64, u64)>| rest.into_iter().find(|r| r.0 == tag).unwrap();
        let (_, first, next) = of(play.rest(KEEP));
        assert_eq!(next - first, u64::from(KEEP));
        assert!(next >= sent, "{next} messages are there, {sent} were sent");
        for history in [1, 2, KEEP - 1] {
            let rest = play.rest(history);
            assert_eq!(rest.len(), RETAIN.min(tag as usize), "{rest:?}");
            assert_eq!(of(rest), (tag, next - u64::from(history), next));
        }
    }
}

/// Rings come and go under the same indices while some are kept, some are read, and a reader is killed.
#[test]
fn a_ring_that_is_kept_is_never_taken_for_another() {
    let play = Play::new();
    let mut chance = Chance::new("a_ring_that_is_kept_is_never_taken_for_another");
    let standing = connect(&play.stage.path);
    let topic = standing.topic("t").unwrap().history(KEEP).depth(DEPTH);
    let topic = topic.stride(256).keep(KEEP).retain(RETAIN as u32);
    let standing = topic.bytes_subscriber().unwrap();
    let (mut brief, mut ledger) = (play.start("brief", 0), Ledger::default());
    let mut ended = Vec::new();
    let mut readers: Vec<Process> = Vec::new();
    for tag in 1..=150_u32 {
        let count = chance.of(1..50);
        brief.tell(&format!("{tag} {count}"));
        brief.expect("sent");
        if chance.of(0..3) > 0 {
            // Else what it sent is read when it has ended.
            take(&standing, &mut ledger, tag, count);
        }
        brief.tell("go");
        brief.expect("gone");
        take(&standing, &mut ledger, tag, count);
        ended.push((tag, count));
        let history = chance.of(1..u64::from(KEEP) + 1);
        let last = &ended[ended.len().saturating_sub(RETAIN)..];
        let kept: Vec<_> = last
            .iter()
            .map(|&(tag, count)| (tag, count.saturating_sub(history), count))
            .collect();
        assert_eq!(play.rest(history as u32), kept);
        if tag % 10 == 0 {
            let mut reader = play.start("reader", 0);
            reader.expect("holding");
            readers.push(reader);
            if readers.len() > 3 {
                let mut gone = readers.remove(0);
                gone.kill();
                gone.reap();
            }
        }
    }
    readers.into_iter().for_each(Process::finish);
    brief.finish();
}

/// Takes all that one publisher sent.
fn take(subscriber: &BytesSubscriber, ledger: &mut Ledger, tag: u32, count: u64) {
    while ledger.of(tag).map_or(0, |account| account.next) < count {
        let m = subscriber.recv().unwrap();
        ledger.enter(m.publisher(), m.sequence(), m.bytes());
    }
    assert_eq!(ledger.of(tag).unwrap().first, 0);
}
