//! Who does not read what a living broker says, for however long, is slow and not dead: it is not cut off, and goes on with who is there then. Who
//! loses its connection all the same is told so, however it waits.
//!
//! Classes of bugs that this is to catch: slow is taken for dead; a peer that stands still makes the broker grow; a handle that is deaf and
//! does not say so.

use std::fs;
use std::os::fd::RawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, play, say, wait_for};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect};
use crate::common::stops::{await_asleep, go_on, stop};
use bus_client::{Bus, BytesSubscriber, Error, Selector};
use bus_testkit::needs;
use nix::sys::socket::{AddressFamily, Shutdown, SockaddrLike, SockaddrStorage, getpeername};

/// Subscribers at a time: when all have left and as many have come, a publisher has more events to read than any queue of the broker took once.
const CROWD: usize = GROUP * GROUPS;
/// Of them, those that come or go between two words with the test.
const GROUP: usize = 230;
const GROUPS: usize = 10;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("talker", talker),
        ("crowd", crowd),
        ("waits", waits),
        ("holder", holder),
    ]);
}

/// Keeps a publisher; answers each line.
fn talker(given: &Given) {
    let bus = given.bus();
    let topic = bus.topic("t").unwrap().depth(2);
    let mut publisher = topic.bytes_publisher().unwrap();
    say("joined");
    while let Some(line) = hear() {
        match line.as_str() {
            "count" => say(format_args!(
                "count {}",
                publisher.subscribers().unwrap().len()
            )),
            "send" => {
                publisher.send_timeout(b"to all", WATCHDOG).unwrap();
                say("sent");
            }
            line => panic!("what is {line:?}?"),
        }
    }
}

/// Keeps many subscribers; answers each line.
fn crowd(given: &Given) {
    let bus = given.bus();
    let mut all: Vec<BytesSubscriber> = Vec::new();
    while let Some(line) = hear() {
        match line.as_str() {
            "join" => {
                all.extend((0..GROUP).map(|_| join(&bus)));
                say("joined");
            }
            "leave" => {
                all.truncate(all.len() - GROUP);
                say("left");
            }
            "receive" => {
                for one in &all {
                    let message = one.recv_timeout(WATCHDOG).unwrap();
                    assert_eq!(message.unwrap().bytes(), b"to all");
                }
                say("received");
            }
            line => panic!("what is {line:?}?"),
        }
    }
}

