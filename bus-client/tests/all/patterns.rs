//! All topics that match a pattern, those that are there and those to come: nothing of a topic that appears later is missed, whoever
//! publishes, ends or is killed meanwhile; other types are skipped and said; what is gone is let go of.

use std::collections::HashMap;
use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::chance::Chance;
use crate::common::content::Content;
use crate::common::ledger::Ledger;
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, play, say};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect, told};
use bus_client::{Bus, Delivery, Error, PatternBytesSubscriber, PatternSubscriber};
use bus_testkit::needs;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("roamer", roamer),
        ("watcher", watcher),
        ("pusher", pusher),
    ]);
}

/// Opens one topic after another, sends some messages to each and goes on; says `sent` with the topic and how many after each, the last one
/// open still. Ends when it is told, or killed.
fn roamer(given: &Given) {
    let bus = given.bus();
    let tag: u32 = given.get("tag");
    let mut chance = Chance::seeded(u64::from(tag));
    let (mut bytes, mut open) = (Vec::new(), None);
    for n in 0..given.get::<u32>("count") {
        let topic = format!("roam/{tag}/{n}");
        let builder = bus.topic(&topic).unwrap().depth(64).stride(256);
        let mut publisher = builder.bytes_publisher().unwrap();
        let count = chance.of(0..200);
        for sequence in 0..count {
            let content = Content {
                sequence,
                tag: tag << 16 | n,
                note: 0,
            };
            content.write(&mut bytes);
            assert_eq!(publisher.send(&bytes).unwrap(), sequence);
        }
        say(format_args!("sent {topic} {count}"));
        // The one before goes now: two are open at a time.
        open = Some(publisher);
    }
    hear();
    drop(open);
}

/// Watches for numbers, and does nothing more.
fn watcher(given: &Given) {
    let bus = given.bus();
    let _all = bus.pattern_subscriber::<u64>("**").unwrap();
    say("watching");
    hear();
}

/// Fills its ring, says `full`, and then how it went on.
fn pusher(given: &Given) {
    let bus = given.bus();
    let topic = bus.topic(given.get::<String>("topic")).unwrap().depth(8);
    let mut publisher = topic.publisher::<u64>().unwrap();
    let error = loop {
        match publisher.try_send(&7) {
            Ok(_) => {}
            Err(error @ Error::Full { .. }) => break error,
            Err(error) => panic!("{error}"),
        }
    };
    say(format_args!("full {error}"));
    publisher.send(&8).unwrap();
    say("moved");
    hear();
}

struct Place {
    bus: Bus,
    _dir: tempfile::TempDir,
}

/// A broker in this process.
fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let bus = connect(&dir.path().join("bus.sock"), true).unwrap();
    Place { bus, _dir: dir }
}

/// The next message's topic and value, which is there.
fn next(all: &mut PatternSubscriber<u64>) -> (String, u64) {
    let message = all.recv_timeout(WATCHDOG).unwrap().expect("nothing came");
    (message.topic().to_owned(), message.to_native())
}

fn nothing(all: &mut PatternSubscriber<u64>) {
    let message = all.try_recv().unwrap();
    assert!(message.is_none(), "{message:?}");
}

/// The broker closes what nobody else has open, and says so: until then.
fn await_topics(count: usize, mut topics: impl FnMut() -> Vec<String>) {
    let deadline = Instant::now() + WATCHDOG;
    while topics().len() > count {
        assert!(Instant::now() < deadline, "{:?}", topics());
        thread::yield_now();
    }
}

