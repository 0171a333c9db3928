//! Brokers that are killed and started again under load: who publishes and receives goes on, who comes meanwhile joins after it, and nobody
//! loses or doubles a message.
//!
//! Classes of bugs that this is to catch: 17, a restart that drops every client; 23, messages lost to who has just joined; 8, a member that is
//! gone and gates for ever; 14, numbers used again.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::content::Content;
use crate::common::ledger::Ledger;
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, lines, play, say};
use crate::common::roles::{HOST, clock, start_host};
use crate::common::stage::{Stage, connect};
use crate::common::stops::{await_asleep, go_on, stop};
use bus_client::{BytesPublisher, Delivery, Error, Selector};

/// Times that the broker is killed under load.
const KILLS: u32 = 60;
/// Slots of each ring.
const DEPTH: u32 = 64;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("talker", talker),
        ("listener", listener),
        ("sleeper", sleeper),
        ("member", member),
        ("onlooker", onlooker),
    ]);
}

fn content(sequence: u64, tag: u32) -> Content {
    Content {
        sequence,
        tag,
        note: 0,
    }
}

/// Publishes as fast as it may, whoever listens, until it hears a line; then says `sent` with how many. Each message ends with the time of its
/// sending.
fn talker(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).depth(DEPTH).bytes_publisher().unwrap();
    let (tag, lines) = (given.get("tag"), lines());
    say("joined");
    let (mut sent, mut bytes) = (0, Vec::new());
    while lines.try_recv().is_err() {
        content(sent, tag).write(&mut bytes);
        bytes.extend_from_slice(&clock().to_le_bytes());
        assert_eq!(publisher.send(&bytes).unwrap(), sent);
        sent += 1;
    }
    say(format_args!("sent {sent}"));
}

/// The message of a talker, and when it was sent.
fn timed(bytes: &[u8]) -> (&[u8], u64) {
    let (content, time) = bytes.split_last_chunk().unwrap();
    (content, u64::from_le_bytes(*time))
}

