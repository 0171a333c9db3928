//! A client that has lost descriptors is told everything again.

use std::collections::BTreeSet;

use crate::common::{Handle, Host, Session, until};
use bus_core::control::{Event, Request, Role, SESSION};

#[test]
fn a_subscriber_is_told_of_its_publishers_again_and_its_version_moves() {
    let host = Host::new();
    let session = host.connect();
    let publishers = [0, 1].map(|_| Handle::open_on(&session, Role::Publisher, "t").joined());
    let mut third = Handle::open_on(&session, Role::Publisher, "t").joined();
    third.register_doorbell();
    let subscriber = host.subscriber("t");
    let released = publishers[0].id;
    subscriber.release(released);
    (subscriber.session).send(subscriber.number, &Request::Retell {}, &[]);
    let mut again = Vec::new();
    let version = loop {
        let (event, descriptors) = subscriber.next_told();
        match event {
            Event::PublisherJoined { id, .. } => again.push((id, descriptors.len())),
            Event::Synced { version } => break version,
            other => panic!("{other:?}"),
        }
    };
    again.sort_unstable();
    assert_eq!(again, [(publishers[1].id, 1), (third.id, 2)]);
    // A member that could not tell two registries apart sees that something has moved.
    assert_eq!(version, subscriber.version.wrapping_add(1));
    until(|| subscriber.registry().publishers() == version);
    let id = third.id;
    drop(third);
    let dropped = false;
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
}

#[test]
fn a_publisher_is_told_of_its_subscribers_again_also_over_a_slow_session() {
    let host = Host::new();
    let session = host.connect();
    let subscribers: BTreeSet<_> = (0..20)
        .map(|_| Handle::open_on(&session, Role::Subscriber, "t").joined())
        .map(|handle| (handle.id, handle))
        .map(|(id, handle)| {
            std::mem::forget(handle);
            id
        })
        .collect();
    let publisher = host.publisher("t");
    assert_eq!(publisher.early.len(), 20);
    for _ in 0..2 {
        (publisher.session).send(publisher.number, &Request::Retell {}, &[]);
        let events = publisher.difference().0;
        let told = events.iter().map(|event| match event {
            Event::SubscriberJoined { id, .. } => *id,
            other => panic!("{other:?}"),
        });
        assert_eq!(told.collect::<BTreeSet<_>>(), subscribers);
    }
}

#[test]
fn a_handle_that_has_only_opened_is_answered_again() {
    let host = Host::new();
    let publisher = host.publisher("t");
    let opened = Handle::open(&host.path, Role::Subscriber, "t");
    assert_eq!(opened.difference().0.len(), 1);
    (opened.session).send(opened.number, &Request::Retell {}, &[]);
    let (event, descriptors) = opened.next_told();
    assert!(
        matches!(event, Event::Opened { id, .. } if id == opened.id),
        "{event:?}"
    );
    assert_eq!(descriptors.len(), 1);
    let events = opened.difference().0;
    assert!(
        matches!(events[..], [Event::PublisherJoined { id, .. }] if id == publisher.id),
        "{events:?}"
    );
}

#[test]
fn a_handle_that_comes_back_gets_its_registry_again() {
    let mut bus = super::reclaim::Bus::new();
    let mut publisher = bus.publisher("t");
    bus.busd.replace();
    publisher.reclaim(bus.path());
    (publisher.session).send(publisher.number, &Request::Retell {}, &[]);
    publisher.await_reclaimed().unwrap();
    publisher.complete();
    publisher.synced(publisher.registry().subscribers());
}

#[test]
fn a_session_is_introduced_to_its_processes_again() {
    let host = Host::new();
    let publishers = [host.publisher("t"), host.publisher("t")];
    let subscriber = host.subscriber("t");
    let session: &Session = &subscriber.session;
    session.send(SESSION, &Request::Retell {}, &[]);
    let mut again = BTreeSet::new();
    while again.len() < 2 {
        let frame = session
            .connection
            .recv::<Event>(crate::common::deadline())
            .unwrap();
        let Event::Process { process, .. } = frame.message else {
            panic!("{frame:?}");
        };
        assert_eq!(frame.descriptors.len(), 1);
        again.insert(process);
    }
    let known = publishers.iter().map(|handle| handle.session.process);
    assert_eq!(again, known.collect());
}
