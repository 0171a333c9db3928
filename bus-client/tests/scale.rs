//! A thousand topics with ten subscribers each: 11,000 handles in 20 processes, each with the usual limit of descriptors.
//!
//! It is a program of its own, because it takes most of the machine while it runs.

mod common;

use std::fs;

use bus_client::{Bus, Publisher, Subscriber};
use bus_daemon::{Broker, raise_descriptor_limit};
use bus_testkit::needs;
use common::process::{Process, WATCHDOG};
use common::role::{Given, hear, play, say, wait_for};
use common::stage::Stage;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const TOPICS: u64 = 1000;
const PROCESSES: u64 = 20;
/// Subscribers of a topic: every second process has one.
const SUBSCRIBERS: usize = 10;
/// Descriptors of a client: the usual soft limit.
const CLIENT: u64 = 1024;
/// Descriptors of the broker.
const BROKER: u64 = 16_384;
/// Resident memory of the broker, at most.
const RESIDENT: u64 = 150 << 20;
/// What a client has beside its own segments and one for each peer process.
const SPARE: usize = 8;
/// What the harness of the tests has open: its streams.
const HARNESS: usize = 3;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[("broker", broker), ("member", member)]);
}

fn broker(given: &Given) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, CLIENT, hard.min(BROKER)).unwrap();
    raise_descriptor_limit();
    let broker = Broker::bind(given.get::<String>("socket")).unwrap();
    let broker = broker.spawn().unwrap();
    say("ready");
    assert_eq!(hear(), None);
    broker.stop().unwrap();
}

/// Publishes on every twentieth topic, and subscribes to every second one.
fn member(given: &Given) {
    let number: u64 = given.get("number");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(CLIENT), hard).unwrap();
    let before = descriptors();
    let bus = given.bus();
    let topic = |n: u64| bus.topic(format!("t/{n}")).unwrap().depth(64);
    let publishers = (0..TOPICS).filter(|n| n % PROCESSES == number);
    let mut publishers: Vec<(u64, Publisher<u64>)> = publishers
        .map(|n| (n, topic(n).publisher().unwrap()))
        .collect();
    say("published");
    wait_for("subscribe");
    let subscribers = (0..TOPICS).filter(|n| n % 2 == number % 2);
    let subscribers: Vec<(u64, Subscriber<u64>)> = subscribers
        .map(|n| (n, bus.subscriber(format!("t/{n}")).unwrap()))
        .collect();
    say("subscribed");
    wait_for("send");
    for (n, publisher) in &mut publishers {
        publisher
            .wait_for_subscribers(SUBSCRIBERS, Some(WATCHDOG))
            .unwrap();
        publisher.send(n).unwrap();
    }
    for (n, subscriber) in &subscribers {
        let message = subscriber.recv_timeout(WATCHDOG).unwrap();
        assert_eq!(message.unwrap().to_native(), *n);
    }
    let own = publishers.len() + subscribers.len();
    let most = before + own + PROCESSES as usize + SPARE;
    let open = descriptors();
    assert!(open <= most, "{open} descriptors, and {most} are allowed");
    let now = getrlimit(Resource::RLIMIT_NOFILE).unwrap().0;
    assert_eq!(
        now,
        soft.min(CLIENT),
        "the limit of the process was changed"
    );
    say("received");
    assert_eq!(hear(), None);
    drop((publishers, subscribers));
    drop::<Bus>(bus);
    assert!(descriptors() <= before + HARNESS, "descriptors are left");
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() << 10
}

#[test]
fn eleven_thousand_handles_in_twenty_processes_join_send_and_end_with_the_usual_limits() {
    if !needs::descriptors(BROKER) {
        return;
    }
    let stage = Stage::new();
    let mut broker = stage.start("broker");
    broker.expect("ready");
    let socket = stage.path.display();
    let mut members: Vec<_> = (0..PROCESSES)
        .map(|number| Process::start("member", &[("socket", &socket), ("number", &number)]))
        .collect();
    members
        .iter_mut()
        .for_each(|one| drop(one.expect("published")));
    members.iter_mut().for_each(|one| one.tell("subscribe"));
    members
        .iter_mut()
        .for_each(|one| drop(one.expect("subscribed")));
    members.iter_mut().for_each(|one| one.tell("send"));
    members
        .iter_mut()
        .for_each(|one| drop(one.expect("received")));
    let taken = resident(broker.pid());
    assert!(taken < RESIDENT, "the broker takes {taken} bytes");
    members.into_iter().for_each(Process::finish);
    broker.finish();
}