#[test]
fn of_topics_that_are_there_the_live_messages_come_and_of_later_ones_all() {
    let place = place();
    let bus = &place.bus;
    let mut early = bus.publisher::<u64>("market/early").unwrap();
    early.send(&1).unwrap();
    let mut all = bus.pattern_subscriber::<u64>("market/*").unwrap();
    early.send(&2).unwrap();
    let mut late = bus.publisher::<u64>("market/late").unwrap();
    late.send(&3).unwrap();
    let mut other = bus.publisher::<u64>("weather/late").unwrap();
    let mut deep = bus.publisher::<u64>("market/eu/late").unwrap();
    other.send(&4).unwrap();
    deep.send(&5).unwrap();
    let mut got = [next(&mut all), next(&mut all)];
    got.sort();
    assert_eq!(got, [("market/early".into(), 2), ("market/late".into(), 3)]);
    nothing(&mut all);
    assert_eq!(all.topics().unwrap(), ["market/early", "market/late"]);

    let mut everything = bus.pattern_subscriber::<u64>("**").unwrap();
    let topics = [
        "market/early",
        "market/eu/late",
        "market/late",
        "weather/late",
    ];
    assert_eq!(everything.topics().unwrap(), topics);
    for publisher in [&mut early, &mut late, &mut other, &mut deep] {
        publisher.send(&6).unwrap();
    }
    let mut got: Vec<_> = (0..4).map(|_| next(&mut everything)).collect();
    got.sort();
    assert_eq!(got, topics.map(|topic| (topic.to_owned(), 6)));
    told(
        bus.pattern_subscriber::<u64>("market*").map(drop),
        &["market*", "whole part"],
    );
}

#[test]
fn other_types_are_skipped_and_said_as_long_as_they_are_there() {
    let place = place();
    let bus = &place.bus;
    let texts = bus.publisher::<String>("a/texts").unwrap();
    let mut all = bus.pattern_subscriber::<u64>("a/*").unwrap();
    let mut bytes = bus.bytes_publisher("a/bytes").unwrap();
    let mut numbers = bus.publisher::<u64>("a/numbers").unwrap();
    numbers.send(&1).unwrap();
    // Nobody keeps a place in a topic of another type: this never waits.
    for _ in 0..100_000 {
        bytes.try_send(b"x").unwrap();
    }
    assert_eq!(next(&mut all), ("a/numbers".into(), 1));
    let skipped = all.skipped().unwrap();
    let names: Vec<_> = skipped.iter().map(|s| s.topic.as_str()).collect();
    assert_eq!(names, ["a/texts", "a/bytes"]);
    assert!(skipped.iter().all(|s| s.why.contains("u64")), "{skipped:?}");
    let mut raw = bus.pattern_bytes_subscriber("a/*").unwrap();
    assert_eq!(raw.topics().unwrap(), ["a/bytes"]);
    bytes.send(b"y").unwrap();
    assert_eq!(raw.recv().unwrap().bytes(), b"y");
    drop(texts);
    drop(bytes);
    // What follows on the same connection is behind the end of those two.
    let mut more = bus.publisher::<u64>("a/more").unwrap();
    more.send(&2).unwrap();
    assert_eq!(next(&mut all), ("a/more".into(), 2));
    assert_eq!(all.skipped().unwrap(), []);
}

/// The subscriber makes no call while publishers come, fill their rings, and end.
#[test]
fn nothing_is_missed_of_a_topic_that_came_and_went_meanwhile() {
    let place = place();
    let bus = &place.bus;
    let mut all = bus.pattern_subscriber::<u64>("**").unwrap();
    for round in 0..3 {
        // Several publishers, one after the other, under one index or more.
        for n in 0..5 {
            let mut publisher = bus.topic("t").unwrap().depth(8).publisher::<u64>().unwrap();
            for k in 0..8 {
                assert_eq!(publisher.try_send(&(100 * round + 10 * n + k)).unwrap(), k);
            }
            let full = publisher.try_send(&0);
            told(full, &["full", "test", "8 messages behind"]);
        }
        let mut got: Vec<_> = (0..40).map(|_| next(&mut all).1).collect();
        got.sort_unstable();
        let sent = (0..5).flat_map(|n| (0..8).map(move |k| 100 * round + 10 * n + k));
        let sent: Vec<_> = sent.collect();
        assert_eq!(got, sent);
        nothing(&mut all);
        await_topics(0, || all.topics().unwrap());
    }
}

