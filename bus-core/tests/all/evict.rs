//! Evicting topics: a publisher waits for each subscriber until that one has made no progress for as long as the topic says, then
//! goes past it; it keeps what it holds, and nobody else loses anything.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bus_core::publish::Overdue;
use bus_core::receive::{Message, Start, Subscriber};
use bus_core::{Delivery, Error};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::{self, Event, Topic, overrun_settings, payload};

/// What the shortest patience counts of the time between two looks, and more.
const GAP: Duration = Duration::from_micros(1);

fn topic(after_us: u64, depth: u32, max_payload: u64, spare: u64) -> Topic {
    let delivery = Delivery::Evict { after_us };
    Topic::new(overrun_settings(
        delivery,
        depth,
        max_payload,
        (1, 2),
        spare,
    ))
}

fn send(topic: &mut Topic, len: usize) -> bool {
    topic.sync();
    let bytes = payload(topic.publisher.head(), len);
    topic.publisher.try_send_bytes(&bytes).unwrap().is_some()
}

/// Fills the ring; how many went.
fn fill(topic: &mut Topic, len: usize) -> u64 {
    let before = topic.publisher.head();
    while send(topic, len) {}
    topic.publisher.head() - before
}

/// Time passes, and more than counts between two looks.
fn wait() {
    let start = Instant::now();
    while start.elapsed() < GAP {
        std::hint::spin_loop();
    }
}

/// Looks in vain until somebody is evicted; how many looks that took.
fn evict(topic: &mut Topic) -> usize {
    let looks = (1..100).find(|_| {
        wait();
        topic.publisher.evict_stalled() == Overdue::Evicted
    });
    looks.expect("somebody stalls")
}

fn check(message: &Message<'_>, sequence: u64, len: usize) {
    assert_eq!((message.sequence(), message.lost()), (sequence, 0));
    assert_eq!(message.bytes(), payload(sequence, len));
}

fn evicted(subscriber: &Subscriber) -> bool {
    matches!(subscriber.poll(), Err(Error::Evicted { publisher: 0 }))
}

#[test]
fn the_ninth_look_in_vain_evicts_and_none_before() {
    let mut topic = topic(1, 4, 48, 0);
    let reader = topic.joined(1);
    assert_eq!(fill(&mut topic, 8), 4);
    for look in 1..9 {
        wait();
        assert_eq!(topic.publisher.evict_stalled(), Overdue::No, "look {look}");
        assert!(!send(&mut topic, 8));
    }
    // Progress, and all counts from the start again.
    drop(reader.poll().unwrap());
    assert_eq!(fill(&mut topic, 8), 1);
    assert_eq!(evict(&mut topic), 9);
    assert!(topic.publisher.has_evicted(1));
    assert_eq!(
        (topic.publisher.joined(), topic.publisher.followers()),
        (0, 1)
    );
    assert_eq!(
        topic.publisher.evict_stalled(),
        Overdue::No,
        "there is nobody left"
    );
    assert!((0..99).all(|_| send(&mut topic, 8)));
}

/// A subscriber that takes a kept place may start below what other joiners count on. A publisher that
/// does not know it yet announces a higher floor, sees that somebody joins, and stays where it was.
#[test]
fn a_floor_that_is_announced_and_not_taken_evicts_nobody() {
    let mut topic = topic(1, 64, 48, 0);
    let place = bus_core::memory::reserve(&topic.settings).unwrap();
    topic.announce(Event::Joined(1, place));
    assert_eq!(fill(&mut topic, 8), 64, "the place is waited for");
    // A place has the time of a join, whatever the topic allows.
    let began = Instant::now();
    while topic.publisher.evict_stalled() != Overdue::Evicted {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody takes it");
    }
    let reader = topic.subscriber(std::sync::Arc::new(()));
    reader
        .attach(0, 0, &topic.publisher.fd(), Start::First, topic.trust)
        .unwrap();
    let segment = reader.fd().try_clone_to_owned().unwrap();
    topic.announce(Event::Joined(2, segment));
    reader.joined_at_first();
    // As in a batch, which does not look at the version before each message.
    let words = common::Words::of(&topic.publisher.fd());
    assert!(topic.publisher.try_send_bytes(b"early").unwrap().is_none());
    assert_eq!(words.at64(common::FLOOR), 0, "nothing was gone past");
    assert!(!send(&mut topic, 8), "the newcomer is waited for");
    for sequence in 0..64 {
        check(&reader.poll().unwrap().unwrap(), sequence, 8);
    }
    assert!(send(&mut topic, 8), "the newcomer has made room");
    assert!(!topic.publisher.has_evicted(2));
}

