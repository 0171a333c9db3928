//! Handles that join and leave are told to the peers that they concern, in order, and then the version that this leads to.

use std::os::fd::AsFd;
use std::sync::mpsc;

use crate::common::{self, Handle, Host, Session, open_request};
use bus_core::control::{Event, Refusal, Request, Role, Trust, pidfd_alive};
use bus_core::memory::segment::{self, Kind};
use bus_core::memory::{ring_bytes, undecided_reader_bytes};
use nix::sys::stat::fstat;

fn subscribers(publisher: &Handle) -> Vec<u64> {
    let told = publisher.early.iter().map(|event| match event {
        Event::SubscriberJoined {
            id, kept: false, ..
        } => *id,
        other => panic!("{other:?}"),
    });
    told.collect()
}

#[test]
fn a_subscriber_is_told_of_publishers_before_it_joins() {
    let host = Host::new();
    let first = host.publisher("t");
    let second = host.publisher("t");
    assert_eq!((first.index, second.index), (0, 1));
    assert_eq!(first.version, second.version, "no subscriber yet");

    let subscriber = host.subscriber("t");
    assert_eq!(subscriber.version, first.registry().publishers());
    let told: Vec<_> = subscriber
        .early
        .iter()
        .map(|event| match event {
            Event::PublisherJoined {
                index,
                id,
                process,
                ended: false,
                trust: Trust::InPlace,
            } => (*index, *id, *process),
            other => panic!("{other:?}"),
        })
        .collect();
    let process = |handle: &Handle| handle.session.process;
    assert_eq!(
        told,
        [
            (0, first.id, process(&first)),
            (1, second.id, process(&second))
        ]
    );
    let known = subscriber.session.processes();
    assert_eq!(known.len(), 2);
    let known = &known[&process(&first)];
    assert_eq!(
        (known.client.as_str(), known.pid),
        ("test", std::process::id())
    );
    assert_eq!(known.user, nix::unistd::geteuid().as_raw());

    for publisher in [&first, &second] {
        let (events, version) = publisher.difference();
        assert!(
            matches!(events[..], [Event::SubscriberJoined { id, .. }] if id == subscriber.id),
            "{events:?}"
        );
        assert_eq!(version, publisher.version.wrapping_add(1));
        assert_eq!(version, publisher.registry().subscribers());
    }
}

#[test]
fn a_publisher_is_told_of_subscribers_before_it_joins() {
    let host = Host::new();
    let there = [host.subscriber("t"), host.subscriber("t")];
    let opened = Handle::open(&host.path, Role::Subscriber, "t");
    let publisher = host.publisher("t");
    assert_eq!(publisher.version, there[0].registry().subscribers());
    assert_eq!(subscribers(&publisher), [there[0].id, there[1].id]);
    // One that has only opened is told as well, and then joins.
    for subscriber in there.iter().chain([&opened]) {
        match subscriber.change() {
            Event::PublisherJoined { id, .. } => assert_eq!(id, publisher.id),
            other => panic!("{other:?}"),
        }
    }
    let late = opened.joined();
    assert_eq!(late.version, publisher.registry().publishers());
    let (events, version) = publisher.difference();
    assert!(
        matches!(events[..], [Event::SubscriberJoined { id, .. }] if id == late.id),
        "{events:?}"
    );
    assert_eq!(version, publisher.version.wrapping_add(1));
}

#[test]
fn segments_and_processes_are_handed_over() {
    let host = Host::new();
    let subscriber = host.subscriber("t");
    let mut opened = Handle::open(&host.path, Role::Publisher, "t");
    opened.join();

    let (event, descriptors) = subscriber.change_told();
    assert!(matches!(event, Event::PublisherJoined { .. }), "{event:?}");
    assert_eq!(descriptors.len(), 1);
    assert_eq!(
        fstat(&descriptors[0]).unwrap().st_ino,
        fstat(opened.segment()).unwrap().st_ino
    );
    let ring = ring_bytes(&opened.settings);
    segment::open(&descriptors[0], Kind::Ring, ring).unwrap();
    let process = &subscriber.session.processes()[&opened.session.process];
    assert!(pidfd_alive(&*process.pidfd));

    let (event, descriptors) = opened.change_told();
    assert!(matches!(event, Event::SubscriberJoined { .. }), "{event:?}");
    assert_eq!(descriptors.len(), 1);
    // The subscriber was there before the topic was decided.
    let reader = undecided_reader_bytes();
    segment::open(&descriptors[0], Kind::Reader, reader).unwrap();
    let process = &opened.session.processes()[&subscriber.session.process];
    assert!(pidfd_alive(&*process.pidfd));
}