/// Receives from so many publishers until they have ended; says `received` with the number of messages of each, in the order of their tags.
fn listener(given: &Given) {
    let bus = given.bus();
    let topic = given.topic(&bus).depth(DEPTH).end_with_publishers();
    let subscriber = topic.bytes_subscriber().unwrap();
    let mut selector = Selector::new().unwrap();
    // Every second one is parked when it waits.
    if given.get::<u32>("parks") > 0 {
        selector.add(&subscriber).unwrap();
    }
    let parks = given.get::<u32>("parks") > 0;
    say("joined");
    let mut ledger = Ledger::default();
    loop {
        let received = if parks {
            selector.wait().unwrap();
            subscriber.try_recv()
        } else {
            subscriber.recv().map(Some)
        };
        match received {
            Ok(Some(message)) => {
                let (bytes, _) = timed(message.bytes());
                ledger.enter(message.publisher(), message.sequence(), bytes);
            }
            Ok(None) => {}
            Err(Error::Ended { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let mut accounts = ledger.accounts().to_vec();
    accounts.sort_by_key(|account| account.tag);
    assert!(accounts.iter().all(|account| account.first == 0));
    let counts: Vec<_> = accounts.iter().map(|a| a.next.to_string()).collect();
    say(format_args!("received {}", counts.join(" ")));
}

fn start(stage: &Stage, role: &str, settings: &[(&str, &dyn std::fmt::Display)]) -> Process {
    let path = stage.path.display();
    let mut all: Vec<(&str, &dyn std::fmt::Display)> = vec![("socket", &path)];
    all.extend(settings);
    Process::start(role, &all)
}

/// Kills the broker and starts another one.
fn restart(stage: &Stage, host: &mut Process) {
    kill(host);
    *host = start_host(&stage.path);
}

fn kill(process: &mut Process) {
    process.kill();
    process.reap();
}

/// Descriptors of this process.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn who_publishes_and_receives_goes_on_when_brokers_are_killed_and_newcomers_miss_nothing() {
    let mut onlooker = Process::start("onlooker", &[]);
    println!("{}", onlooker.expect("held"));
    onlooker.finish();
}

/// Kills brokers while others publish and receive. It counts its descriptors, so that it is a process of its own.
fn onlooker(_: &Given) {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let mut listeners: Vec<_> = (0..2)
        .map(|parks| start(&stage, "listener", &[("parks", &parks)]))
        .collect();
    listeners
        .iter_mut()
        .for_each(|one| drop(one.expect("joined")));
    let mut talkers: Vec<_> = (0..2)
        .map(|tag| start(&stage, "talker", &[("tag", &tag)]))
        .collect();
    talkers
        .iter_mut()
        .for_each(|one| drop(one.expect("joined")));

    let bus = connect(&stage.path, false).unwrap();
    let topic = || bus.topic("t").unwrap().depth(DEPTH);
    let steady = topic().bytes_subscriber().unwrap();
    // By tag, and number since the first: when it was sent.
    let mut times = [Vec::new(), Vec::new()];
    let mut ledger = Ledger::default();
    let mut starts = Vec::new();
    let (mut slowest, mut flat) = (Duration::ZERO, None);
    for round in 0..KILLS {
        kill(&mut host);
        // It comes while no broker is there.
        let newcomer = std::thread::scope(|scope| {
            let opened = scope.spawn(|| topic().bytes_subscriber().unwrap());
            host = start_host(&stage.path);
            let began = Instant::now();
            // The talkers wait for who does not read.
            while !opened.is_finished() {
                receive(&steady, &mut ledger, &mut times);
            }
            slowest = slowest.max(began.elapsed());
            opened.join().unwrap()
        });
        let joined = clock();
        let mut first = [None, None];
        while first.contains(&None) {
            receive(&steady, &mut ledger, &mut times);
            if let Some(message) = newcomer.try_recv().unwrap() {
                let tag = Content::read(timed(message.bytes()).0).unwrap().tag;
                first[tag as usize].get_or_insert(message.sequence());
            }
        }
        starts.push((round, joined, first));
        drop(newcomer);
        let now = descriptors();
        let before = *flat.get_or_insert(now);
        // The pipes of the broker before may still be there.
        assert!(now <= before + 8, "{before} descriptors became {now}");
    }
    talkers.iter_mut().for_each(|one| one.tell("stop"));
    let sent: Vec<u64> = std::thread::scope(|scope| {
        let sent = scope.spawn(|| talkers.iter_mut().map(|one| one.number("sent")).collect());
        while !sent.is_finished() {
            receive(&steady, &mut ledger, &mut times);
        }
        sent.join().unwrap()
    });
    let all_of = |ledger: &Ledger, tag: u32| ledger.of(tag).unwrap().next == sent[tag as usize];
    while !(all_of(&ledger, 0) && all_of(&ledger, 1)) {
        receive(&steady, &mut ledger, &mut times);
    }
    for one in &mut listeners {
        let received = one.expect("received");
        assert_eq!(received, format!("{} {}", sent[0], sent[1]));
    }
    // Of what it did not receive, nothing was sent after it had come.
    for (round, joined, first) in starts {
        for (tag, first) in (0..).zip(first) {
            let since = ledger.of(tag).unwrap().first;
            // What came before the steady one has seen anything is out of sight.
            let Some(before) = (first.unwrap() - since).checked_sub(1) else {
                continue;
            };
            let time = times[tag as usize][before as usize];
            assert!(time <= joined, "round {round}: missed {before} of {tag}");
        }
    }
    assert!(
        slowest < Duration::from_secs(2),
        "somebody was waited for in vain"
    );
    for one in talkers.into_iter().chain(listeners) {
        one.finish();
    }
    host.finish();
    say(format_args!(
        "held {KILLS} brokers killed, {sent:?} messages, the slowest newcomer took {slowest:?}"
    ));
}

fn receive(from: &bus_client::BytesSubscriber, ledger: &mut Ledger, times: &mut [Vec<u64>; 2]) {
    for _ in 0..DEPTH {
        let Some(message) = from.try_recv().unwrap() else {
            return;
        };
        let (bytes, time) = timed(message.bytes());
        let content = ledger.enter(message.publisher(), message.sequence(), bytes);
        times[content.tag as usize].push(time);
    }
}

/// Sleeps in the way that it is told, each time that it hears a line; says `slept` when that is over.
fn sleeper(given: &Given) {
    let bus = given.bus();
    let topic = || bus.topic("t").unwrap().depth(2);
    match given.get::<String>("wait").as_str() {
        "message" => {
            let subscriber = topic().bytes_subscriber().unwrap();
            say("joined");
            assert_eq!(subscriber.recv().unwrap().bytes(), b"at last");
        }
        "selector" => {
            let subscriber = topic().bytes_subscriber().unwrap();
            let mut selector = Selector::new().unwrap();
            selector.add(&subscriber).unwrap();
            say("joined");
            while subscriber.try_recv().unwrap().is_none() {
                selector.wait().unwrap();
            }
        }
        "pattern" => {
            let mut all = bus.pattern_bytes_subscriber("*").unwrap();
            say("joined");
            assert_eq!(all.recv().unwrap().bytes(), b"at last");
        }
        "publishers" => {
            let subscriber = topic().bytes_subscriber().unwrap();
            say("joined");
            subscriber.wait_for_publishers(1, None).unwrap();
        }
        "subscribers" => {
            let mut publisher = topic().bytes_publisher().unwrap();
            say("joined");
            publisher.wait_for_subscribers(1, None).unwrap();
            publisher.send(b"at last").unwrap();
            say("slept");
            assert_eq!(hear(), None);
            return;
        }
        "room" => {
            let mut publisher = topic().bytes_publisher().unwrap();
            publisher.wait_for_subscribers(1, None).unwrap();
            say("joined");
            for _ in 0..3 {
                publisher.send(b"at last").unwrap();
            }
        }
        wait => panic!("no such wait: {wait}"),
    }
    say("slept");
    assert_eq!(hear(), None);
}

/// Class 13 of the field notes: a lost wake-up. Who sleeps while brokers come and go is woken by what it sleeps for.
#[test]
fn whoever_sleeps_in_whatever_way_is_woken_by_what_comes_after_the_restart() {
    for wait in [
        "message",
        "selector",
        "pattern",
        "publishers",
        "subscribers",
        "room",
    ] {
        let stage = Stage::new();
        let mut host = start_host(&stage.path);
        let bus = connect(&stage.path, false).unwrap();
        let topic = || bus.topic("t").unwrap().depth(2);
        let reader = (wait == "room").then(|| topic().bytes_subscriber().unwrap());
        let mut sleeper = start(&stage, "sleeper", &[("wait", &wait), ("spin", &0)]);
        sleeper.expect("joined");
        if !["selector", "pattern"].contains(&wait) {
            await_asleep(&sleeper);
        }
        for _ in 0..3 {
            restart(&stage, &mut host);
        }
        match wait {
            "room" => {
                let reader = reader.unwrap();
                while reader.recv_timeout(Duration::ZERO).unwrap().is_some() {}
                sleeper.expect("slept");
            }
            "subscribers" => {
                let subscriber = topic().bytes_subscriber().unwrap();
                sleeper.expect("slept");
                let message = subscriber.recv_timeout(WATCHDOG).unwrap();
                assert_eq!(message.unwrap().bytes(), b"at last");
            }
            _ => {
                let mut publisher = topic().bytes_publisher().unwrap();
                publisher.send(b"at last").unwrap();
                sleeper.expect("slept");
            }
        }
        sleeper.finish();
        host.finish();
    }
}

/// Keeps a publisher and a subscriber; answers each line.
fn member(given: &Given) {
    let bus = given.bus();
    let mut publisher = bus.bytes_publisher("t").unwrap();
    let subscriber = bus.bytes_subscriber("t").unwrap();
    say("joined");
    while let Some(line) = hear() {
        match line.as_str() {
            "send" => match publisher.try_send(b"message") {
                Ok(_) => say("sent"),
                Err(error) => say(format_args!("refused {error}")),
            },
            "receive" => match subscriber.try_recv() {
                Ok(message) => say(format_args!("received {}", message.is_some())),
                Err(error) => say(format_args!("refused {error}")),
            },
            line => panic!("what is {line:?}?"),
        }
    }
}

#[test]
fn who_comes_back_late_says_so_and_can_do_no_harm() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let mut member = start(&stage, "member", &[]);
    member.expect("joined");
    stop(&member);
    restart(&stage, &mut host);
    let bus = connect(&stage.path, false).unwrap();
    let began = Instant::now();
    let subscriber = bus.bytes_subscriber("t").unwrap();
    let mut publisher = bus.bytes_publisher("t").unwrap();
    let waited = began.elapsed();
    publisher.send(b"without it").unwrap();
    assert_eq!(subscriber.recv().unwrap().bytes(), b"without it");
    go_on(&member);
    let deadline = Instant::now() + WATCHDOG;
    for request in ["send", "receive"] {
        loop {
            member.tell(request);
            let said = member.await_word("");
            if said.starts_with("refused ") && said.contains("restarted") {
                break;
            }
            assert!(Instant::now() < deadline, "it never says that it came late");
        }
    }
    println!("newcomers waited {waited:?}");
    // Nobody has told the broker of the member: it is waited for as long as for any that is unknown.
    assert!(
        waited >= Duration::from_millis(100),
        "nobody was waited for"
    );
    member.finish();
    host.finish();
}

#[test]
fn a_handle_that_is_dropped_while_no_broker_is_there_holds_nobody_up() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let topic = || bus.topic("t").unwrap().depth(2);
    let mut stays = topic().bytes_publisher().unwrap();
    let dropped = topic().bytes_subscriber().unwrap();
    let gone = topic().bytes_publisher().unwrap();
    kill(&mut host);
    drop(dropped);
    drop(gone);
    host = start_host(&stage.path);
    let began = Instant::now();
    let subscriber = topic().bytes_subscriber().unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "somebody was waited for"
    );
    assert_eq!(subscriber.publishers().unwrap().len(), 1);
    assert_eq!(stays.subscribers().unwrap().len(), 1);
    for _ in 0..2 {
        stays.try_send(b"room").unwrap();
    }
    drop((subscriber, stays));
    host.finish();
}

