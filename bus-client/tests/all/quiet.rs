//! Who sleeps is woken by what it sleeps for. A handle that waits looks around every 100 ms by itself; here that look must not be
//! what delivers, so nobody spins, and a wake-up must come long before.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, play, say};
use crate::common::roles::{HOST, clock, start_host};
use bus_client::{Bus, Error};

/// Round trips of the ping-pong.
const TRIPS: u64 = 2_000;
/// Rounds of each other test.
const ROUNDS: usize = 15;
/// Who is woken by the look around comes about 100 ms late, the first time; later ones vary from 0 to 100 ms.
const PATROL: Duration = Duration::from_millis(90);
/// Half of all wake-ups must be faster than this.
const MEDIAN: Duration = Duration::from_millis(20);

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("echo", echo),
        ("receiver", receiver),
        ("pusher", pusher),
        ("holder", holder),
        ("singer", singer),
    ]);
}

/// Sends back what comes.
fn echo(given: &Given) {
    let bus = given.bus();
    let pings = bus.topic("ping").unwrap().end_with_publishers();
    let pings = pings.subscriber::<u64>().unwrap();
    let mut pongs = bus.publisher::<u64>("pong").unwrap();
    say("joined");
    for ping in &pings {
        pongs.send(&ping.unwrap().to_native()).unwrap();
    }
}

