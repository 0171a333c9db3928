//! What a broker that is told to stop still says to its sessions.

use std::collections::BTreeSet;
use std::thread;

use crate::common::{Handle, Host, open_request, until, watch_request};
use bus_core::Error;
use bus_core::control::{Event, Request, Role, Watched};

/// More publishers than a session is told of before it acknowledges descriptors.
const PUBLISHERS: usize = 40;

#[test]
fn a_subscriber_receives_the_rings_that_only_a_stopping_broker_has() {
    let mut host = Host::new();
    let subscriber = host.subscriber("t");
    subscriber.session.stop_acknowledging();
    let session = host.connect();
    let left: BTreeSet<u64> = (0..PUBLISHERS)
        .map(|_| Handle::open_on(&session, Role::Publisher, "t").joined().id)
        .collect();
    session.barrier();
    host.stop();
    let mut told = BTreeSet::new();
    let error = loop {
        match subscriber.session.hear(subscriber.number) {
            Ok((Event::PublisherJoined { id, .. }, segment)) => {
                assert_eq!(segment.len(), 1);
                told.insert(id);
            }
            Ok((Event::PublisherLeft { dropped, .. }, _)) => assert!(!dropped),
            Ok((Event::Synced { .. }, _)) => {}
            Ok((other, _)) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Closed), "{error}");
    assert_eq!(told, left);
}

/// The publisher has left, so its ring is nowhere but with the broker.
#[test]
fn a_stopping_broker_waits_for_the_subscriber_that_a_pattern_is_to_open() {
    let mut host = Host::new();
    let session = host.connect();
    let number = session.ask(&watch_request("t"));
    let Event::Watching { id: watch } = session.next(number).0 else {
        panic!("the watch was not opened");
    };
    let left = host.publisher("t").id;
    let Event::TopicAppeared { id: topic, .. } = session.next(number).0 else {
        panic!("the watch was not told of the topic");
    };
    let path = host.path.clone();
    let stopping = thread::spawn(move || host.stop());
    until(|| !path.exists());
    let mut request = open_request(Role::Subscriber, "t");
    if let Request::Open { watched, .. } = &mut request {
        *watched = Some(Watched { watch, topic });
    }
    let late = Handle::ask_on(&session, &request).joined();
    stopping.join().unwrap();
    let told = late.early.iter().map(|event| match event {
        Event::PublisherJoined { id, .. } => *id,
        other => panic!("{other:?}"),
    });
    assert_eq!(told.collect::<Vec<_>>(), [left]);
}
