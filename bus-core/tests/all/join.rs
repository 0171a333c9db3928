//! Joining in the middle of traffic, where the publisher does not know the subscriber yet.

use std::sync::Arc;

use bus_core::control::Trust;
use bus_core::receive::Start;

use crate::common::{Event, Topic, payload, settings};

#[test]
fn a_batch_leaves_alone_what_somebody_may_read_who_joins_during_it() {
    let topic = Topic::new(settings(16, 64, 640, 2, 0));
    let reader = topic.subscriber(Arc::new(()));
    topic.attach(&reader, 2);
    let Topic {
        mut publisher,
        mut registry,
        ..
    } = topic;
    assert_eq!(publisher.stale(), None);
    let mut batch = publisher.batch();
    let push = |batch: &mut bus_core::publish::Batch<'_>| {
        let bytes = payload(batch.sent(), 640);
        batch.push_bytes(&bytes).unwrap()
    };
    assert_eq!((push(&mut batch), push(&mut batch)), (Some(0), Some(1)));
    registry.bump_subscribers();
    reader.joined(2);
    // The slots would do for more, the arena does not: it has room for four.
    while push(&mut batch).is_some() {}
    assert_eq!(batch.sent(), 4);
    drop(batch);
    for sequence in 0..4 {
        let message = reader.poll().unwrap().unwrap();
        assert_eq!(message.sequence(), sequence);
        assert_eq!(message.bytes(), payload(sequence, 640));
    }
}

#[test]
fn a_cursor_never_moves_back_when_a_subscriber_has_joined() {
    let mut topic = Topic::new(settings(8, 64, 8, 7, 0));
    let reader = topic.subscriber(Arc::new(()));
    for sequence in 0..8_u64 {
        topic.sync();
        topic
            .publisher
            .try_send_bytes(&sequence.to_le_bytes())
            .unwrap()
            .unwrap();
    }
    // It registers at the head, is adopted there, and asks for history only then.
    let start = Start::Head { history: 0 };
    reader
        .attach(0, 0, &topic.publisher.fd(), start, Trust::InPlace)
        .unwrap();
    let segment = reader.fd().try_clone_to_owned().unwrap();
    topic.announce(Event::Joined(1, segment));
    topic.sync();
    topic
        .publisher
        .try_send_bytes(&8_u64.to_le_bytes())
        .unwrap()
        .unwrap();
    reader.joined(7);
    // Whatever it starts with, it misses nothing from there on.
    let mut next = None;
    for sequence in 9..60_u64 {
        topic.sync();
        let sent = topic
            .publisher
            .try_send_bytes(&sequence.to_le_bytes())
            .unwrap();
        if sent.is_none() || sequence % 8 == 0 {
            while let Some(message) = reader.poll().unwrap() {
                assert_eq!(message.sequence(), next.unwrap_or(message.sequence()));
                assert_eq!(message.bytes(), message.sequence().to_le_bytes());
                next = Some(message.sequence() + 1);
            }
        }
        if sent.is_none() {
            break;
        }
    }
    assert!(next.is_some(), "nothing was received");
}
