//! Feature bits of segments: a segment may need what this code does not know, and is refused then, or may have it for
//! whoever knows it.
//!
//! The bits are written by the segment's own creator before anybody else maps it, as a later version of bus would.

mod common;

use std::os::fd::AsFd;
use std::sync::Arc;

use bus_core::memory::registry::Versions;
use bus_core::publish::Publisher;
use bus_core::receive::{Start, Subscriber};
use bus_core::{Error, Result, TopicSettings};

use common::{Event, Pen, Topic};

/// Where the feature bits lie in every segment.
const FEATURES: usize = 8;
/// A bit of each half that no version defines.
const NEEDED: u32 = 17;
const OPTIONAL: u32 = 49;

fn settings() -> TopicSettings {
    common::settings(8, 64, 48, 1, 0)
}

/// A creator that has this feature.
fn with_feature(segment: &impl AsFd, bit: u32) {
    Pen::on(segment).write64(FEATURES, 1 << bit);
}

#[track_caller]
fn refused<T>(opened: Result<T>, kind: &str) {
    match opened.err() {
        Some(Error::Segment { segment, why }) => {
            assert_eq!(segment, kind);
            assert!(why.contains("feature bit 17"), "{why}");
            assert!(why.contains("newer"), "it says what to do: {why}");
        }
        other => panic!("{kind}: {other:?}"),
    }
}

fn attach(topic: &Topic, subscriber: &Subscriber) -> Result<()> {
    let start = Start::Head { history: 0 };
    subscriber.attach(0, 0, &topic.publisher.fd(), start, topic.trust)
}

#[test]
fn a_segment_that_needs_an_unknown_feature_is_refused_with_its_bit_and_what_to_do() {
    let mut topic = Topic::new(settings());
    let subscriber = topic.subscriber(Arc::new(()));
    with_feature(&topic.publisher.fd(), NEEDED);
    refused(attach(&topic, &subscriber), "ring");
    with_feature(&subscriber.fd(), NEEDED);
    refused(topic.publisher.adopt(1, &subscriber.fd()), "reader");
    with_feature(&topic.registry.fd(), NEEDED);
    let registry = topic.registry.fd();
    refused(Versions::open(&registry), "registry");
    refused(Publisher::create(&settings(), &registry, 1), "registry");
    let member = Arc::new(());
    refused(
        Subscriber::create(&settings(), &registry, member),
        "registry",
    );
}

#[test]
fn a_segment_with_an_optional_feature_is_used_by_those_that_do_not_know_it() {
    let mut topic = Topic::new(settings());
    with_feature(&topic.registry.fd(), OPTIONAL);
    with_feature(&topic.publisher.fd(), OPTIONAL);
    let subscriber = topic.subscriber(Arc::new(()));
    with_feature(&subscriber.fd(), OPTIONAL);
    attach(&topic, &subscriber).unwrap();
    let segment = subscriber.fd().try_clone_to_owned().unwrap();
    topic.announce(Event::Joined(1, segment));
    subscriber.joined(0);
    topic.sync();
    topic.publisher.try_send_bytes(b"message").unwrap().unwrap();
    assert_eq!(subscriber.poll().unwrap().unwrap().bytes(), b"message");
}
