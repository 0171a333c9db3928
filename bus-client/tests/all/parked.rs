//! Who waits for its descriptor is woken by it. Nothing here wakes but the doorbell: a wait that lasts until its watchdog fails the test.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::common::hosted::Hosted;
use crate::common::process::WATCHDOG;
use crate::common::role::{Given, hear, play, say};
use crate::common::roles::{HOST, clock};
use bus_client::{Error, Publisher, Subscriber};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

/// Round trips, there and back.
const TRIPS: u64 = 20_000;
/// Rounds of the other tests.
const ROUNDS: u64 = 30;
/// How soon a kill is noticed. A look around would take up to 100 ms.
const SOON: Duration = Duration::from_millis(50);

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("echo", echo),
        ("victim", victim),
        ("late", late),
        ("idler", idler),
    ]);
}

/// Waits until the descriptor is readable. Nothing else may end it.
fn await_readable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(WATCHDOG.as_millis()).unwrap();
    loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Ok(1) => return,
            other => panic!("a wake-up was lost: {other:?}"),
        }
    }
}

/// Receives the next message, parked for as long as there is none; how often it waited.
fn receive(subscriber: &Subscriber<u64>) -> Result<(u64, u64), Error> {
    let mut waits = 0;
    loop {
        if let Some(value) = subscriber.try_recv()? {
            return Ok((value.to_native(), waits));
        }
        if subscriber.arm()? {
            await_readable(subscriber.poll_fd()?);
            waits += 1;
        }
        subscriber.disarm();
    }
}

