//! A broker comes after another one: who waits for members that may come back, how long, and who is fenced for it.

use std::time::{Duration, Instant};

use super::reclaim::{Bus, comes_without};
use crate::common::actor::Actor;
use crate::common::{Busd, Greeting, Handle, Session, open_request, small, until, watch_request};
use bus_core::Settings;
use bus_core::control::{Event, Refusal, Request, Role};
use nix::sys::signal::Signal;

/// How long newcomers wait after an unclean start for members that nobody knows.
const UNKNOWN: Duration = Duration::from_millis(200);
/// How long a newcomer waits for members that are known.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// What the broker logs of a request that it puts aside.
const WAITS: &str = "a newcomer waits for members of an earlier broker";

/// Asks to open a topic on a session of its own.
fn ask(bus: &Bus, role: Role, topic: &str) -> (std::sync::Arc<Session>, Request) {
    let session = Session::connect(bus.path());
    let request = open_request(role, topic);
    assert_eq!(session.ask(&request), 1);
    (session, request)
}

/// The first handle of a session has no answer yet, as far as the broker has served anybody.
fn is_unanswered(bus: &Bus, session: &Session) {
    Session::connect(bus.path()).barrier();
    session.barrier();
    let told = session.try_next(1);
    assert!(told.is_none(), "{told:?}");
}

#[test]
fn newcomers_wait_a_little_after_a_start_that_nothing_is_known_of() {
    for start_again in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let mut since = Instant::now();
        let mut busd = Busd::start(&path, "");
        if start_again {
            since = Instant::now();
            busd.replace();
        }
        Handle::open(&path, Role::Publisher, "t").joined();
        assert!(since.elapsed() >= UNKNOWN, "{:?}", since.elapsed());
    }
}

#[test]
fn newcomers_do_not_wait_after_a_broker_that_ended_without_members() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let mut busd = Busd::start(&path, "");
    drop(Handle::open(&path, Role::Publisher, "t").joined());
    busd.signal(Signal::SIGTERM);
    busd.child.wait().unwrap();
    let mut busd = Busd::start(&path, "export RUST_LOG=debug");
    let watching = Session::connect(&path);
    let number = watching.ask(&watch_request("**"));
    assert!(matches!(watching.next(number).0, Event::Watching { .. }));
    Handle::open(&path, Role::Publisher, "t").joined();
    let lines = busd.lines_to(" joined ");
    assert!(!lines.iter().any(|line| line.contains(WAITS)), "{lines:?}");
}

#[test]
fn newcomers_wait_for_the_other_role_on_their_topic_and_go_on_when_it_is_back() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let (waits, request) = ask(&bus, Role::Subscriber, "t");
    // Those of the same role, and other topics, are nobody's business.
    let beside = bus.publisher("t");
    assert_eq!(beside.index, 1, "the index of the absent one is its own");
    let _elsewhere = bus.subscriber("elsewhere");
    is_unanswered(&bus, &waits);
    publisher.reclaim(bus.path());
    publisher.complete();
    let late = Handle::opened(&waits, 1, &request).unwrap().joined();
    let told = late.known();
    assert!(told.iter().any(|peer| peer.id == publisher.id), "{told:?}");
    loop {
        let event = publisher.change();
        if matches!(event, Event::SubscriberJoined { id, .. } if id == late.id) {
            break;
        }
    }
}

#[test]
fn newcomers_go_on_when_the_process_that_they_wait_for_dies() {
    let mut bus = Bus::new();
    let mut dies = Actor::own(bus.path());
    dies.ok("take publisher t");
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let (waits, request) = ask(&bus, Role::Subscriber, "t");
    // One closes meanwhile, and one hangs up.
    let (closes, _) = ask(&bus, Role::Subscriber, "t");
    closes.send(1, &Request::Close {}, &[]);
    drop(ask(&bus, Role::Subscriber, "t"));
    is_unanswered(&bus, &waits);
    dies.kill();
    Handle::opened(&waits, 1, &request).unwrap().joined();
    closes.barrier();
    assert!(closes.try_next(1).is_none());
}

