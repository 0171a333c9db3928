//! What each kind of topic does about a subscriber that does not keep up, and what it says.
//!
//! Classes of bugs that this is to catch: a slow peer stops the rest; a lapped reader counts its loss wrongly, or reads a mix;
//! a message that is held is written over.

use std::time::{Duration, Instant};

use crate::common::process::WATCHDOG;
use crate::common::stage::{Stage, hosting};
use bus_client::{Bus, Delivery, Error};

fn named(stage: &Stage, name: &str) -> Bus {
    hosting(name, &stage.path).connect().unwrap()
}

#[test]
fn on_a_lossy_topic_the_publisher_never_waits_and_each_loss_is_counted() {
    let stage = Stage::new();
    let bus = named(&stage, "lossy");
    let topic = || bus.topic("t").unwrap().lossy().depth(16);
    let subscriber = topic().subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap();
    for number in 0..1000 {
        assert_eq!(publisher.try_send(&number).unwrap(), number);
    }
    let (mut received, mut lost) = (0, 0);
    while let Some(message) = subscriber.try_recv().unwrap() {
        assert_eq!(message.to_native(), message.sequence());
        received += 1;
        lost += message.lost();
        assert_eq!(message.sequence() + 1, received + lost);
    }
    assert_eq!((received + lost, subscriber.lost()), (1000, lost));
    assert!(received >= 14, "received {received}");
}

#[test]
fn what_is_held_on_a_lossy_topic_stays_and_the_others_lose_nothing() {
    let stage = Stage::new();
    let bus = named(&stage, "holder");
    let topic = || bus.topic("t").unwrap().lossy().depth(8).held(4);
    let holder = topic().subscriber::<u64>().unwrap();
    let other = topic().subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap();
    let mut kept = Vec::new();
    for number in 0..1000 {
        publisher.try_send(&number).unwrap();
        let message = other.try_recv().unwrap().unwrap();
        assert_eq!((message.to_native(), message.lost()), (number, 0));
        if number % 100 == 0 && kept.len() < 4 {
            let mut last = None;
            while let Some(message) = holder.try_recv().unwrap() {
                last = Some(message);
            }
            kept.push(last.unwrap().hold());
        }
    }
    assert_eq!(publisher.nowhere(), 0);
    let held: Vec<u64> = kept.iter().map(|m| m.to_native()).collect();
    assert_eq!(held, [0, 100, 200, 300]);
    drop(holder);
    let elsewhere = std::thread::spawn(move || kept.iter().map(|m| m.to_native()).sum::<u64>());
    assert_eq!(elsewhere.join().unwrap(), 600);
}