#[test]
fn a_place_that_is_taken_or_given_up_holds_nobody_up() {
    let place = place();
    let bus = &place.bus;
    let mut all = bus.pattern_subscriber::<u64>("**").unwrap();
    let mut publisher = bus.topic("t").unwrap().depth(8).publisher::<u64>().unwrap();
    assert_eq!(publisher.subscribers().unwrap(), [], "it has not come yet");
    for n in 0..8 {
        publisher.try_send(&n).unwrap();
    }
    assert!(matches!(publisher.try_send(&8), Err(Error::Full { .. })));
    assert_eq!(next(&mut all), ("t".into(), 0));
    assert_eq!(publisher.subscribers().unwrap().len(), 1);
    publisher.try_send(&8).unwrap();
    assert!(matches!(publisher.try_send(&9), Err(Error::Full { .. })));
    (1..9).for_each(|n| assert_eq!(next(&mut all), ("t".into(), n)));
    let mut unread = bus.topic("u").unwrap().depth(8).publisher::<u64>().unwrap();
    for n in 0..8 {
        unread.try_send(&n).unwrap();
    }
    drop(all);
    for n in 0..100 {
        unread.send_timeout(&n, WATCHDOG).unwrap();
    }
    for n in 0..100 {
        publisher.send_timeout(&n, WATCHDOG).unwrap();
    }
}

/// Publishers that go past who does not keep up go past a place as well: then what is still there comes, up to the last.
#[test]
fn lossy_and_evicting_topics_wait_for_no_place() {
    let place = place();
    let bus = &place.bus;
    let mut all = bus.pattern_subscriber::<u64>("**").unwrap();
    let evict = Delivery::evict_after(Duration::from_millis(1));
    for (name, delivery) in [("lossy", Delivery::Lossy), ("evicting", evict)] {
        let topic = bus.topic(name).unwrap().depth(16).delivery(delivery);
        let mut publisher = topic.publisher::<u64>().unwrap();
        for n in 0..1000 {
            publisher.send_timeout(&n, WATCHDOG).unwrap();
        }
        let (topic, first) = next(&mut all);
        assert_eq!(topic, name);
        assert!((900..1000).contains(&first), "{first}");
        (first + 1..1000).for_each(|n| assert_eq!(next(&mut all), (name.into(), n)));
        nothing(&mut all);
        publisher.send(&1000).unwrap();
        assert_eq!(next(&mut all), (name.into(), 1000));
    }
}

#[test]
fn every_one_of_two_hundred_topics_gets_its_turn() {
    if !needs::descriptors(4_096) {
        return;
    }
    const TOPICS: u64 = 200;
    let place = place();
    let bus = &place.bus;
    let mut all = bus.pattern_subscriber::<u64>("n/**").unwrap();
    let open = |n| {
        let topic = bus.topic(format!("n/{n}")).unwrap().depth(64);
        topic.publisher::<u64>().unwrap()
    };
    let mut publishers: Vec<_> = (0..TOPICS).map(open).collect();
    for publisher in &mut publishers {
        publisher.send(&1).unwrap();
    }
    let mut got: Vec<_> = (0..TOPICS).map(|_| next(&mut all).0).collect();
    got.sort();
    got.dedup();
    assert_eq!(got.len() as u64, TOPICS);
    assert_eq!(all.topics().unwrap().len() as u64, TOPICS);
    // One that never runs dry keeps nobody from its turn.
    let busy = &mut publishers[7];
    for _ in 0..64 {
        busy.try_send(&2).unwrap();
    }
    publishers[100].send(&3).unwrap();
    let mut before = 0;
    loop {
        let (topic, value) = next(&mut all);
        match &*topic {
            "n/7" => {
                assert_eq!(value, 2);
                before += 1;
                publishers[7].send(&2).unwrap();
            }
            "n/100" => break,
            other => panic!("{other}"),
        }
        assert!(before <= 64, "n/100 never gets its turn");
    }
    drop(publishers);
    (0..64).for_each(|_| assert_eq!(next(&mut all).0, "n/7"));
    assert!(all.recv_timeout(Duration::ZERO).unwrap().is_none());
    await_topics(0, || all.topics().unwrap());
}

