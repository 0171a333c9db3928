//! No wake-up is lost: two threads with real futexes, which sleep as soon as there is nothing to do.
//!
//! Each sleep has a deadline far away, and a sleep that lasts until then fails the test: a watchdog, never what
//! wakes anybody.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bus_core::backend::doorbell::Doorbell;
use bus_core::publish::{Loan, Publisher};
use bus_core::receive::{Message, Subscriber};
use bus_core::wake::fence_parked;

use crate::common::{self, Event, READER_WAITING, RING_WAITING, Topic, Words, payload};

const MESSAGES: u64 = 20_000;
const WATCHDOG: Duration = Duration::from_secs(25);

/// Sleeps once; fails if the watchdog ended it.
fn nap(sleep: impl FnOnce(Option<Instant>)) {
    let deadline = Instant::now() + WATCHDOG;
    sleep(Some(deadline));
    assert!(Instant::now() < deadline, "a wake-up was lost");
}

/// Receives the next message; returns how often it slept for it.
fn receive<'a>(subscriber: &'a Subscriber, sleeps: &mut u64) -> Message<'a> {
    loop {
        if let Some(message) = subscriber.poll().unwrap() {
            return message;
        }
        *sleeps += 1;
        nap(|deadline| subscriber.sleep(deadline));
    }
}

fn send(publisher: &mut Publisher, bytes: &[u8], sleeps: &mut u64) {
    loop {
        assert_eq!(publisher.stale(), None);
        if publisher.try_send_bytes(bytes).unwrap().is_some() {
            return;
        }
        *sleeps += 1;
        nap(|deadline| publisher.sleep(deadline));
    }
}

/// Without membarrier every sleep is bounded, and then these tests would show nothing.
fn demand_membarrier() {
    // SAFETY: the call takes integers only; 0 asks what the kernel knows.
    let known = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    let needed = 1 << 1 | 1 << 2;
    assert!(
        known > 0 && known & needed == needed,
        "membarrier is refused here: lost wake-ups cannot be shown"
    );
}

#[test]
fn a_ping_pong_that_sleeps_every_time_loses_no_wake_up() {
    demand_membarrier();
    let settings = common::settings(8, 64, 8, 1, 0);
    let (mut ping, mut pong) = (Topic::new(settings), Topic::new(settings));
    let (from_ping, from_pong) = (ping.joined(1), pong.joined(1));
    let echo = thread::spawn(move || {
        let mut sleeps = 0;
        for _ in 0..MESSAGES {
            let bytes = receive(&from_ping, &mut sleeps).bytes().to_vec();
            send(&mut pong.publisher, &bytes, &mut 0);
        }
        sleeps
    });
    let mut sleeps = 0;
    for sequence in 0..MESSAGES {
        send(&mut ping.publisher, &sequence.to_le_bytes(), &mut 0);
        let echoed = receive(&from_pong, &mut sleeps);
        assert_eq!(echoed.bytes(), sequence.to_le_bytes());
    }
    sleeps += echo.join().unwrap();
    assert!(
        sleeps > MESSAGES / 2,
        "only {sleeps} sleeps: this showed little"
    );
}

#[test]
fn a_publisher_in_a_ring_of_two_is_woken_for_every_room() {
    demand_membarrier();
    let mut topic = Topic::new(common::settings(2, 64, 8, 1, 0));
    let readers = [topic.joined(1), topic.joined(2)];
    let readers = readers.map(|subscriber| {
        thread::spawn(move || {
            let mut sleeps = 0;
            for sequence in 0..MESSAGES {
                let message = receive(&subscriber, &mut sleeps);
                assert_eq!(message.bytes(), sequence.to_le_bytes());
            }
            sleeps
        })
    });
    let mut sleeps = 0;
    for sequence in 0..MESSAGES {
        send(&mut topic.publisher, &sequence.to_le_bytes(), &mut sleeps);
    }
    let slept: u64 = readers.map(|reader| reader.join().unwrap()).iter().sum();
    assert!(
        sleeps > MESSAGES / 100,
        "the publisher slept only {sleeps} times"
    );
    assert!(
        slept > MESSAGES / 100,
        "the readers slept only {slept} times"
    );
}

#[test]
fn a_publisher_that_waits_for_arena_is_woken() {
    demand_membarrier();
    let messages = MESSAGES / 4;
    let mut topic = Topic::new(common::settings(64, 64, 1000, 1, 0));
    let subscriber = topic.joined(1);
    let reader = thread::spawn(move || {
        for sequence in 0..messages {
            let message = receive(&subscriber, &mut 0);
            assert_eq!(message.bytes(), payload(sequence, 1000));
        }
    });
    let mut sleeps = 0;
    for sequence in 0..messages {
        send(&mut topic.publisher, &payload(sequence, 1000), &mut sleeps);
    }
    reader.join().unwrap();
    assert!(sleeps > 0, "it never slept: this showed nothing");
}