/// Class 15: a watchdog takes slow for dead. A topic's patience may be shorter than a join takes.
#[test]
fn who_is_joining_is_not_evicted_for_what_it_cannot_do_yet() {
    let mut topic = topic(1, 4, 48, 0);
    let reader = topic.subscriber(std::sync::Arc::new(()));
    topic.attach(&reader, 0);
    topic.announce(Event::Joined(1, reader.fd().try_clone_to_owned().unwrap()));
    assert_eq!(fill(&mut topic, 8), 4);
    for look in 0..100 {
        wait();
        assert_eq!(topic.publisher.evict_stalled(), Overdue::No, "look {look}");
    }
    // It has joined: its time counts from now.
    reader.joined(0);
    topic.sync();
    assert_eq!(evict(&mut topic), 9);

    // Who never does is gone past as well.
    let mut topic = self::topic(1, 4, 48, 0);
    let stalled = topic.subscriber(std::sync::Arc::new(()));
    topic.attach(&stalled, 0);
    topic.announce(Event::Joined(1, stalled.fd().try_clone_to_owned().unwrap()));
    assert_eq!(fill(&mut topic, 8), 4);
    let began = Instant::now();
    while topic.publisher.evict_stalled() == Overdue::No {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it waits for ever"
        );
    }
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_gap_between_two_looks_counts_for_an_eighth() {
    // An hour: looks, however many, take less.
    let mut topic = topic(3_600_000_000, 4, 48, 0);
    let reader = topic.joined(1);
    assert_eq!(fill(&mut topic, 8), 4);
    assert!((0..10_000).all(|_| topic.publisher.evict_stalled() == Overdue::No));
    assert_eq!(topic.publisher.joined(), 1);
    (0..4).for_each(|n| check(&reader.poll().unwrap().unwrap(), n, 8));
    assert_eq!(reader.lost(), 0);
}

#[test]
fn who_is_not_in_the_way_is_not_evicted_however_long_another_stalls() {
    let mut topic = topic(1, 16, 48, 0);
    let stalled = topic.joined(1);
    let idle = topic.joined(2);
    assert_eq!(fill(&mut topic, 8), 16);
    // It stops as well, but the publisher waits for the other.
    (0..9).for_each(|n| check(&idle.poll().unwrap().unwrap(), n, 8));
    assert!(!send(&mut topic, 8));
    assert_eq!(evict(&mut topic), 9);
    assert!(topic.publisher.has_evicted(1) && !topic.publisher.has_evicted(2));
    assert_eq!(topic.publisher.joined(), 1);
    // It is in the way now, and its time starts now.
    assert_eq!(fill(&mut topic, 8), 9);
    assert!(evicted(&stalled));
    assert_eq!(evict(&mut topic), 9);
    assert!(topic.publisher.has_evicted(2));
    assert_eq!(topic.publisher.slowest(), None);
}

#[test]
fn the_evicted_one_is_told_each_time_and_gets_nothing_more() {
    for (depth, len) in [(2, 8), (4, 48), (64, 8), (64, 200), (256, 48)] {
        // It has received so many when it stops, and so many are published after it is evicted.
        let window = u64::from(if len > 48 { 1 } else { (depth / 16).max(1) });
        for (received, after) in (0..=window + 1).flat_map(|r| (1..=9).map(move |a| (r, a))) {
            let mut topic = topic(1, depth, len as u64, 1024);
            let reader = topic.joined(1);
            let held: Vec<_> = (0..received)
                .map_while(|_| {
                    send(&mut topic, len);
                    reader.poll().unwrap()
                })
                .filter(|message| message.sequence() % 2 == 0)
                .take(2)
                .collect();
            fill(&mut topic, len);
            evict(&mut topic);
            for _ in 0..after * depth / 8 + 1 {
                assert!(send(&mut topic, len));
            }
            // Until its window moves it reads on; from then on nothing, also what is not yet written over.
            let mut next = received;
            loop {
                match reader.poll() {
                    Ok(Some(message)) => check(&message, next, len),
                    // It came back before it was passed, and stops again.
                    Ok(None) => {
                        assert_eq!(next, topic.publisher.head());
                        assert!((0..=depth).all(|_| send(&mut topic, len)));
                        continue;
                    }
                    Err(Error::Evicted { publisher: 0 }) => break,
                    Err(other) => panic!("{other}"),
                }
                next += 1;
                assert!(next <= topic.publisher.head());
            }
            for _ in 0..3 * depth {
                assert!(evicted(&reader) && reader.has_message());
                let batch = reader.poll_batch(9).unwrap();
                let refused = batch.next().unwrap();
                assert!(matches!(refused, Err(Error::Evicted { publisher: 0 })));
                assert!(batch.next().is_none());
                drop(batch);
                send(&mut topic, len);
            }
            assert_eq!(
                reader.lost(),
                0,
                "what it did not get is not a loss that it may go on after"
            );
            for message in held {
                check(&message, message.sequence(), len);
            }
        }
    }
}