/// Joins, however long a busy machine takes for that.
fn join(bus: &Bus) -> BytesSubscriber {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        match bus.topic("t").unwrap().depth(2).bytes_subscriber() {
            Ok(subscriber) => return subscriber,
            Err(Error::Broker { .. }) if Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_publisher_that_is_stopped_while_thousands_come_and_go_goes_on_with_who_is_there() {
    // The crowd and the broker have three for each of its subscribers.
    if !needs::descriptors(8_000) {
        return;
    }
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut talker = stage.start("talker");
    talker.expect("joined");
    let mut crowd = stage.start("crowd");
    let mut all = |line| {
        for _ in 0..GROUPS {
            crowd.tell(line);
            crowd.await_word("");
        }
    };
    all("join");
    talker.tell("count");
    assert_eq!(talker.number("count"), CROWD as u64);
    stop(&talker);
    let began = Instant::now();
    all("leave");
    all("join");
    println!("{CROWD} left and came in {:?}", began.elapsed());
    // Who is served meanwhile.
    let bus = connect(&stage.path, false).unwrap();
    let other = bus.publisher::<u64>("other").unwrap();
    drop(other);
    go_on(&talker);
    talker.tell("count");
    assert_eq!(talker.number("count"), CROWD as u64);
    for _ in 0..3 {
        talker.tell("send");
        talker.expect("sent");
        crowd.tell("receive");
        crowd.expect("received");
    }
    talker.finish();
    crowd.finish();
    host.finish();
}

/// Waits in the way that it is told, for ever; its connections end when it hears a line. Says what the wait came to.
fn waits(given: &Given) {
    let bus = given.bus();
    let topic = || bus.topic("t").unwrap().depth(2);
    let cut = || {
        say("waits");
        thread::spawn(|| {
            hear();
            connections().into_iter().for_each(|fd| {
                nix::sys::socket::shutdown(fd, Shutdown::Both).unwrap();
            });
        });
    };
    let error = match given.get::<String>("wait").as_str() {
        "message" => {
            let subscriber = topic().bytes_subscriber().unwrap();
            cut();
            subscriber.recv().map(drop).unwrap_err()
        }
        "selector" => {
            let subscriber = topic().bytes_subscriber().unwrap();
            let mut selector = Selector::new().unwrap();
            selector.add(&subscriber).unwrap();
            cut();
            loop {
                selector.wait().unwrap();
                if let Err(error) = subscriber.try_recv() {
                    break error;
                }
            }
        }
        "publishers" => {
            let subscriber = topic().bytes_subscriber().unwrap();
            cut();
            subscriber.wait_for_publishers(1, None).unwrap_err()
        }
        "subscribers" => {
            let mut publisher = topic().bytes_publisher().unwrap();
            cut();
            publisher.wait_for_subscribers(1, None).unwrap_err()
        }
        "room" => {
            let mut publisher = topic().bytes_publisher().unwrap();
            publisher.wait_for_subscribers(1, None).unwrap();
            let mut sent = 0;
            while publisher.try_send(&[sent]).is_ok() {
                sent += 1;
            }
            assert_eq!(sent, 2);
            cut();
            publisher.send(b"no room").unwrap_err()
        }
        wait => panic!("no such wait: {wait}"),
    };
    let unusable = matches!(error, Error::Unusable { .. });
    say(format_args!(
        "{} {error}",
        if unusable { "unusable" } else { "error" }
    ));
    // Others are of use.
    let mut publisher = bus.bytes_publisher("new").unwrap();
    let subscriber = bus.bytes_subscriber("new").unwrap();
    publisher.send(b"on").unwrap();
    assert_eq!(subscriber.recv().unwrap().bytes(), b"on");
    say("goes on");
    assert_eq!(hear(), None);
}

/// The sockets of this process whose other end has a name: its broker's.
fn connections() -> Vec<RawFd> {
    let listed = fs::read_dir("/proc/self/fd").unwrap();
    let names = listed.map(|entry| entry.unwrap().file_name());
    let numbers: Vec<RawFd> = names
        .map(|name| name.to_str().unwrap().parse().unwrap())
        .collect();
    let has_named_peer = |fd: &RawFd| {
        let peer = getpeername::<SockaddrStorage>(*fd);
        peer.is_ok_and(|peer| {
            peer.family() == Some(AddressFamily::Unix)
                && peer
                    .as_unix_addr()
                    .is_some_and(|unix| unix.path().is_some())
        })
    };
    numbers.into_iter().filter(has_named_peer).collect()
}

/// Class 13 of the field notes: a lost wake-up; and a handle that nobody speaks with, and that waits for ever.
#[test]
fn who_loses_its_connection_to_a_living_broker_is_told_however_it_waits() {
    for wait in ["message", "selector", "publishers", "subscribers", "room"] {
        let stage = Stage::new();
        let host = start_host(&stage.path);
        let bus = connect(&stage.path, false).unwrap();
        let topic = || bus.topic("t").unwrap().depth(2).end_with_publishers();
        let reader = (wait == "room").then(|| topic().bytes_subscriber().unwrap());
        let socket = stage.path.display();
        let settings: [(&str, &dyn std::fmt::Display); 3] =
            [("socket", &socket), ("wait", &wait), ("spin", &0)];
        let mut one = Process::start("waits", &settings);
        one.expect("waits");
        if wait != "selector" {
            await_asleep(&one);
        }
        let began = Instant::now();
        one.tell("cut");
        let said = one.expect("");
        let took = began.elapsed();
        println!("{wait}: {took:?}: {said}");
        assert!(said.starts_with("unusable"), "{wait}: {said}");
        assert!(took < Duration::from_secs(5), "{wait}: it waited {took:?}");
        one.expect("goes on");
        if let Some(reader) = reader {
            for number in 0..2 {
                let message = reader.recv_timeout(WATCHDOG).unwrap();
                assert_eq!(message.unwrap().bytes(), [number]);
            }
            let end = reader
                .recv_timeout(WATCHDOG)
                .map(|message| message.is_some());
            assert!(matches!(end, Err(Error::Ended { .. })), "{end:?}");
        }
        one.finish();
        host.finish();
    }
}

/// Holds the first message; asks for a doorbell, says what that came to; says whether the message is what it was; drops everything.
fn holder(given: &Given) {
    let bus = given.bus();
    let topic = bus.topic("t").unwrap().depth(2);
    let subscriber = topic.subscriber::<[u64; 4]>().unwrap();
    say("joined");
    let held = subscriber.recv().unwrap().hold();
    say("holds");
    wait_for("park");
    let error = subscriber.poll_fd().map(drop).unwrap_err();
    say(format_args!("refused {error}"));
    wait_for("look");
    // It has come back, and goes on.
    let next = subscriber.recv_timeout(WATCHDOG).unwrap().unwrap();
    assert!(next.iter().all(|word| word.to_native() == 8));
    drop(next);
    let same = held.iter().all(|word| word.to_native() == 7);
    say(format_args!("same {same}"));
    wait_for("drop");
    drop((held, subscriber));
    say("dropped");
    assert_eq!(hear(), None);
}

fn limit_descriptors(of: &Process, limit: &str) {
    let status = Command::new("prlimit")
        .arg(format!("--pid={}", of.pid()))
        .arg(format!("--nofile={limit}"))
        .status();
    assert!(
        status
            .expect("this test needs prlimit of util-linux")
            .success()
    );
}

/// Class 5 of the field notes: what somebody reads is written over. A broker that ends a session says to nobody that its subscribers have left.
#[test]
fn what_a_subscriber_holds_that_its_broker_cut_off_is_not_written_over() {
    for end in ["drop", "kill"] {
        let stage = Stage::new();
        let host = start_host(&stage.path);
        let bus = connect(&stage.path, false).unwrap();
        let topic = || bus.topic("t").unwrap().depth(2);
        let mut publisher = topic().publisher::<[u64; 4]>().unwrap();
        let mut holder = stage.start("holder");
        holder.expect("joined");
        publisher.send(&[7; 4]).unwrap();
        holder.expect("holds");
        limit_descriptors(&host, "3:");
        holder.tell("park");
        holder.expect("refused");
        limit_descriptors(&host, "1024:");
        // What the broker had to say of it, it has said when it answers somebody else.
        drop(bus.publisher::<u64>("other").unwrap());
        publisher.send(&[8; 4]).unwrap();
        for _ in 0..3 {
            let full = publisher.try_send(&[9; 4]);
            assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
        }
        holder.tell("look");
        assert_eq!(holder.expect("same"), "true");
        if end == "drop" {
            holder.tell("drop");
            holder.expect("dropped");
        } else {
            holder.kill();
            holder.reap();
        }
        publisher.send_timeout(&[9; 4], WATCHDOG).unwrap();
        let new = topic().subscriber::<[u64; 4]>().unwrap();
        publisher.send_timeout(&[10; 4], WATCHDOG).unwrap();
        let message = new.recv_timeout(WATCHDOG).unwrap().unwrap();
        assert_eq!(message.iter().map(|word| word.to_native()).sum::<u64>(), 40);
        host.finish();
    }
}