/// A wait ends with a message of a topic that did not exist when it began.
#[test]
fn who_waits_is_woken_by_a_topic_that_appears() {
    let place = place();
    let mut all = place.bus.pattern_subscriber::<u64>("**").unwrap();
    thread::scope(|scope| {
        for n in 0..20 {
            let bus = place.bus.clone();
            let (waiting, go) = std::sync::mpsc::channel();
            scope.spawn(move || {
                go.recv().unwrap();
                let mut publisher = bus.publisher::<u64>(format!("t{n}")).unwrap();
                publisher.send(&n).unwrap();
            });
            waiting.send(()).unwrap();
            assert_eq!(next(&mut all), (format!("t{n}"), n));
        }
    });
}

/// However many topics are followed, a wait for what does not come is one sleep after another of the longest kind, and not a poll.
#[test]
fn who_waits_on_many_quiet_topics_sleeps() {
    if !needs::descriptors(4_096) {
        return;
    }
    let place = place();
    let bus = &place.bus;
    let mut all = bus.pattern_subscriber::<u64>("**").unwrap();
    let open = |n| {
        bus.topic(format!("t{n}"))
            .unwrap()
            .depth(8)
            .publisher::<u64>()
    };
    let mut publishers: Vec<_> = (0..150).map(|n| open(n).unwrap()).collect();
    publishers[77].send(&7).unwrap();
    assert_eq!(next(&mut all), ("t77".into(), 7));
    // Once parked, they stay so.
    assert!(
        all.recv_timeout(Duration::from_millis(1))
            .unwrap()
            .is_none()
    );
    let sleeps = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
        usage.voluntary_context_switches()
    };
    let before = sleeps();
    assert!(
        all.recv_timeout(Duration::from_millis(300))
            .unwrap()
            .is_none()
    );
    let slept = sleeps() - before;
    assert!((1..30).contains(&slept), "{slept} sleeps");
    for n in [3, 149, 77] {
        thread::scope(|scope| {
            let publisher = &mut publishers[n];
            scope.spawn(|| publisher.send(&8).unwrap());
            assert_eq!(next(&mut all), (format!("t{n}"), 8));
        });
    }
}

fn start(stage: &Stage, role: &str, settings: &[(&str, &dyn Display)]) -> Process {
    let socket = stage.path.display();
    let mut given: Vec<(&str, &dyn Display)> = vec![("socket", &socket)];
    given.extend_from_slice(settings);
    Process::start(role, &given)
}

/// Takes what comes into the ledger, until as many messages of each topic are there as its publisher said.
fn take_all(all: &mut PatternBytesSubscriber, ledger: &mut Ledger, said: &HashMap<u32, u64>) {
    let missing = |ledger: &Ledger| {
        let count = |tag: &u32| ledger.of(*tag).map_or(0, |account| account.next);
        said.iter().any(|(tag, sent)| count(tag) < *sent)
    };
    while missing(ledger) {
        let m = all.recv_timeout(WATCHDOG).unwrap().expect("nothing came");
        let content = ledger.enter(m.publisher(), m.sequence(), m.bytes());
        let (tag, n) = (content.tag >> 16, content.tag & 0xffff);
        assert_eq!(m.topic(), format!("roam/{tag}/{n}"));
    }
}

/// Hears of one topic more from a roamer: its tag, and how many messages it got.
fn hear_of(roamer: &mut Process) -> (u32, u64) {
    let said = roamer.expect("sent");
    let (topic, count) = said.split_once(' ').unwrap();
    let [_, tag, n] = topic.split('/').collect::<Vec<_>>()[..] else {
        panic!("{said}");
    };
    let (tag, n): (u32, u32) = (tag.parse().unwrap(), n.parse().unwrap());
    (tag << 16 | n, count.parse().unwrap())
}