#[test]
fn a_process_has_one_thread_of_the_library_for_all_its_handles() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    // Others in this process have threads of their own: in a process of its own this counts.
    let mut counting = start(&stage, "member", &[]);
    counting.expect("joined");
    let comm =
        |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let tasks = fs::read_dir(format!("/proc/{}/task", counting.pid())).unwrap();
    let names: Vec<_> = tasks.map(|task| comm(task.unwrap())).collect();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.trim() == "bus-session")
            .count(),
        1
    );
    counting.finish();
    host.finish();
}

fn fill(publisher: &mut BytesPublisher, tag: u32, range: std::ops::Range<u64>) {
    let mut bytes = Vec::new();
    for sequence in range {
        content(sequence, tag).write(&mut bytes);
        assert_eq!(publisher.send_timeout(&bytes, WATCHDOG).unwrap(), sequence);
    }
}

#[test]
fn history_of_live_publishers_is_there_after_a_restart() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let topic = || bus.topic("t").unwrap().depth(DEPTH).keep(16);
    let mut publisher = topic().bytes_publisher().unwrap();
    fill(&mut publisher, 1, 0..40);
    restart(&stage, &mut host);
    let subscriber = topic().history(10).bytes_subscriber().unwrap();
    for sequence in 30..40 {
        let message = subscriber.recv_timeout(WATCHDOG).unwrap().unwrap();
        assert_eq!(message.sequence(), sequence);
    }
    fill(&mut publisher, 1, 40..41);
    assert_eq!(subscriber.recv().unwrap().sequence(), 40);
    host.finish();
}