/// Sends, parked for as long as there is no room; how often it waited.
fn send(publisher: &mut Publisher<u64>, value: u64) -> u64 {
    let mut waits = 0;
    loop {
        match publisher.try_send(&value) {
            Ok(_) => return waits,
            Err(Error::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if publisher.arm().unwrap() {
            await_readable(publisher.poll_fd().unwrap());
            waits += 1;
        }
        publisher.disarm();
    }
}

/// Sends back what comes, parked while nothing does.
fn echo(given: &Given) {
    let bus = given.bus();
    let pings = bus.topic("ping").unwrap().end_with_publishers();
    let pings = pings.subscriber::<u64>().unwrap();
    let mut pongs = bus.publisher::<u64>("pong").unwrap();
    say("joined");
    let mut waited = 0;
    loop {
        match receive(&pings) {
            Ok((ping, waits)) => {
                waited += waits;
                pongs.send(&ping).unwrap();
            }
            Err(Error::Ended { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    say(format_args!("waited {waited}"));
}

/// Publishes one message, and stays until it is killed.
fn victim(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).publisher::<u64>().unwrap();
    publisher.send(&1).unwrap();
    say("sent");
    assert_eq!(hear(), None);
}

/// For each line joins, and sends one message at once.
fn late(given: &Given) {
    let bus = given.bus();
    let mut publishers = Vec::new();
    while let Some(value) = hear() {
        let mut publisher = given.topic(&bus).publisher::<u64>().unwrap();
        publisher.send(&value.parse().unwrap()).unwrap();
        publishers.push(publisher);
    }
}

/// Subscribes, and takes nothing.
fn idler(given: &Given) {
    let bus = given.bus();
    let _subscriber = given.topic(&bus).subscriber::<u64>().unwrap();
    assert_eq!(hear(), None);
}

/// Rings of a doorbell that were not taken off.
fn rings(fd: BorrowedFd<'_>) -> usize {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recv(fd.as_raw_fd(), &mut [0; 64], flags) {
        Err(Errno::EAGAIN) => 0,
        rings => rings.unwrap(),
    }
}

#[test]
fn a_ping_pong_of_two_processes_that_park_loses_no_wake_up() {
    let stage = Hosted::new();
    let pongs = stage.bus.subscriber::<u64>("pong").unwrap();
    let mut pings = stage.bus.publisher::<u64>("ping").unwrap();
    let mut echo = stage.start("echo", &[]);
    echo.expect("joined");
    let mut waited = 0;
    let began = Instant::now();
    for n in 0..TRIPS {
        pings.send(&n).unwrap();
        let (pong, waits) = receive(&pongs).unwrap();
        assert_eq!(pong, n);
        waited += waits;
    }
    println!(
        "{TRIPS} round trips, mean {:?}",
        began.elapsed() / TRIPS as u32
    );
    drop(pings);
    let theirs = echo.number("waited");
    assert!(
        // On a busy machine many an answer is there before its wait.
        waited > TRIPS / 100 && theirs > TRIPS / 100,
        "{waited} and {theirs} waits: this shows nothing"
    );
    echo.finish();
}

#[test]
fn a_publisher_and_a_subscriber_that_park_for_each_other_lose_no_wake_up() {
    let stage = Hosted::new();
    let topic = || stage.bus.topic("t").unwrap().depth(2);
    let subscriber = topic().subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap();
    let sender =
        std::thread::spawn(move || (0..TRIPS).map(|n| send(&mut publisher, n)).sum::<u64>());
    let mut waited = 0;
    for n in 0..TRIPS {
        let (value, waits) = receive(&subscriber).unwrap();
        assert_eq!(value, n);
        waited += waits;
    }
    let theirs = sender.join().unwrap();
    println!("{waited} waits for messages, {theirs} for room");
    assert!(waited > 0 && theirs > 0, "this shows nothing");
}

#[test]
fn a_publisher_that_joins_wakes_who_is_parked() {
    let stage = Hosted::new();
    let subscriber = stage.bus.subscriber::<u64>("t").unwrap();
    let mut late = stage.start("late", &[]);
    for n in 0..ROUNDS {
        assert!(subscriber.arm().unwrap());
        late.tell(&n.to_string());
        assert_eq!(receive(&subscriber).unwrap().0, n);
    }
    late.finish();
}

#[test]
fn the_kill_of_a_publisher_wakes_who_is_parked() {
    let stage = Hosted::new();
    let subscriber = stage.bus.topic("t").unwrap().end_with_publishers();
    let subscriber = subscriber.subscriber::<u64>().unwrap();
    let mut delays = Vec::new();
    let mut victim = stage.start("victim", &[]);
    victim.expect("sent");
    assert_eq!(receive(&subscriber).unwrap().0, 1);
    for _ in 0..10 {
        let next = stage.start("victim", &[]);
        assert_eq!(receive(&subscriber).unwrap().0, 1);
        while !subscriber.arm().unwrap() {
            assert!(subscriber.try_recv().unwrap().is_none());
        }
        assert_eq!(rings(subscriber.poll_fd().unwrap()), 0);
        let killed = clock();
        victim.kill();
        await_readable(subscriber.poll_fd().unwrap());
        delays.push(Duration::from_nanos(clock() - killed));
        victim = next;
        victim.expect("sent");
        subscriber.disarm();
        assert!(subscriber.try_recv().unwrap().is_none());
        assert_eq!(subscriber.publishers().unwrap().len(), 1);
    }
    victim.kill();
    let end = receive(&subscriber);
    assert!(matches!(end, Err(Error::Ended { .. })), "{end:?}");
    delays.sort_unstable();
    println!("noticed after {delays:?}");
    assert!(delays[delays.len() / 2] < SOON, "{delays:?}");
}

#[test]
fn the_kill_of_the_only_subscriber_wakes_a_publisher_that_is_parked() {
    let stage = Hosted::new();
    let topic = stage.bus.topic("t").unwrap().depth(2);
    let mut publisher = topic.publisher::<u64>().unwrap();
    let mut delays = Vec::new();
    for _ in 0..10 {
        let mut idler = stage.start("idler", &[]);
        publisher.wait_for_subscribers(1, Some(WATCHDOG)).unwrap();
        while publisher.try_send(&1).is_ok() {}
        // That the subscriber joined rang as well.
        publisher.disarm();
        assert!(publisher.arm().unwrap());
        let killed = clock();
        idler.kill();
        await_readable(publisher.poll_fd().unwrap());
        delays.push(Duration::from_nanos(clock() - killed));
        publisher.disarm();
        publisher.try_send(&1).unwrap();
    }
    delays.sort_unstable();
    println!("noticed after {delays:?}");
    assert!(delays[delays.len() / 2] < SOON, "{delays:?}");
}

#[test]
fn nobody_rings_who_is_not_parked() {
    let stage = Hosted::new();
    let subscriber = stage.bus.subscriber::<u64>("t").unwrap();
    let mut publisher = stage.bus.publisher::<u64>("t").unwrap();
    // Once parked and back, so that the publisher knows how to ring.
    subscriber.arm().unwrap();
    publisher.send(&0).unwrap();
    subscriber.disarm();
    assert_eq!(
        subscriber.try_recv().unwrap().map(|m| m.to_native()),
        Some(0)
    );
    let fd = subscriber.poll_fd().unwrap();
    for n in 0..1000 {
        publisher.send(&n).unwrap();
        drop(subscriber.try_recv().unwrap());
    }
    assert_eq!(rings(fd), 0);
    // And who is parked is rung once, not once for each message.
    assert!(subscriber.arm().unwrap());
    for n in 0..100 {
        publisher.send(&n).unwrap();
    }
    assert_eq!(rings(fd), 1);
    subscriber.disarm();
    assert_eq!(rings(fd), 0);
}

#[test]
fn a_message_held_that_is_given_back_wakes_its_subscriber_for_its_publisher() {
    let stage = Hosted::new();
    let topic = || stage.bus.topic("t").unwrap().depth(2);
    let subscriber = topic().subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap();
    publisher.send(&1).unwrap();
    publisher.send(&2).unwrap();
    let held = subscriber.try_recv().unwrap().unwrap().hold();
    drop(subscriber.try_recv().unwrap());
    assert!(matches!(publisher.try_send(&3), Err(Error::Full { .. })));
    assert!(publisher.arm().unwrap() && subscriber.arm().unwrap());
    std::thread::spawn(move || drop(held)).join().unwrap();
    await_readable(subscriber.poll_fd().unwrap());
    subscriber.disarm();
    assert!(subscriber.try_recv().unwrap().is_none());
    await_readable(publisher.poll_fd().unwrap().as_fd());
    publisher.disarm();
    publisher.try_send(&3).unwrap();
}
