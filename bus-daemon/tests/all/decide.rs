//! Subscribers that come before the first publisher: what is provisional, what is decided, and by whom.

use bus_core::control::{Event, Refusal, Request, Role};
use bus_core::memory::segment::Kind;
use bus_core::memory::{reader_bytes, undecided_reader_bytes};
use bus_core::schema::Schema;
use bus_core::{Delivery, Settings};

use crate::common::{Handle, Host, Session, small};

fn asking(role: Role, settings: Settings) -> Request {
    Request::Open {
        role,
        topic: "t".into(),
        schema: Schema::bytes(),
        settings,
        history: 0,
        watched: None,
    }
}

/// A subscriber that asks for nothing.
fn subscriber(host: &Host) -> Handle {
    let request = asking(Role::Subscriber, Settings::default());
    Handle::ask(&host.path, &request)
}

/// What a publisher asks for whose readers need `held` pins for each ring.
fn lossy(held: u32) -> Settings {
    Settings {
        delivery: Some(Delivery::Lossy),
        held: Some(held),
        depth: Some(64),
        ..small()
    }
}

fn publisher(host: &Host, settings: Settings) -> Handle {
    Handle::ask(&host.path, &asking(Role::Publisher, settings))
}

/// Ends a handle, and waits until the broker has served that.
fn end(handle: Handle) {
    let session = handle.session.clone();
    drop(handle);
    session.barrier();
}

#[test]
fn opened_says_whether_a_publisher_has_decided() {
    let host = Host::new();
    let early = subscriber(&host).joined();
    assert!(!early.decided);
    let publisher = publisher(&host, small());
    assert!(publisher.decided);
    // Opening decides, before the publisher has joined.
    assert!(subscriber(&host).decided);
    assert!(
        matches!(early.change(), Event::Decided { settings } if settings == publisher.settings)
    );
}

#[test]
fn a_longer_segment_is_taken_from_a_subscriber_that_came_first() {
    let host = Host::new();
    let (mut first, mut second) = (subscriber(&host), subscriber(&host));
    let exact = reader_bytes(&first.settings);
    assert!(exact < undecided_reader_bytes());
    first.join_with(Kind::Reader, undecided_reader_bytes());
    first.await_joined().unwrap();
    second.join_with(Kind::Reader, exact);
    second.await_joined().unwrap();
    // Between the two it opened and joined, a publisher has decided.
    let mut third = subscriber(&host);
    let _publisher = publisher(&host, small());
    third.join_with(Kind::Reader, undecided_reader_bytes());
    third.await_joined().unwrap();
}

#[test]
fn a_segment_that_is_longer_than_was_charged_for_is_refused() {
    let host = Host::new();
    let mut undecided = subscriber(&host);
    undecided.join_with(Kind::Reader, undecided_reader_bytes() + 4096);
    let (kind, why) = undecided.await_joined().unwrap_err();
    assert_eq!(kind, Refusal::Segment, "{why}");
    let _publisher = publisher(&host, small());
    let mut decided = subscriber(&host);
    decided.join_with(Kind::Reader, undecided_reader_bytes());
    let (kind, why) = decided.await_joined().unwrap_err();
    assert_eq!(kind, Refusal::Segment, "{why}");
}

#[test]
fn a_segment_that_is_too_short_for_what_is_decided_ends_its_subscriber_alone() {
    let host = Host::new();
    let short = subscriber(&host).joined();
    let asked = asking(Role::Subscriber, lossy(100));
    let long = Handle::ask(&host.path, &asked).joined();
    let not_joined = subscriber(&host);
    // What is provisional does not change for a subscriber that comes later.
    assert_eq!(not_joined.settings, short.settings);
    let publisher = publisher(&host, lossy(100)).joined();
    for handle in [&short, &not_joined] {
        let Event::Refused { kind, why } = handle.change() else {
            panic!("it cannot read the topic");
        };
        assert_eq!(kind, Refusal::Settings);
        assert!(why.contains("held 100"), "{why}");
        assert!(why.contains("open the topic again"), "{why}");
    }
    let _ = (long, publisher);
}

#[test]
fn subscribers_with_a_long_enough_segment_are_told_what_is_decided_ahead_of_its_publisher() {
    for settings in [
        lossy(16),
        Settings {
            publishers: Some(124),
            ..small()
        },
    ] {
        let host = Host::new();
        let (joined, opened) = (subscriber(&host).joined(), subscriber(&host));
        let publisher = publisher(&host, settings).joined();
        for handle in [&joined, &opened] {
            let Event::Decided { settings } = handle.change() else {
                panic!("the settings come first");
            };
            assert_eq!(settings, publisher.settings);
            let id = publisher.id;
            assert!(matches!(handle.change(), Event::PublisherJoined { id: of, .. } if of == id));
        }
        assert_eq!(publisher.early.len(), 1, "{:?}", publisher.early);
    }
}

