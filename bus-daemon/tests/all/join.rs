//! Who joins and leaves is told to whom it concerns, in order, each with the version that it leads to.

use std::os::fd::AsFd;
use std::sync::mpsc;

use crate::common::{self, Handle, Host, next, open_request, refusal};
use bus_core::control::{Event, Refusal, Request, Role, Trust, pidfd_alive};
use bus_core::memory::segment::{self, Kind};
use bus_core::memory::{reader_bytes, ring_bytes};
use nix::sys::stat::fstat;

#[test]
fn a_subscriber_is_told_of_publishers_before_it_joins() {
    let host = Host::new();
    let first = host.publisher("t");
    let second = host.publisher("t");
    assert_eq!((first.index, second.index), (0, 1));
    assert_eq!((first.version, second.version), (0, 0), "no subscriber yet");

    let subscriber = host.subscriber("t");
    assert_eq!(subscriber.version, 2);
    let told: Vec<_> = subscriber
        .early
        .iter()
        .map(|event| match event {
            Event::PublisherJoined {
                version,
                index,
                id,
                client,
                pid,
                ended: false,
                trust: Trust::InPlace,
                user,
            } => {
                assert_eq!((client.as_str(), *pid), ("test", std::process::id()));
                assert_eq!(*user, nix::unistd::geteuid().as_raw());
                (*version, *index, *id)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(2, 0, first.id), (2, 1, second.id)]);

    for publisher in [&first, &second] {
        match publisher.next() {
            Event::SubscriberJoined { version: 1, id, .. } => assert_eq!(id, subscriber.id),
            other => panic!("{other:?}"),
        }
        let registry = publisher.registry();
        assert_eq!((registry.publishers(), registry.subscribers()), (2, 1));
    }
}

#[test]
fn a_publisher_is_told_of_subscribers_before_it_joins() {
    let host = Host::new();
    let subscribers = [host.subscriber("t"), host.subscriber("t")];
    let opened = Handle::open(&host.path, Role::Subscriber, "t");
    let publisher = host.publisher("t");
    assert_eq!(publisher.version, 2);
    let told: Vec<_> = publisher
        .early
        .iter()
        .map(|event| match event {
            Event::SubscriberJoined { version, id, .. } => (*version, *id),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(2, subscribers[0].id), (2, subscribers[1].id)]);
    // One that has only opened is told as well, and then joins.
    for subscriber in subscribers.iter().chain([&opened]) {
        match subscriber.next() {
            Event::PublisherJoined { version: 1, id, .. } => assert_eq!(id, publisher.id),
            other => panic!("{other:?}"),
        }
    }
    let late = opened.joined();
    assert_eq!(late.version, 1);
    assert!(matches!(
        publisher.next(),
        Event::SubscriberJoined { version: 3, .. }
    ));
}

#[test]
fn segments_and_processes_are_handed_over() {
    let host = Host::new();
    let subscriber = host.subscriber("t");
    let opened = Handle::open(&host.path, Role::Publisher, "t");
    let ring = segment::create(Kind::Ring, ring_bytes(&opened.settings)).unwrap();
    opened
        .connection
        .send(&Request::Join, &[ring.0.as_fd()])
        .unwrap();

    let (event, descriptors) = next(&subscriber.connection);
    assert!(matches!(event, Event::PublisherJoined { .. }), "{event:?}");
    assert_eq!(descriptors.len(), 2);
    assert_eq!(
        fstat(&descriptors[0]).unwrap().st_ino,
        fstat(&ring.0).unwrap().st_ino
    );
    segment::open(&descriptors[0], Kind::Ring, ring_bytes(&opened.settings)).unwrap();
    assert!(pidfd_alive(&descriptors[1]));

    let (event, descriptors) = next(&opened.connection);
    assert!(matches!(event, Event::SubscriberJoined { .. }), "{event:?}");
    assert_eq!(descriptors.len(), 2);
    segment::open(
        &descriptors[0],
        Kind::Reader,
        reader_bytes(&opened.settings),
    )
    .unwrap();
    assert!(pidfd_alive(&descriptors[1]));
}

/// Class 8 of the field notes: the members change while others look.
#[test]
fn who_leaves_is_told_and_the_version_follows_the_event() {
    let host = Host::new();
    let publisher = host.publisher("t");
    let subscriber = host.subscriber("t");
    let gone = host.subscriber("t").id;
    assert!(matches!(
        publisher.next(),
        Event::SubscriberJoined { version: 1, .. }
    ));
    assert!(matches!(
        publisher.next(),
        Event::SubscriberJoined { version: 2, .. }
    ));
    let left = Event::SubscriberLeft {
        version: 3,
        id: gone,
        exited: false,
    };
    assert_eq!(publisher.next(), left);

    let (id, index) = (publisher.id, publisher.index);
    drop(publisher);
    let left = Event::PublisherLeft {
        version: 2,
        id,
        index,
        exited: false,
    };
    assert_eq!(subscriber.next(), left);
    subscriber.nothing();
}

/// The promise on which a gapless join rests: whoever sees a version has the events up to it in its socket.
#[test]
fn the_event_is_there_when_the_version_is_seen() {
    const ROUNDS: u32 = 500;
    /// Rounds ahead of who reads. More would fill its socket: then events are on their way, but for those of who is gone again.
    const AHEAD: u32 = 20;
    let host = Host::new();
    let publisher = host.publisher("t");
    let registry = publisher.registry();
    std::thread::scope(|scope| {
        let (credit, credits) = mpsc::channel();
        (0..AHEAD).for_each(|_| credit.send(()).unwrap());
        let host = &host;
        scope.spawn(move || {
            let rounds = credits.iter().take(ROUNDS as usize);
            rounds.for_each(|()| drop(host.subscriber("t")));
        });
        let deadline = common::deadline().unwrap();
        let mut known = 0;
        while known < 2 * ROUNDS {
            assert!(std::time::Instant::now() < deadline, "stuck at {known}");
            let seen = registry.subscribers();
            while known < seen {
                let event = publisher.connection.try_recv::<Event>().unwrap();
                let (event, _) =
                    event.unwrap_or_else(|| panic!("version {seen} came before its event"));
                let (Event::SubscriberJoined { version, .. }
                | Event::SubscriberLeft { version, .. }) = event
                else {
                    panic!("{event:?}");
                };
                assert_eq!(version, known + 1);
                known = version;
                if known.is_multiple_of(2) {
                    // At the end nobody needs it.
                    let _ = credit.send(());
                }
            }
        }
    });
}

#[test]
fn who_only_opened_leaves_without_a_word() {
    let host = Host::new();
    let publisher = host.publisher("t");
    let subscriber = host.subscriber("t");
    assert!(matches!(publisher.next(), Event::SubscriberJoined { .. }));
    drop(Handle::open(&host.path, Role::Subscriber, "t"));
    drop(Handle::open(&host.path, Role::Publisher, "t"));
    // What comes next tells that nothing was said in between.
    let last = host.subscriber("t");
    let Event::SubscriberJoined { version, id, .. } = publisher.next() else {
        panic!("not joined");
    };
    assert_eq!((version, id), (2, last.id));
    subscriber.nothing();
}

#[test]
fn topics_do_not_hear_of_each_other_and_ids_are_never_used_again() {
    let host = Host::new();
    let here = host.subscriber("here");
    let mut ids = vec![here.id];
    for _ in 0..5 {
        let there = host.publisher("there");
        assert_eq!(there.index, 0);
        ids.push(there.id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6);
    here.nothing();
}

#[test]
fn an_index_is_free_again_when_everybody_has_released_the_ring_or_left() {
    let host = Host::new();
    let [stays, leaves] = [host.subscriber("t"), host.subscriber("t")];
    let told = |subscriber: &Handle| match subscriber.next() {
        Event::PublisherJoined { index, .. } => index,
        other => panic!("{other:?}"),
    };
    let left = |subscriber: &Handle| {
        assert!(matches!(subscriber.next(), Event::PublisherLeft { .. }));
    };
    drop(host.publisher("t"));
    assert_eq!((told(&stays), told(&leaves)), (0, 0));
    left(&stays);
    left(&leaves);

    let second = host.publisher("t");
    assert_eq!(second.index, 1, "nobody has released ring 0");
    stays.release(0);
    let third = host.publisher("t");
    assert_eq!(third.index, 2, "one has not released ring 0");
    for _ in [&second, &third] {
        told(&stays);
        told(&leaves);
    }
    drop(leaves);
    // Who leaves is told to the publishers, so from then on the broker knows.
    assert!(matches!(second.next(), Event::SubscriberLeft { .. }));
    assert_eq!(host.publisher("t").index, 0);
}

#[test]
fn the_sixty_first_publisher_is_refused_until_one_has_left() {
    let host = Host::new();
    let mut publishers: Vec<_> = (0..60).map(|_| host.publisher("t")).collect();
    let mut indices: Vec<_> = publishers.iter().map(|p| p.index).collect();
    indices.sort_unstable();
    assert!(indices.into_iter().eq(0..60));

    let refused = || {
        let connection = host.connect();
        connection
            .send(&open_request(Role::Publisher, "t"), &[])
            .unwrap();
        refusal(&connection)
    };
    let (kind, why) = refused();
    assert_eq!(kind, Refusal::Limit);
    let one = format!("test (process {})", std::process::id());
    let eight = vec![one; 8].join(", ");
    assert_eq!(
        why,
        format!(
            "topic t admits 60 publishers at a time, and has 60: {eight}, 52 more; asked for one more"
        )
    );

    let subscriber = host.subscriber("t");
    assert_eq!(subscriber.early.len(), 60);
    let index = publishers.remove(17).index;
    assert!(matches!(subscriber.next(), Event::PublisherLeft { .. }));
    let (kind, why) = refused();
    assert_eq!(kind, Refusal::Limit);
    assert!(why.contains("1 that left"), "{why}");
    subscriber.release(index);
    // Its own connection is in order with nothing else, so ask until the broker has read it.
    let deadline = common::deadline().unwrap();
    let joined = loop {
        assert!(
            std::time::Instant::now() < deadline,
            "the index is never free again"
        );
        let connection = host.connect();
        connection
            .send(&open_request(Role::Publisher, "t"), &[])
            .unwrap();
        if let Event::Opened { index, .. } = next(&connection).0 {
            break index;
        }
    };
    assert_eq!(joined, index);
}

#[test]
fn stopping_the_broker_first_tells_what_happened_before() {
    let mut host = Host::new();
    let subscriber = host.subscriber("t");
    let publishers: Vec<_> = (0..20).map(|_| host.publisher("t")).collect();
    drop(publishers);
    host.stop();
    let events: Vec<_> = (0..40).map(|_| subscriber.next()).collect();
    let left = events
        .iter()
        .filter(|e| matches!(e, Event::PublisherLeft { .. }))
        .count();
    assert_eq!(left, 20);
    let end = subscriber
        .connection
        .recv::<Event>(common::deadline())
        .unwrap_err();
    assert!(matches!(end, bus_core::Error::Closed), "{end}");
    assert!(!host.path.exists());
}

/// More than a turn of the broker takes from one client: the leaving is behind it, and the stop is not.
#[test]
fn stopping_the_broker_waits_for_a_leaving_that_is_behind_other_requests() {
    let mut host = Host::new();
    let publisher = host.publisher("t");
    let subscriber = host.subscriber("t");
    assert!(matches!(publisher.next(), Event::SubscriberJoined { .. }));
    (0..200).for_each(|_| subscriber.release(0));
    drop(subscriber);
    host.stop();
    assert!(matches!(
        publisher.next(),
        Event::SubscriberLeft { version: 2, .. }
    ));
}