#[test]
fn holding_more_than_the_topic_allows_says_who_holds_what() {
    for lossy in [false, true] {
        let stage = Stage::new();
        let bus = named(&stage, "hoarder");
        let topic = || {
            let topic = bus.topic("t").unwrap().depth(16).held(3);
            if lossy { topic.lossy() } else { topic }
        };
        let subscriber = topic().subscriber::<u64>().unwrap();
        let mut publisher = topic().publisher::<u64>().unwrap();
        publisher.publish_batch(&[0, 1, 2, 3, 4, 5, 6]).unwrap();
        let mut held = Vec::new();
        let error = loop {
            match subscriber.try_recv() {
                Ok(message) => held.push(message.unwrap().hold()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Holding { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("topic t") && text.contains("message 0 since"),
            "{text}"
        );
        assert!(text.contains("holding_more_than"), "the thread: {text}");
        // The window of a lossy one holds one more.
        assert_eq!(held.len(), 3 + usize::from(lossy), "{text}");
        let next = held.len() as u64;
        held.remove(1);
        assert_eq!(subscriber.try_recv().unwrap().unwrap().to_native(), next);
    }
}

#[test]
fn on_a_topic_that_fails_send_says_at_once_who_is_slow() {
    let stage = Stage::new();
    let bus = named(&stage, "slow");
    let topic = || bus.topic("t").unwrap().delivery(Delivery::Fail).depth(4);
    let subscriber = topic().subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap();
    publisher.publish_batch(&[0, 1, 2, 3]).unwrap();
    let error = publisher.send(&4).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert!(error.to_string().contains("subscriber slow"), "{error}");
    drop(subscriber.recv().unwrap());
    assert_eq!(publisher.send(&4).unwrap(), 4);
}

#[test]
fn who_makes_no_progress_is_evicted_and_the_others_never_notice() {
    const PATIENCE: Duration = Duration::from_millis(20);
    let stage = Stage::new();
    let bus = named(&stage, "evicting");
    let evicting = Delivery::evict_after(PATIENCE);
    let topic = || bus.topic("t").unwrap().delivery(evicting).depth(8);
    let stuck = topic().subscriber::<u64>().unwrap();
    let other = topic().subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap();
    publisher.send(&0).unwrap();
    let held = stuck.recv().unwrap();
    assert_eq!(other.recv().unwrap().to_native(), 0);
    let began = Instant::now();
    for number in 1..100 {
        publisher.send(&number).unwrap();
        let message = other.try_recv().unwrap().unwrap();
        assert_eq!((message.to_native(), message.lost()), (number, 0));
    }
    assert!(began.elapsed() >= PATIENCE, "it was waited for");
    let stalls = publisher.stalls();
    assert_eq!(stalls.iter().filter(|stall| stall.evicted).count(), 1);
    let stall = stalls.iter().find(|stall| stall.evicted).unwrap();
    assert!(stall.time >= PATIENCE / 2, "{stalls:?}");
    assert_eq!(publisher.subscribers().unwrap().len(), 1);
    assert_eq!(held.to_native(), 0);
    for _ in 0..3 {
        let error = stuck.recv_timeout(WATCHDOG).unwrap_err();
        assert!(matches!(error, Error::Evicted { .. }), "{error}");
    }
    assert_eq!(held.to_native(), 0);
    drop(held);
    drop(stuck);
    let again = topic().subscriber::<u64>().unwrap();
    publisher.send(&100).unwrap();
    assert_eq!(again.recv().unwrap().to_native(), 100);
}

#[test]
fn large_messages_are_held_while_a_lossy_ring_goes_round() {
    let stage = Stage::new();
    let bus = named(&stage, "large");
    let topic = || bus.topic("t").unwrap().lossy().max_payload(100_000).held(2);
    let subscriber = topic().bytes_subscriber().unwrap();
    let mut publisher = topic().bytes_publisher().unwrap();
    let bytes = |number: u64| vec![number as u8; 60_000 + number as usize * 7];
    let mut held = Vec::new();
    let mut lost = 0;
    for number in 0..200 {
        publisher.try_send(&bytes(number)).unwrap();
        if number % 40 == 10 && held.len() < 2 {
            let message = subscriber.try_recv().unwrap().unwrap();
            lost += message.lost();
            held.push(message.hold());
        }
        for message in &held {
            assert_eq!(message.bytes(), bytes(message.sequence()));
        }
    }
    let mut received = held.len() as u64;
    while let Some(message) = subscriber.try_recv().unwrap() {
        assert_eq!(message.bytes(), bytes(message.sequence()));
        received += 1;
        lost += message.lost();
    }
    assert_eq!((received + lost, publisher.nowhere()), (200, 0));
}

/// Class of bug: a member that is gone is kept for ever, here by who was evicted by it and has nobody else to hear.
#[test]
fn an_evicted_subscriber_lets_go_of_a_publisher_that_left() {
    let stage = Stage::new();
    let bus = named(&stage, "evicted");
    let after_us = 1000;
    let topic = || {
        let topic = bus.topic("t").unwrap().depth(4);
        topic.delivery(Delivery::Evict { after_us })
    };
    let subscriber = topic().end_with_publishers();
    let subscriber = subscriber.subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap();
    while !publisher.stalls().iter().any(|stall| stall.evicted) {
        publisher.send(&1).unwrap();
    }
    drop(publisher);
    let deadline = Instant::now() + WATCHDOG;
    loop {
        match subscriber.try_recv() {
            Err(Error::Ended { .. }) => break,
            Err(Error::Evicted { .. }) | Ok(None) => {}
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < deadline, "it never ends");
    }
    assert!(subscriber.publishers().unwrap().is_empty());
}
