//! A subscriber that was there before its topic was decided: its segment does for what a publisher decides then.

use std::sync::Arc;

use bus_core::control::Trust;
use bus_core::memory::placement::Placement;
use bus_core::memory::registry::Registry;
use bus_core::memory::{reader_bytes, undecided_reader_bytes};
use bus_core::publish::Publisher;
use bus_core::receive::{Start, Subscriber};
use bus_core::{Delivery, TopicSettings};
use nix::sys::stat::fstat;

use crate::common;

/// What a subscriber that asked for nothing is told, until a publisher decides.
fn provisional() -> TopicSettings {
    common::settings(64, 64, 8, 1, 0)
}

/// A lossy topic with `held` messages held at most.
fn lossy(held: u32) -> TopicSettings {
    common::overrun_settings(Delivery::Lossy, 32, 100, (4, held), 4096)
}

fn undecided(registry: &Registry) -> Subscriber {
    Subscriber::create_undecided(
        &provisional(),
        &registry.fd(),
        Arc::new(()),
        Placement::default(),
    )
    .unwrap()
}

/// A publisher of a topic with these settings, which the subscriber follows from its first message on.
fn publisher(settings: &TopicSettings, registry: &Registry, subscriber: &Subscriber) -> Publisher {
    let mut publisher = Publisher::create(settings, &registry.fd(), 0).unwrap();
    publisher.adopt(1, &subscriber.fd()).unwrap();
    subscriber
        .attach(7, 0, &publisher.fd(), Start::First, Trust::InPlace)
        .unwrap();
    publisher
}

#[test]
fn nothing_of_the_publisher_that_decides_is_lost() {
    for decided in [
        lossy(16),
        common::settings(8, 128, 1000, 3, 64),
        TopicSettings {
            publishers: 124,
            ..provisional()
        },
    ] {
        let registry = Registry::create().unwrap();
        let subscriber = undecided(&registry);
        subscriber.joined(0);
        // The publisher sends before the subscriber has heard of anything.
        let mut publisher = Publisher::create(&decided, &registry.fd(), 0).unwrap();
        publisher.adopt(1, &subscriber.fd()).unwrap();
        for number in 0..6_u64 {
            publisher.stale();
            let sent = publisher.try_send_bytes(&number.to_le_bytes()).unwrap();
            assert_eq!(sent, Some(number));
        }
        subscriber.decide(&decided).unwrap();
        subscriber
            .attach(7, 0, &publisher.fd(), Start::First, Trust::InPlace)
            .unwrap();
        for number in 0..6_u64 {
            let message = subscriber.poll().unwrap().unwrap();
            assert_eq!(message.bytes(), number.to_le_bytes());
        }
        assert_eq!(subscriber.lost(), 0);
    }
}

#[test]
fn as_many_messages_as_were_decided_can_be_held() {
    let registry = Registry::create().unwrap();
    let subscriber = undecided(&registry);
    let decided = lossy(16);
    subscriber.decide(&decided).unwrap();
    let mut publisher = publisher(&decided, &registry, &subscriber);
    let mut held = Vec::new();
    for number in 0..400_u64 {
        publisher.stale();
        publisher.try_send_bytes(&number.to_le_bytes()).unwrap();
        if let Ok(Some(message)) = subscriber.poll()
            && number.is_multiple_of(20)
            && held.len() < 16
        {
            held.push((number, message));
        }
    }
    assert_eq!(held.len(), 16);
    for (number, message) in &held {
        assert_eq!(message.bytes(), number.to_le_bytes());
    }
}

#[test]
fn settings_that_need_a_longer_segment_are_refused_and_change_nothing() {
    let registry = Registry::create().unwrap();
    let subscriber = undecided(&registry);
    for decided in [
        lossy(18),
        TopicSettings {
            publishers: 61,
            ..lossy(16)
        },
        TopicSettings {
            publishers: 1024,
            ..provisional()
        },
    ] {
        assert!(reader_bytes(&decided) > undecided_reader_bytes());
        let error = subscriber.decide(&decided).unwrap_err().to_string();
        assert!(error.contains("open the topic again"), "{error}");
        let mut publisher = Publisher::create(&decided, &registry.fd(), 0).unwrap();
        let error = publisher.adopt(1, &subscriber.fd()).unwrap_err();
        assert!(error.to_string().contains("are needed"), "{error}");
    }
    let mut publisher = publisher(&provisional(), &registry, &subscriber);
    publisher.try_send_bytes(b"as before").ok();
    publisher.try_send_bytes(b"before").unwrap().unwrap();
    assert_eq!(subscriber.poll().unwrap().unwrap().bytes(), b"before");
}

#[test]
fn settings_are_decided_anew_only_when_no_ring_is_left() {
    let registry = Registry::create().unwrap();
    let subscriber = undecided(&registry);
    let mut first = publisher(&provisional(), &registry, &subscriber);
    first.try_send_bytes(b"one").unwrap().unwrap();
    assert!(subscriber.decide(&lossy(16)).is_err());
    assert_eq!(subscriber.poll().unwrap().unwrap().bytes(), b"one");
    first.close();
    subscriber.retire(&[7], |_| ());
    subscriber.decide(&lossy(16)).unwrap();
    let mut second = publisher(&lossy(16), &registry, &subscriber);
    second.try_send_bytes(b"two").unwrap().unwrap();
    assert_eq!(subscriber.poll().unwrap().unwrap().bytes(), b"two");
}

#[test]
fn provisional_settings_that_need_more_get_a_longer_segment() {
    let registry = Registry::create().unwrap();
    let size = |settings: TopicSettings| {
        let subscriber = Subscriber::create_undecided(
            &settings,
            &registry.fd(),
            Arc::new(()),
            Placement::default(),
        );
        fstat(subscriber.unwrap().fd()).unwrap().st_size as u64
    };
    assert_eq!(size(provisional()), undecided_reader_bytes());
    assert_eq!(size(lossy(100)), reader_bytes(&lossy(100)));
}