/// Class 8 of the field notes: the members change while others look.
#[test]
fn a_leaving_is_told_and_the_version_follows_it() {
    let host = Host::new();
    let publisher = host.publisher("t");
    let subscriber = host.subscriber("t");
    publisher.difference();
    let leaves = host.subscriber("t");
    publisher.difference();
    let gone = leaves.id;
    drop(leaves);
    let (events, version) = publisher.difference();
    assert_eq!(events, [Event::SubscriberLeft { id: gone }]);
    assert_eq!(version, publisher.version.wrapping_add(3));
    // The registry has it after that.
    common::until(|| publisher.registry().subscribers() == version);

    let id = publisher.id;
    drop(publisher);
    let (events, version) = subscriber.difference();
    let dropped = false;
    assert_eq!(events, [Event::PublisherLeft { id, dropped }]);
    assert_eq!(version, subscriber.version.wrapping_add(1));
    subscriber.nothing();
}

/// The promise on which a gapless join rests: a handle that sees a version has what leads to it in its socket.
#[test]
fn the_difference_is_there_when_the_version_is_seen() {
    const ROUNDS: u32 = 200;
    /// Rounds ahead of the reader. With more, the broker waits for acknowledgements of descriptors on a busy machine: then
    /// events are still on their way.
    const AHEAD: u32 = 1;
    let host = Host::new();
    let publisher = host.publisher("t");
    let registry = publisher.registry();
    std::thread::scope(|scope| {
        let (credit, credits) = mpsc::channel();
        (0..AHEAD).for_each(|_| credit.send(()).unwrap());
        let path = &host.path;
        scope.spawn(move || {
            let session = Session::connect(path);
            let rounds = credits.iter().take(ROUNDS as usize);
            rounds.for_each(|()| {
                drop(Handle::open_on(&session, Role::Subscriber, "t").joined());
            });
        });
        let mut deadline = common::deadline().unwrap();
        let (mut known, mut left, mut late) = (publisher.version, 0, 0);
        while left < ROUNDS {
            assert!(std::time::Instant::now() < deadline, "stuck at {known}");
            let seen = registry.subscribers();
            if known == seen {
                // The broker and the subscriber need the processor.
                std::thread::yield_now();
            }
            while known != seen {
                let told = publisher.session.try_next(publisher.number);
                let (event, _) = told.unwrap_or_else(|| {
                    late += 1;
                    publisher.session.next(publisher.number)
                });
                match event {
                    Event::Synced { version } => {
                        assert!(version.wrapping_sub(known) as i32 >= 0, "it goes back");
                        known = version;
                        if version.wrapping_sub(seen) as i32 >= 0 {
                            break;
                        }
                    }
                    Event::SubscriberJoined { .. } => {}
                    Event::SubscriberLeft { .. } => {
                        left += 1;
                        deadline = common::deadline().unwrap();
                        // At the end nobody needs it.
                        let _ = credit.send(());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        // What the kernel has no room for at once comes behind its version.
        assert!(
            late * 20 < ROUNDS,
            "{late} of {ROUNDS} versions came before their events"
        );
    });
}

#[test]
fn a_handle_that_only_opened_leaves_without_a_word() {
    let host = Host::new();
    let publisher = host.publisher("t");
    let subscriber = host.subscriber("t");
    publisher.difference();
    drop(Handle::open(&host.path, Role::Subscriber, "t"));
    drop(Handle::open(&host.path, Role::Publisher, "t"));
    // What comes next tells that nothing was said in between.
    let last = host.subscriber("t");
    let (events, version) = publisher.difference();
    assert!(
        matches!(events[..], [Event::SubscriberJoined { id, .. }] if id == last.id),
        "{events:?}"
    );
    assert_eq!(version, publisher.version.wrapping_add(2));
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
    let told = |subscriber: &Handle| match subscriber.change() {
        Event::PublisherJoined { id, index, .. } => (id, index),
        other => panic!("{other:?}"),
    };
    let left = |subscriber: &Handle| {
        let event = subscriber.change();
        assert!(matches!(event, Event::PublisherLeft { .. }), "{event:?}");
    };
    let first = host.publisher("t");
    let id = first.id;
    assert_eq!((told(&stays), told(&leaves)), ((id, 0), (id, 0)));
    drop(first);
    left(&stays);
    left(&leaves);

    let second = host.publisher("t");
    assert_eq!(second.index, 1, "nobody has released ring 0");
    stays.release(id);
    stays.session.barrier();
    let third = host.publisher("t");
    assert_eq!(third.index, 2, "one has not released ring 0");
    for _ in [&second, &third] {
        told(&stays);
        told(&leaves);
    }
    drop(leaves);
    // A leaving is told to the publishers, so from then on the broker knows.
    let event = second.change();
    assert!(matches!(event, Event::SubscriberLeft { .. }), "{event:?}");
    assert_eq!(host.publisher("t").index, 0);
}

#[test]
fn the_sixty_first_publisher_is_refused_until_one_has_left() {
    let host = Host::new();
    let session = host.connect();
    let open = || Handle::open_on(&session, Role::Publisher, "t").joined();
    let mut publishers: Vec<_> = (0..60).map(|_| open()).collect();
    let mut indices: Vec<_> = publishers.iter().map(|p| p.index).collect();
    indices.sort_unstable();
    assert!(indices.into_iter().eq(0..60));

    let request = open_request(Role::Publisher, "t");
    let (kind, why) = session.refused(&request);
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
    let leaves = publishers.remove(17);
    let (id, index) = (leaves.id, leaves.index);
    drop(leaves);
    let event = subscriber.change();
    assert!(matches!(event, Event::PublisherLeft { .. }), "{event:?}");
    let (kind, why) = session.refused(&request);
    assert_eq!(kind, Refusal::Limit);
    assert!(why.contains("1 that left"), "{why}");
    subscriber.release(id);
    subscriber.session.barrier();
    assert_eq!(open().index, index);
}

/// A session has any number of handles, and its processes are told once.
#[test]
fn handles_of_one_session_come_and_go_by_themselves() {
    let host = Host::new();
    let (ours, theirs) = (host.connect(), host.connect());
    let subscriber = Handle::open_on(&ours, Role::Subscriber, "t").joined();
    let other = Handle::open_on(&ours, Role::Subscriber, "t").joined();
    assert!(ours.processes().is_empty());
    let publishers = [0, 1].map(|_| Handle::open_on(&theirs, Role::Publisher, "t").joined());
    let told = subscribers(&publishers[0]);
    assert_eq!(told, [subscriber.id, other.id]);
    for publisher in &publishers {
        for subscriber in [&subscriber, &other] {
            let event = subscriber.change();
            assert!(
                matches!(event, Event::PublisherJoined { id, process, .. }
                    if id == publisher.id && process == theirs.process),
                "{event:?}"
            );
        }
    }
    assert_eq!(ours.processes().len(), 1);
    let [leaves, stays] = publishers;
    let id = leaves.id;
    drop(leaves);
    let dropped = false;
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
    assert_eq!(other.change(), Event::PublisherLeft { id, dropped });
    // The process is known as long as any peer of it is.
    drop(other);
    assert_eq!(ours.processes().len(), 1);
    let last = stays.id;
    drop(stays);
    assert_eq!(
        subscriber.change(),
        Event::PublisherLeft { id: last, dropped }
    );
    subscriber.release(id);
    ours.barrier();
    assert_eq!(ours.processes().len(), 1);
    subscriber.release(last);
    ours.barrier();
    assert!(ours.processes().is_empty());
}

/// What is still on its way to a handle that was closed, or from one that was refused, does no harm.
#[test]
fn a_number_that_is_closed_is_listened_to_no_more() {
    let host = Host::new();
    let session = host.connect();
    let handle = Handle::open_on(&session, Role::Subscriber, "t").joined();
    let number = handle.number;
    drop(handle);
    for late in [
        Request::Close {},
        Request::Released { ring: 7 },
        Request::Wake {},
        Request::Retell {},
        Request::Decline { topic: 7 },
    ] {
        session.send(number, &late, &[]);
    }
    session.barrier();
    assert!(session.try_next(number).is_none());
}

#[test]
fn stopping_the_broker_first_tells_what_happened_before() {
    let mut host = Host::new();
    let subscriber = host.subscriber("t");
    let session = host.connect();
    for _ in 0..20 {
        drop(Handle::open_on(&session, Role::Publisher, "t").joined());
        subscriber.session.drain();
    }
    host.stop();
    let mut left = 0;
    while left < 20 {
        if matches!(subscriber.change(), Event::PublisherLeft { .. }) {
            left += 1;
        }
    }
    subscriber.session.ends();
    assert!(!host.path.exists());
}

/// More than a turn of the broker takes from one client: the leaving is behind it, and the stop is not.
#[test]
fn stopping_the_broker_waits_for_a_leaving_that_is_behind_other_requests() {
    let mut host = Host::new();
    let publisher = host.publisher("t");
    let subscriber = host.subscriber("t");
    let event = publisher.change();
    assert!(matches!(event, Event::SubscriberJoined { .. }), "{event:?}");
    let id = subscriber.id;
    (0..200).for_each(|_| subscriber.release(7));
    drop(subscriber);
    host.stop();
    assert_eq!(publisher.change(), Event::SubscriberLeft { id });
}

/// A join hands its segment over; nothing of it is kept where it is refused.
#[test]
fn a_refused_join_leaves_the_index_to_others() {
    let host = Host::new();
    let session = host.connect();
    let opened = Handle::open_on(&session, Role::Publisher, "t");
    let (short, _mapping) = segment::create(Kind::Ring, 4096).unwrap();
    session.send(opened.number, &Request::Join {}, &[short.as_fd()]);
    assert_eq!(session.refusal(opened.number).0, Refusal::Segment);
    assert_eq!(host.publisher("t").index, opened.index);
}