#[test]
fn a_newcomer_that_joins_after_its_time_fences_those_that_it_waited_for() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let since = Instant::now();
    let newcomer = bus.subscriber("t");
    assert!(since.elapsed() >= PATIENCE, "{:?}", since.elapsed());
    let (kind, why) = publisher.try_reclaim(bus.path()).unwrap_err();
    assert_eq!(kind, Refusal::Fenced);
    assert!(why.contains("topic t"), "{why}");
    // It is final, and the others are told at the latest when its process says that this was all.
    publisher.complete();
    let (id, dropped) = (publisher.id, false);
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
    newcomer.session.barrier();
    newcomer.nothing();
    // Nobody waits for it any more.
    drop(newcomer);
    subscriber.release(id);
    subscriber.session.barrier();
    assert_eq!(bus.publisher("t").index, 0);
}

/// Class 8 of the field notes: a member that is gone and gates for ever.
#[test]
fn a_process_that_comes_back_and_never_ends_that_holds_up_newcomers_for_a_bounded_time() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    bus.busd.replace();
    publisher.reclaim(bus.path());
    let since = Instant::now();
    let newcomer = bus.subscriber("t");
    assert!(since.elapsed() >= PATIENCE, "{:?}", since.elapsed());
    let (id, dropped) = (publisher.id, false);
    assert_eq!(
        newcomer.early.last(),
        Some(&Event::PublisherLeft { id, dropped })
    );
    // It does not listen to its new registry, so it would miss the newcomer.
    let refused = publisher.change();
    assert!(
        matches!(
            refused,
            Event::Refused {
                kind: Refusal::Fenced,
                ..
            }
        ),
        "{refused:?}"
    );
}

/// It may have handles on any topic.
#[test]
fn newcomers_of_all_topics_wait_while_a_process_comes_back() {
    let mut bus = Bus::new();
    let publisher = bus.publisher("t");
    bus.busd.replace();
    let back = Session::greet(bus.path(), publisher.session.returns(1)).unwrap();
    let (waits, request) = ask(&bus, Role::Publisher, "elsewhere");
    let watching = Session::connect(bus.path());
    assert_eq!(watching.ask(&watch_request("**")), 1);
    is_unanswered(&bus, &waits);
    is_unanswered(&bus, &watching);
    back.complete();
    Handle::opened(&waits, 1, &request).unwrap().joined();
    assert!(matches!(
        watching.next(1).0,
        Event::TopicAppeared { .. } | Event::Watching { .. }
    ));
}

/// Finding of the review: a newcomer that is itself refused condemned members that were away.
#[test]
fn a_newcomer_that_is_refused_fences_nobody() {
    let mut bus = Bus::new();
    let one = |topic: &str| Request::Open {
        role: Role::Publisher,
        topic: topic.into(),
        schema: bus_core::schema::Schema::bytes(),
        settings: Settings {
            publishers: Some(1),
            ..small()
        },
        history: 0,
        watched: None,
    };
    let mut writer = Handle::ask(bus.path(), &one("t")).joined();
    let mut reader = bus.subscriber("t");
    writer.difference();
    bus.busd.replace();
    writer.reclaim(bus.path());
    writer.complete();
    let (kind, why) = Session::connect(bus.path()).refused(&one("t"));
    assert_eq!(kind, Refusal::Limit, "{why}");
    reader.reclaim(bus.path());
    reader.complete();
    assert_eq!(reader.difference().0, []);
}

/// A publisher that opens and never joins has not fenced anybody either.
#[test]
fn a_newcomer_that_only_opens_fences_nobody() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let opened = Handle::open(bus.path(), Role::Subscriber, "t");
    publisher.reclaim(bus.path());
    publisher.complete();
    opened.joined();
    publisher.change();
}

/// Of two members that have never met, the one that missed a broker missed the other one there.
#[test]
fn a_member_that_missed_a_broker_is_fenced_by_one_that_joined_there() {
    for publisher_first in [true, false] {
        let mut bus = Bus::new();
        let mut publisher = bus.publisher("t");
        bus.busd.replace();
        let mut subscriber = bus.subscriber("t");
        assert!(subscriber.session.generation() > publisher.session.generation());
        bus.busd.replace();
        if publisher_first {
            publisher.reclaim(bus.path());
            subscriber.reclaim(bus.path());
            let refused = publisher.change();
            assert!(
                matches!(
                    refused,
                    Event::Refused {
                        kind: Refusal::Fenced,
                        ..
                    }
                ),
                "{refused:?}"
            );
        } else {
            subscriber.reclaim(bus.path());
            let (kind, _) = publisher.try_reclaim(bus.path()).unwrap_err();
            assert_eq!(kind, Refusal::Fenced);
        }
        subscriber.complete();
        subscriber.synced(subscriber.registry().publishers());
    }
}