#[test]
fn a_topic_is_decided_anew_when_nothing_of_its_publisher_is_left_to_read() {
    let host = Host::new();
    let subscriber = subscriber(&host).joined();
    let first = publisher(&host, small()).joined();
    let ring = first.id;
    assert!(matches!(subscriber.change(), Event::Decided { .. }));
    assert!(matches!(subscriber.change(), Event::PublisherJoined { .. }));
    end(first);
    assert!(matches!(subscriber.change(), Event::PublisherLeft { .. }));
    // Its ring is still read, with the settings that it has.
    let session = Session::connect(&host.path);
    let (kind, why) = session.refused(&asking(Role::Publisher, lossy(16)));
    assert_eq!(kind, Refusal::Settings, "{why}");
    subscriber.release(ring);
    subscriber.session.barrier();
    let second = publisher(&host, lossy(16)).joined();
    let decided = subscriber.change();
    assert!(matches!(decided, Event::Decided { settings } if settings == second.settings));
}

#[test]
fn a_place_that_is_kept_for_a_watch_is_as_long_as_the_publisher_needs() {
    let host = Host::new();
    let watch = Session::connect(&host.path);
    let watching = watch.ask(&crate::common::watch_request("*"));
    assert!(matches!(watch.next(watching).0, Event::Watching { .. }));
    let _subscriber = subscriber(&host).joined();
    let publisher = publisher(&host, lossy(500));
    let needed = reader_bytes(&publisher.settings);
    let mut publisher = publisher;
    publisher.join();
    loop {
        let (event, descriptors) = publisher.next_told();
        match event {
            Event::SubscriberJoined { kept: true, .. } => {
                let check = bus_core::memory::segment::check_within;
                check(&descriptors[0], Kind::Reader, needed..=u64::MAX).unwrap();
                return;
            }
            Event::Joined { .. } => panic!("no place is kept"),
            _ => {}
        }
    }
}

/// The broker died after a publisher had decided, and before a subscriber was told.
#[test]
fn a_subscriber_that_knows_an_older_state_keeps_nobody_away_from_the_next_broker() {
    for stale_first in [true, false] {
        let mut host = Host::new();
        let mut stale = subscriber(&host).joined();
        let mut publisher = publisher(&host, lossy(16)).joined();
        host.stop();
        let broker = bus_daemon::Broker::bind(&host.path).unwrap();
        host.broker = Some(broker.spawn().unwrap());
        assert_ne!(stale.settings, publisher.settings);
        if stale_first {
            stale.reclaim(&host.path);
            publisher.reclaim(&host.path);
        } else {
            publisher.reclaim(&host.path);
            stale.reclaim(&host.path);
        }
        stale.complete();
        publisher.complete();
        let decided = stale.change();
        assert!(
            matches!(decided, Event::Decided { settings } if settings == publisher.settings),
            "{decided:?}"
        );
        assert!(matches!(stale.change(), Event::PublisherJoined { .. }));
    }
}

#[test]
fn a_subscriber_whose_segment_is_too_short_for_what_was_decided_is_not_taken_back() {
    let mut host = Host::new();
    let mut stale = subscriber(&host).joined();
    let asked = asking(Role::Subscriber, lossy(100));
    let _keeps = Handle::ask(&host.path, &asked).joined();
    let mut publisher = publisher(&host, lossy(100)).joined();
    host.stop();
    let broker = bus_daemon::Broker::bind(&host.path).unwrap();
    host.broker = Some(broker.spawn().unwrap());
    publisher.reclaim(&host.path);
    let (kind, why) = stale.try_reclaim(&host.path).unwrap_err();
    assert_eq!(kind, Refusal::Settings, "{why}");
    assert!(why.contains("open the topic again"), "{why}");
}

#[test]
fn the_61st_publisher_has_an_index_where_the_topic_admits_it() {
    let host = Host::new();
    let admitting = Settings {
        publishers: Some(61),
        ..small()
    };
    let session = Session::connect(&host.path);
    let open = || Handle::ask_on(&session, &asking(Role::Publisher, admitting.clone()));
    let publishers: Vec<_> = (0..61).map(|_| open()).collect();
    let indices = publishers.iter().map(|publisher| publisher.index);
    assert!(indices.eq(0..61));
    let (kind, why) = session.refused(&asking(Role::Publisher, admitting));
    assert_eq!(kind, Refusal::Limit);
    assert!(why.contains("admits 61 publishers at a time"), "{why}");
}