#[test]
fn states_are_there_after_a_restart() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut writer = bus.state_writer::<u64>("s").unwrap();
    writer.set(&7).unwrap();
    let mut old = bus.state::<u64>("s").unwrap();
    restart(&stage, &mut host);
    let mut new = bus.state::<u64>("s").unwrap();
    assert_eq!(new.get().unwrap().map(|value| value.to_native()), Some(7));
    writer.set(&8).unwrap();
    for state in [&mut old, &mut new] {
        assert_eq!(state.get().unwrap().map(|value| value.to_native()), Some(8));
    }
    host.finish();
}

/// Each broker numbers writers from a number by chance: a later writer may have a lower one.
#[test]
fn a_reader_of_a_state_sees_writers_that_come_after_a_restart() {
    const ROUNDS: u64 = 8;
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut state = bus.state::<u64>("s").unwrap();
    let mut keyed = bus.keyed_state::<u32, u64>("k").unwrap();
    for round in 0..ROUNDS {
        let mut writer = bus.state_writer::<u64>("s").unwrap();
        let mut keyed_writer = bus.keyed_state_writer::<u32, u64>("k").unwrap();
        writer.set(&round).unwrap();
        keyed_writer.set(1, round).unwrap();
        let seen = state.get().unwrap().map(|value| value.to_native());
        assert_eq!(seen, Some(round));
        let seen = keyed.get(&1).unwrap().map(|value| value.to_native());
        assert_eq!(seen, Some(round));
        drop((writer, keyed_writer));
        restart(&stage, &mut host);
    }
    host.finish();
}