/// Its process was at the last broker and has other handles; the publisher never met it and has done nothing wrong.
#[test]
fn a_subscriber_that_is_of_no_use_any_more_fences_no_publisher() {
    for publisher_first in [true, false] {
        let mut bus = Bus::new();
        let mut unusable = bus.subscriber("t");
        bus.busd.replace();
        let mut publisher = bus.publisher("t");
        bus.busd.replace();
        let session = Session::greet(
            bus.path(),
            Greeting {
                generation: publisher.session.generation(),
                ..unusable.session.returns(1)
            },
        )
        .unwrap();
        let mut claim = unusable.reclaim_request();
        if let Request::Reclaim { since, .. } = &mut claim {
            *since = 0;
        }
        if publisher_first {
            publisher.reclaim(bus.path());
            unusable.present_with(&session, Vec::new(), &claim);
            let (kind, why) = unusable.await_reclaimed().unwrap_err();
            assert_eq!(kind, Refusal::Fenced, "{why}");
        } else {
            unusable.present_with(&session, Vec::new(), &claim);
            unusable.await_reclaimed().unwrap();
            publisher.reclaim(bus.path());
            let event = unusable.change();
            assert!(
                matches!(
                    event,
                    Event::Refused {
                        kind: Refusal::Fenced,
                        ..
                    }
                ),
                "{event:?}"
            );
        }
        session.complete();
        publisher.complete();
        publisher.difference();
    }
}

#[test]
fn a_member_that_was_fenced_is_fenced_at_the_next_broker_as_well() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let mut newcomer = bus.subscriber("t");
    bus.busd.replace();
    newcomer.reclaim(bus.path());
    newcomer.complete();
    let (kind, _) = publisher.try_reclaim(bus.path()).unwrap_err();
    assert_eq!(kind, Refusal::Fenced);
}

/// A client that was at a broker of a higher generation is believed: the lock file may have been removed meanwhile.
#[test]
fn a_generation_is_higher_than_all_that_clients_know() {
    let bus = Bus::new();
    let witness = Session::connect(bus.path());
    let before = witness.generation();
    let greeting = Greeting {
        generation: before + 41,
        ..Greeting::new()
    };
    let session = Session::greet(bus.path(), greeting).unwrap();
    assert_eq!(session.generation(), before + 42);
    witness.barrier();
    assert_eq!(witness.generation(), before + 42);
}

/// Class 8 of the field notes, the other way round: a live member is taken for gone, because its broker stood still.
#[test]
fn a_member_that_came_while_the_broker_stood_still_is_not_late() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let (waits, request) = ask(&bus, Role::Subscriber, "t");
    is_unanswered(&bus, &waits);
    bus.busd.signal(Signal::SIGSTOP);
    until(|| bus.busd.state() == 'T');
    // What is tested is that this time is over for everybody but the broker.
    let since = Instant::now();
    until(|| since.elapsed() > PATIENCE + PATIENCE / 8);
    let returns = publisher.session.returns(1);
    let (known, peers) = (publisher.session.processes(), publisher.known());
    let connection = bus_core::control::Connection::connect(bus.path()).unwrap();
    bus.busd.signal(Signal::SIGCONT);
    let back = Session::greet_over(connection, returns).unwrap();
    back.present(&known);
    let claim = publisher.reclaim_request();
    publisher.present_with(&back, peers, &claim);
    publisher.await_reclaimed().unwrap();
    publisher.complete();
    Handle::opened(&waits, 1, &request).unwrap().joined();
}

#[test]
fn nobody_waits_for_a_member_that_left_while_no_broker_was_there() {
    let mut bus = Bus::new();
    let publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let (waits, request) = ask(&bus, Role::Subscriber, "t");
    is_unanswered(&bus, &waits);
    let _without = comes_without(&publisher, bus.path());
    Handle::opened(&waits, 1, &request).unwrap().joined();
    let (id, dropped) = (publisher.id, false);
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
}