#[test]
fn topics_of_other_processes_come_whole_from_their_first_message() {
    const TOPICS: u32 = 60;
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut all = bus.pattern_bytes_subscriber("roam/**").unwrap();
    let mut roamers =
        [1, 2, 3].map(|tag| start(&stage, "roamer", &[("tag", &tag), ("count", &TOPICS)]));
    let (mut ledger, mut said) = (Ledger::default(), HashMap::new());
    // They stop at full rings, so somebody has to read while they speak.
    thread::scope(|scope| {
        let heard: Vec<_> = roamers
            .iter_mut()
            .map(|roamer| scope.spawn(|| (0..TOPICS).map(|_| hear_of(roamer)).collect::<Vec<_>>()))
            .collect();
        while !heard.iter().all(thread::ScopedJoinHandle::is_finished) {
            if let Some(m) = all.recv_timeout(Duration::from_millis(1)).unwrap() {
                ledger.enter(m.publisher(), m.sequence(), m.bytes());
            }
        }
        said.extend(heard.into_iter().flat_map(|thread| thread.join().unwrap()));
    });
    take_all(&mut all, &mut ledger, &said);
    assert!(ledger.accounts().iter().all(|account| account.first == 0));
    assert_eq!(ledger.count(), said.values().sum::<u64>());
    assert!(all.try_recv().unwrap().is_none());
    await_topics(3, || all.topics().unwrap());
    assert_eq!(all.topics().unwrap().len(), 3, "the last of each is open");
    roamers.into_iter().for_each(Process::finish);
    host.finish();
}

#[test]
fn what_a_publisher_said_before_it_was_killed_comes_whole() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut all = bus.pattern_bytes_subscriber("roam/*/*").unwrap();
    let mut chance = Chance::new("what_a_publisher_said_before_it_was_killed_comes_whole");
    for tag in 1..=15_u32 {
        let mut roamer = start(&stage, "roamer", &[("tag", &tag), ("count", &1000)]);
        let (mut ledger, mut said) = (Ledger::default(), HashMap::new());
        let ahead = chance.of(1..6);
        thread::scope(|scope| {
            let heard = scope.spawn(|| {
                let said: Vec<_> = (0..ahead).map(|_| hear_of(&mut roamer)).collect();
                roamer.kill();
                said
            });
            while !heard.is_finished() {
                if let Some(m) = all.recv_timeout(Duration::from_millis(1)).unwrap() {
                    ledger.enter(m.publisher(), m.sequence(), m.bytes());
                }
            }
            said.extend(heard.join().unwrap());
        });
        roamer.reap();
        take_all(&mut all, &mut ledger, &said);
        assert!(ledger.accounts().iter().all(|account| account.first == 0));
        // Then all that it had begun is let go of.
        let deadline = Instant::now() + WATCHDOG;
        while !all.topics().unwrap().is_empty() {
            if let Some(m) = all.try_recv().unwrap() {
                ledger.enter(m.publisher(), m.sequence(), m.bytes());
            }
            assert!(Instant::now() < deadline, "{:?}", all.topics());
        }
    }
    host.finish();
}

/// A watcher that stands still is a subscriber that does: publishers of what it watches for wait, named, others do not; its end
/// frees them.
#[test]
fn a_stopped_watcher_is_named_and_holds_up_only_its_own_type_until_it_is_gone() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut watcher = start(&stage, "watcher", &[]);
    watcher.expect("watching");
    let pid = Pid::from_raw(watcher.pid() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    let bus = connect(&stage.path, false).unwrap();
    let mut other = bus
        .topic("texts")
        .unwrap()
        .depth(8)
        .publisher::<u32>()
        .unwrap();
    for n in 0..1000 {
        other.try_send(&n).unwrap();
    }
    let mut pusher = start(&stage, "pusher", &[("topic", &"t")]);
    let full = pusher.expect("full");
    assert!(
        full.contains("watcher") && full.contains("8 messages behind"),
        "{full}"
    );
    watcher.kill();
    pusher.expect("moved");
    pusher.finish();
    watcher.reap();
    host.finish();
}