/// For each line joins, says `open`, and receives; says `got` or `ended`, and when.
fn receiver(given: &Given) {
    let bus = given.bus();
    while hear().is_some() {
        let topic = given.topic(&bus).end_with_publishers();
        let subscriber = topic.subscriber::<u64>().unwrap();
        say("open");
        loop {
            match subscriber.recv() {
                Ok(_) => say(format_args!("got {}", clock())),
                Err(Error::Ended { .. }) => break say(format_args!("ended {}", clock())),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// For each line sends until there is no room and says `full`; sends one more, and says `moved` and when.
fn pusher(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).publisher::<u64>().unwrap();
    say("joined");
    while hear().is_some() {
        loop {
            match publisher.try_send(&1) {
                Ok(_) => {}
                Err(Error::Full { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        say("full");
        publisher.send(&2).unwrap();
        say(format_args!("moved {}", clock()));
    }
}

/// Subscribes, and takes nothing.
fn holder(given: &Given) {
    let bus = given.bus();
    let _subscriber = given.topic(&bus).subscriber::<u64>().unwrap();
    say("joined");
    assert_eq!(hear(), None);
}

/// Sends one message, and nothing more.
fn singer(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).publisher::<u64>().unwrap();
    publisher.send(&1).unwrap();
    assert_eq!(hear(), None);
}

struct Stage {
    _dir: tempfile::TempDir,
    host: Process,
    socket: String,
    bus: Bus,
}

fn stage() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let host = start_host(&path);
    let bus = connect(&path);
    Stage {
        _dir: dir,
        host,
        socket: path.display().to_string(),
        bus,
    }
}

fn connect(path: &Path) -> Bus {
    let bus = Bus::builder("test").socket(path).embedded(false);
    bus.spin(Duration::ZERO).connect().unwrap()
}

impl Stage {
    fn start(&self, role: &str) -> Process {
        Process::start(
            role,
            &[("socket", &self.socket), ("spin", &0), ("depth", &2)],
        )
    }
}

/// Waits until a thread of the process sleeps in `futex_waitv`, as far as the kernel lets us see that.
fn await_asleep(process: &Process) {
    let number = format!("{} ", nix::libc::SYS_futex_waitv);
    let deadline = Instant::now() + WATCHDOG;
    let tasks = format!("/proc/{}/task", process.pid());
    while Instant::now() < deadline {
        let mut calls = fs::read_dir(&tasks)
            .unwrap()
            .map(|task| fs::read_to_string(task.unwrap().path().join("syscall")));
        if calls.any(|call| call.map_or(true, |call| call.starts_with(&number))) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("process {} does not sleep", process.pid());
}

fn check(what: &str, mut delays: Vec<Duration>) {
    delays.sort_unstable();
    let (median, longest) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    println!(
        "{what}: {} times, median {median:?}, longest {longest:?}",
        delays.len()
    );
    assert!(median < MEDIAN, "{what}: {delays:?}");
}

/// The time from a reading of the shared clock to another.
fn between(from: u64, to: u64) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}

#[test]
fn every_message_wakes_who_waits_for_it() {
    let stage = stage();
    let pongs = stage.bus.subscriber::<u64>("pong").unwrap();
    let mut pings = stage.bus.publisher::<u64>("ping").unwrap();
    let mut echo = stage.start("echo");
    echo.expect("joined");
    let began = Instant::now();
    let mut late = 0;
    for n in 0..TRIPS {
        let sent = Instant::now();
        pings.send(&n).unwrap();
        assert_eq!(*pongs.recv().unwrap(), n);
        late += u64::from(sent.elapsed() >= PATROL);
    }
    let mean = began.elapsed() / TRIPS as u32;
    println!("{TRIPS} round trips, mean {mean:?}, {late} took {PATROL:?} or more");
    assert!(mean < MEDIAN, "mean {mean:?}");
    assert!(
        late <= TRIPS / 100,
        "{late} of {TRIPS} round trips were late"
    );
    drop(pings);
    echo.finish();
    stage.host.finish();
}

#[test]
fn a_publisher_that_joins_wakes_the_subscribers() {
    let stage = stage();
    let mut receiver = stage.start("receiver");
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        receiver.tell("again");
        receiver.expect("open");
        await_asleep(&receiver);
        let joins = clock();
        let mut publisher = stage.bus.publisher::<u64>("t").unwrap();
        publisher.send(&1).unwrap();
        delays.push(between(joins, receiver.number("got")));
        drop(publisher);
        receiver.expect("ended");
    }
    check("woken by a publisher that joins and sends", delays);
    receiver.finish();
    stage.host.finish();
}

#[test]
fn a_publisher_that_leaves_wakes_the_subscribers() {
    let stage = stage();
    let mut receiver = stage.start("receiver");
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        let topic = stage.bus.topic("t").unwrap().depth(2);
        let publisher = topic.publisher::<u64>().unwrap();
        receiver.tell("again");
        receiver.expect("open");
        await_asleep(&receiver);
        let leaves = clock();
        drop(publisher);
        delays.push(between(leaves, receiver.number("ended")));
    }
    check("woken by a publisher that leaves", delays);
    receiver.finish();
    stage.host.finish();
}

#[test]
fn a_publisher_that_is_killed_wakes_the_subscribers() {
    let stage = stage();
    let mut receiver = stage.start("receiver");
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        receiver.tell("again");
        receiver.expect("open");
        let mut singer = stage.start("singer");
        receiver.expect("got");
        await_asleep(&receiver);
        let killed = clock();
        singer.kill();
        delays.push(between(killed, receiver.number("ended")));
    }
    check("woken by a publisher that is killed", delays);
    receiver.finish();
    stage.host.finish();
}

#[test]
fn room_wakes_the_publisher() {
    let stage = stage();
    let subscriber = stage.bus.topic("t").unwrap().depth(2);
    let subscriber = subscriber.subscriber::<u64>().unwrap();
    let mut pusher = stage.start("pusher");
    pusher.expect("joined");
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        pusher.tell("again");
        pusher.expect("full");
        await_asleep(&pusher);
        let taken = clock();
        drop(subscriber.recv().unwrap());
        delays.push(between(taken, pusher.number("moved")));
    }
    check("woken by room", delays);
    pusher.finish();
    stage.host.finish();
}

#[test]
fn a_subscriber_that_leaves_wakes_the_publisher() {
    let stage = stage();
    let mut pusher = stage.start("pusher");
    pusher.expect("joined");
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        let subscriber = stage.bus.subscriber::<u64>("t").unwrap();
        pusher.tell("again");
        pusher.expect("full");
        await_asleep(&pusher);
        let leaves = clock();
        drop(subscriber);
        delays.push(between(leaves, pusher.number("moved")));
    }
    check("woken by a subscriber that leaves", delays);
    pusher.finish();
    stage.host.finish();
}

#[test]
fn a_subscriber_that_is_killed_wakes_the_publisher() {
    let stage = stage();
    let mut pusher = stage.start("pusher");
    pusher.expect("joined");
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        let mut holder = stage.start("holder");
        holder.expect("joined");
        pusher.tell("again");
        pusher.expect("full");
        await_asleep(&pusher);
        let killed = clock();
        holder.kill();
        delays.push(between(killed, pusher.number("moved")));
    }
    check("woken by a subscriber that is killed", delays);
    pusher.finish();
    stage.host.finish();
}