#[test]
fn a_publisher_that_is_full_of_what_is_held_goes_on_when_it_is_released() {
    // Room for three long messages: the one that is kept, the one that is held, and the next.
    let mut topic = topic(3_600_000_000, 8, 200, 0);
    let reader = topic.joined(1);
    let mut held = VecDeque::new();
    for _ in 0..100 {
        while !send(&mut topic, 200) {
            drop(held.pop_front().expect("nothing is held, and it is full"));
            // The window moves with the next one; there may be none.
            held.extend(reader.poll().unwrap());
        }
        held.extend(reader.poll().unwrap());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Receive { who: usize, keep: bool },
    Release { who: usize },
    Evict,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..20_usize).prop_map(Step::Send),
        6 => (0..3_usize, any::<bool>()).prop_map(|(who, keep)| Step::Receive { who, keep }),
        2 => (0..3_usize).prop_map(|who| Step::Release { who }),
        1 => Just(Step::Evict),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_loses_anything_but_the_evicted(
        (depth, len) in select(vec![(2, 8_usize), (8, 48), (8, 200), (64, 8), (64, 200)]),
        steps in vec(step(), 1..150),
    ) {
        // The arena holds whatever may be held.
        let mut topic = topic(1, depth, len as u64, 16 << 10);
        let readers: Vec<_> = (0..3).map(|id| topic.joined(id)).collect();
        let mut kept: Vec<Vec<Message<'_>>> = (0..3).map(|_| Vec::new()).collect();
        let mut next = [0_u64; 3];
        let mut told = [false; 3];
        for step in steps {
            match step {
                Step::Send(count) => {
 let _ = (0..count).filter(|_| send(&mut topic, len)).count();
}
                Step::Receive { who, keep } => match readers[who].poll() {
                    Ok(Some(message)) => {
                        prop_assert!(!told[who]);
                        check(&message, next[who], len);
                        next[who] += 1;
                        if keep {
                            kept[who].push(message);
                        }
                    }
                    Ok(None) => prop_assert!(next[who] == topic.publisher.head() && !told[who]),
                    Err(Error::Holding { held, .. }) => {
                        prop_assert!(held > 2 && held == kept[who].len() as u64);
                    }
                    Err(Error::Evicted { .. }) => {
                        prop_assert!(topic.publisher.has_evicted(who as u64));
                        told[who] = true;
                    }
                    Err(other) => panic!("{other}"),
                },
                Step::Release { who } => {
                    if let Some(message) = kept[who].pop() {
                        check(&message, message.sequence(), len);
                    }
                }
                Step::Evict => {
                    let before: Vec<_> = (0..3).map(|id| topic.publisher.has_evicted(id)).collect();
                    if !send(&mut topic, len) {
                        evict(&mut topic);
                        let now: Vec<_> = (0..3).map(|id| topic.publisher.has_evicted(id)).collect();
                        prop_assert!(before != now);
                    }
                }
            }
            for message in kept.iter().flatten() {
                prop_assert_eq!(message.bytes(), payload(message.sequence(), len));
            }
        }
        // Who is left gets everything to the end.
        kept.iter_mut().for_each(Vec::clear);
        for (who, reader) in readers.iter().enumerate() {
            if topic.publisher.has_evicted(who as u64) {
                continue;
            }
            while let Some(message) = reader.poll().unwrap() {
                check(&message, next[who], len);
                next[who] += 1;
            }
            prop_assert_eq!((next[who], reader.lost()), (topic.publisher.head(), 0));
        }
    }
}