#[test]
fn topics_whose_publishers_go_past_are_as_they_were() {
    for delivery in [
        Delivery::Lossy,
        Delivery::evict_after(Duration::from_millis(5)),
    ] {
        let stage = Stage::new();
        let mut host = start_host(&stage.path);
        let bus = connect(&stage.path, false).unwrap();
        let topic = || bus.topic("t").unwrap().depth(32).delivery(delivery);
        let mut publisher = topic().bytes_publisher().unwrap();
        let subscriber = topic().bytes_subscriber().unwrap();
        let held = {
            fill(&mut publisher, 1, 0..1);
            subscriber.recv().unwrap().hold()
        };
        restart(&stage, &mut host);
        fill(&mut publisher, 1, 1..500);
        Content::read(held.bytes()).unwrap();
        match delivery {
            Delivery::Lossy => {
                while let Some(m) = subscriber.try_recv().unwrap() {
                    Content::read(m.bytes()).unwrap();
                }
                assert!(subscriber.lost() > 0);
            }
            _ => loop {
                match subscriber.try_recv() {
                    Ok(Some(_)) => {}
                    Err(Error::Evicted { .. }) => break,
                    other => panic!("{:?}", other.map(|m| m.is_some())),
                }
            },
        }
        // A newcomer gets what comes.
        let new = topic().bytes_subscriber().unwrap();
        fill(&mut publisher, 1, 500..501);
        assert_eq!(new.recv().unwrap().sequence(), 500);
        host.finish();
    }
}

#[test]
fn patterns_go_on_with_topics_that_were_there_and_those_to_come() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut all = bus.pattern_subscriber::<u64>("a/*").unwrap();
    let mut old = bus.publisher::<u64>("a/old").unwrap();
    old.send(&1).unwrap();
    let mut next = || {
        let message = all.recv_timeout(WATCHDOG).unwrap().unwrap();
        (message.topic().to_owned(), message.to_native())
    };
    assert_eq!(next(), ("a/old".into(), 1));
    for round in 0..3 {
        restart(&stage, &mut host);
        old.send(&round).unwrap();
        assert_eq!(next(), ("a/old".into(), round));
        let name = format!("a/new{round}");
        let mut new = bus.publisher::<u64>(name.as_str()).unwrap();
        new.send(&round).unwrap();
        drop(new);
        assert_eq!(next(), (name, round));
    }
    assert!(all.watches());
    assert_eq!(all.skipped().unwrap(), []);
    host.finish();
}

#[test]
fn descriptors_stay_as_many_across_restarts_for_who_never_calls() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let mut member = start(&stage, "member", &[]);
    member.expect("joined");
    let count = || {
        fs::read_dir(format!("/proc/{}/fd", member.pid()))
            .unwrap()
            .count()
    };
    let bus = connect(&stage.path, false).unwrap();
    let mut counts = Vec::new();
    for _ in 0..10 {
        restart(&stage, &mut host);
        // Who joins, joins after all that were there.
        let _newcomer = bus.bytes_subscriber("t").unwrap();
        counts.push(count());
    }
    println!("{counts:?}");
    // One that came and went may not have been told of as gone yet.
    assert!(counts[9] <= counts[1] + 6, "{counts:?}");
    member.tell("send");
    member.expect("sent");
    member.tell("receive");
    member.expect("received true");
    member.finish();
    host.finish();
}