/// Waits, awake, until a sleeper has announced itself.
fn until_asleep(words: &Words, waiting: usize) {
    let began = Instant::now();
    while words.at32(waiting).is_multiple_of(2) {
        assert!(began.elapsed() < WATCHDOG, "nobody went to sleep");
        thread::yield_now();
    }
}

/// A sleep that must not begin, for what it waits for is there already.
fn no_nap(sleep: impl FnOnce(Option<Instant>)) {
    let deadline = Instant::now() + WATCHDOG / 5;
    sleep(Some(deadline));
    assert!(
        Instant::now() < deadline,
        "slept, though it was there already"
    );
}

#[test]
fn what_came_between_the_last_look_and_the_sleep_ends_it_at_once() {
    demand_membarrier();
    let mut topic = Topic::new(common::settings(2, 64, 8, 1, 0));
    let reader = topic.joined(1);
    assert!(reader.poll().unwrap().is_none());
    topic.publisher.try_send_bytes(b"message").unwrap().unwrap();
    no_nap(|deadline| reader.sleep(deadline));

    topic.publisher.try_send_bytes(b"full").unwrap().unwrap();
    assert!(topic.publisher.try_send_bytes(b"no").unwrap().is_none());
    drop(reader.poll().unwrap().unwrap());
    no_nap(|deadline| topic.publisher.sleep(deadline));

    topic.sync();
    topic.publisher.try_send_bytes(b"full").unwrap().unwrap();
    assert!(topic.publisher.try_send_bytes(b"no").unwrap().is_none());
    topic.registry.bump_subscribers();
    no_nap(|deadline| topic.publisher.sleep(deadline));

    while reader.poll().unwrap().is_some() {}
    topic.registry.bump_publishers();
    no_nap(|deadline| reader.sleep(deadline));
    reader.set_version(1);
    topic.publisher.close();
    no_nap(|deadline| reader.sleep(deadline));
}

#[test]
fn a_sleeping_subscriber_is_woken_by_a_new_publisher_by_the_end_and_by_a_message_given_back() {
    demand_membarrier();
    let mut topic = Topic::new(common::settings(4, 64, 8, 1, 0));
    let subscriber = topic.joined(1);
    topic.publisher.try_send_bytes(b"held").unwrap().unwrap();
    let held = subscriber.poll().unwrap().unwrap().hold();
    let (words, ring) = (
        Words::of(&subscriber.fd()),
        Words::of(&topic.publisher.fd()),
    );
    let cursor = move |words: &Words| words.at64(common::cursor_offset(0));
    let (tell, told) = std::sync::mpsc::channel();
    let sleeper = thread::spawn(move || {
        while subscriber.stale().is_none() {
            nap(|deadline| subscriber.sleep(deadline));
        }
        subscriber.set_version(1);
        tell.send("version").unwrap();
        let own = Words::of(&subscriber.fd());
        while cursor(&own) == 0 {
            nap(|deadline| subscriber.sleep(deadline));
            assert!(subscriber.poll().unwrap().is_none());
        }
        tell.send("given back").unwrap();
        while subscriber.ends().count() == 0 {
            nap(|deadline| subscriber.sleep(deadline));
        }
        tell.send("end").unwrap();
    });
    until_asleep(&words, READER_WAITING);
    topic.registry.bump_publishers();
    assert_eq!(told.recv(), Ok("version"));
    until_asleep(&words, READER_WAITING);
    drop(held);
    assert_eq!(told.recv(), Ok("given back"));
    assert_eq!(cursor(&words), 1);
    until_asleep(&words, READER_WAITING);
    topic.publisher.close();
    assert_eq!(told.recv(), Ok("end"));
    sleeper.join().unwrap();
    assert!(ring.at32(64) >= 1, "the end rings the bell of a sleeper");
}

#[test]
fn a_publisher_asleep_for_room_is_woken_when_the_slowest_subscriber_leaves() {
    demand_membarrier();
    let mut topic = Topic::new(common::settings(2, 64, 8, 1, 0));
    let stuck = topic.joined(1);
    for _ in 0..2 {
        topic.publisher.try_send_bytes(b"full").unwrap().unwrap();
    }
    let words = Words::of(&topic.publisher.fd());
    let Topic {
        mut publisher,
        mut registry,
        ..
    } = topic;
    let sleeper = thread::spawn(move || {
        while publisher.try_send_bytes(b"room").unwrap().is_none() {
            nap(|deadline| publisher.sleep(deadline));
            if let Some(version) = publisher.stale() {
                publisher.drop_follower(1);
                publisher.set_version(version);
            }
        }
        publisher.head()
    });
    until_asleep(&words, RING_WAITING);
    registry.bump_subscribers();
    assert_eq!(sleeper.join().unwrap(), 3);
    drop(stuck);
}