/// While there is no broker nobody can take a place: for five seconds it stays, and then it is given up. What is followed goes on.
#[test]
fn a_place_is_given_up_when_no_broker_comes() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut all = bus.pattern_subscriber::<u64>("a/*").unwrap();
    let mut followed = bus.publisher::<u64>("a/followed").unwrap();
    followed.send(&1).unwrap();
    assert_eq!(next(&mut all), ("a/followed".into(), 1));
    let mut pusher = start(&stage, "pusher", &[("topic", &"a/new")]);
    pusher.expect("full");
    assert!(all.watches());
    let killed = host.kill();
    host.reap();
    followed.send(&2).unwrap();
    // The topic that appeared before the end may be told of still, and cannot be opened.
    assert_eq!(next(&mut all), ("a/followed".into(), 2));
    pusher.expect("moved");
    let moved = killed.elapsed();
    assert!(moved >= Duration::from_secs(4), "given up after {moved:?}");
    assert!(!all.watches());
    pusher.finish();
}

#[test]
fn who_is_evicted_from_one_topic_goes_on_with_the_others() {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let mut all = bus.pattern_bytes_subscriber("t/*").unwrap();
    let evicting = Delivery::evict_after(Duration::from_millis(1));
    let topic = bus.topic("t/a").unwrap().delivery(evicting).depth(2);
    let mut hasty = topic.bytes_publisher().unwrap();
    let mut patient = bus.bytes_publisher("t/b").unwrap();
    hasty.send(b"first").unwrap();
    assert_eq!(all.recv().unwrap().topic(), "t/a");
    for _ in 0..20 {
        hasty.send(b"more").unwrap();
    }
    patient.send(b"on").unwrap();
    let mut told = 0;
    loop {
        match all.recv_timeout(WATCHDOG) {
            Ok(message) if message.as_ref().unwrap().topic() == "t/b" => break,
            Ok(_) => {}
            Err(Error::Evicted { .. }) => told += 1,
            Err(error) => panic!("{error}"),
        }
    }
    patient.send(b"and on").unwrap();
    while let Err(error) = all
        .recv_timeout(WATCHDOG)
        .map(|m| assert_eq!(m.unwrap().topic(), "t/b"))
    {
        assert!(matches!(error, Error::Evicted { .. }), "{error}");
        told += 1;
    }
    assert_eq!(told, 1);
    let skipped = all.skipped().unwrap();
    assert_eq!(skipped.len(), 1);
}

/// Class 23: "lossless" that loses. A watcher that stands still is owed the rings of 256 topics; what it loses beyond those it is told.
#[test]
fn what_a_watcher_that_stood_still_has_lost_it_is_told() {
    if !needs::descriptors(2_048) {
        return;
    }
    const TOPICS: u32 = bus_daemon::MAX_IDLE_TOPICS as u32 + 3;
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut watcher: PatternSubscriber<u64> = bus.pattern_subscriber("w/*").unwrap();
    for n in 0..TOPICS {
        let topic = bus.topic(format!("w/{n}")).unwrap().depth(4);
        topic
            .publisher::<u64>()
            .unwrap()
            .send(&u64::from(n))
            .unwrap();
    }
    // The last one is there when the broker has heard of the end of all before.
    let last = bus.topic("w/last").unwrap().depth(4).publisher::<u64>();
    let mut got = Vec::new();
    while let Some(message) = watcher.recv_timeout(Duration::from_millis(200)).unwrap() {
        got.push(message.to_native() as u32);
    }
    got.sort_unstable();
    let lost = watcher.skipped().unwrap();
    assert_eq!(got.len() + lost.len(), TOPICS as usize);
    assert!(!lost.is_empty(), "all were kept, so nothing was tested");
    for skipped in lost {
        let number = skipped.topic.strip_prefix("w/").unwrap().parse().unwrap();
        assert!(got.binary_search(&number).is_err(), "{skipped:?}");
        assert!(skipped.why.contains("is lost"), "{skipped:?}");
    }
    drop(last);
    drop(watcher);
    host.finish();
}