#[test]
fn a_subscriber_that_joins_an_idle_topic_again_and_again_gets_what_follows() {
    demand_membarrier();
    let mut topic = Topic::new(common::settings(4, 64, 8, 1, 0));
    for id in 0..200_u64 {
        let subscriber = topic.subscriber(Arc::new(()));
        topic.attach(&subscriber, 0);
        let words = Words::of(&subscriber.fd());
        topic.announce(Event::Joined(
            id,
            subscriber.fd().try_clone_to_owned().unwrap(),
        ));
        subscriber.joined(0);
        let sleeper = thread::spawn(move || {
            let message = receive(&subscriber, &mut 0);
            assert_eq!(message.bytes(), id.to_le_bytes());
            assert_eq!(message.sequence(), id);
        });
        if id % 2 == 0 {
            until_asleep(&words, READER_WAITING);
        }
        topic.sync();
        let sent = topic.publisher.try_send_bytes(&id.to_le_bytes());
        assert_eq!(sent.unwrap(), Some(id));
        sleeper.join().unwrap();
        topic.announce(Event::Left(id));
    }
}

/// A publisher that is parked has no timer: a ring of its doorbell that is missing is a hang.
#[test]
fn a_joiner_that_moves_to_the_head_rings_the_publisher_that_is_parked_behind_its_first_cursor() {
    let mut topic = Topic::new(common::settings(2, 64, 8, 1, 0));
    let subscriber = topic.subscriber(Arc::new(()));
    topic.attach(&subscriber, 0);
    for _ in 0..3 {
        topic.sync();
        topic.publisher.try_send_bytes(b"before").unwrap().unwrap();
    }
    let segment = subscriber.fd().try_clone_to_owned().unwrap();
    topic.announce(Event::Joined(1, segment));
    topic.sync();
    assert!(
        topic
            .publisher
            .try_send_bytes(b"no room")
            .unwrap()
            .is_none()
    );
    let doorbell = Doorbell::new().unwrap();
    subscriber.set_notify(0, doorbell.button().try_clone_to_owned().unwrap());
    assert!(topic.publisher.park(), "the joiner is in the way");
    subscriber.joined(0);
    assert_eq!(doorbell.drain(), 1, "the joiner has made room and rings");
    topic.publisher.unpark();
    topic.publisher.try_send_bytes(b"room").unwrap().unwrap();
    let message = subscriber.poll().unwrap().unwrap();
    assert_eq!((message.sequence(), message.bytes()), (3, &b"room"[..]));
}

/// Every way to publish ends with a look at the sleepers. The models have no payloads, so they do not
/// see these calls.
#[test]
fn every_way_to_publish_rings_a_subscriber_that_is_parked() {
    let mut topic = Topic::new(common::settings(8, 64, 8, 1, 0));
    let subscriber = topic.joined(1);
    let doorbell = Arc::new(Doorbell::new().unwrap());
    let button = doorbell.button().try_clone_to_owned().unwrap();
    topic.publisher.set_notify(1, button);
    type Way = (&'static str, fn(&mut Publisher));
    let ways: [Way; 7] = [
        ("bytes", |publisher| {
            publisher.try_send_bytes(b"bytes").unwrap().unwrap();
        }),
        ("a value", |publisher| {
            publisher.try_send(&7_u64).unwrap().unwrap();
        }),
        ("a slot", |publisher| {
            publisher.try_loan(8).unwrap().unwrap().commit(8);
        }),
        ("a loan", |publisher| {
            let slot = publisher.try_loan(Loan::<u64>::BYTES).unwrap().unwrap();
            Loan::<u64>::new(slot).unwrap().commit();
        }),
        ("a batch of bytes", |publisher| {
            publisher.batch().push_bytes(b"batch").unwrap().unwrap();
        }),
        ("a batch of values", |publisher| {
            publisher.batch().push(&7_u64).unwrap().unwrap();
        }),
        ("the end", Publisher::close),
    ];
    for (way, publish) in ways {
        while subscriber.poll().unwrap().is_some() {}
        subscriber.park(&doorbell);
        fence_parked();
        assert!(!subscriber.ready(), "there is nothing yet");
        publish(&mut topic.publisher);
        assert_eq!(doorbell.drain(), 1, "{way} rings once");
        subscriber.unpark();
    }
}
