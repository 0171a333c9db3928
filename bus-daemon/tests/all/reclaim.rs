//! A broker ends, another comes: members go on under their numbers, and are told what has changed meanwhile.

use std::path::Path;

use crate::common::actor::Actor;
use crate::common::{Busd, Handle, Session, until, watch_request};
use bus_core::control::{Event, Refusal, Request, Role};

pub struct Bus {
    pub busd: Busd,
    dir: tempfile::TempDir,
}

impl Bus {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let busd = Busd::start(&dir.path().join("bus.sock"), "");
        Self { busd, dir }
    }

    pub fn path(&self) -> &Path {
        &self.busd.path
    }

    pub fn publisher(&self, topic: &str) -> Handle {
        Handle::open(self.path(), Role::Publisher, topic).joined()
    }

    pub fn subscriber(&self, topic: &str) -> Handle {
        Handle::open(self.path(), Role::Subscriber, topic).joined()
    }

    /// The names of the files that are there.
    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        let mut files: Vec<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        files
    }
}

/// The process of a handle comes to the broker at `path` without it.
pub fn comes_without(handle: &Handle, path: &Path) -> std::sync::Arc<Session> {
    Session::greet(path, handle.session.returns(0)).unwrap()
}

/// Class 17 of the field notes: the broker's restart drops every client.
#[test]
fn members_keep_their_numbers_and_rings_and_are_told_nothing_that_they_know() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    let mut generation = publisher.session.generation();
    for round in 0..4 {
        match round % 2 {
            0 => bus.busd.replace(),
            _ => bus.busd.restart(),
        }
        let before = publisher.registry().subscribers();
        publisher.reclaim(bus.path());
        subscriber.reclaim(bus.path());
        let now = publisher.session.generation();
        assert!(now > generation, "{now} after {generation}");
        generation = now;
        publisher.complete();
        subscriber.complete();
        // Everything that is there they know.
        let (events, version) = publisher.difference();
        assert_eq!(events, []);
        assert_eq!(version, publisher.registry().subscribers());
        assert!(version.wrapping_sub(before) > 1000, "{before} {version}");
        assert_eq!(subscriber.synced(subscriber.registry().publishers()), []);
        // Now that all are back, a newcomer is told of both ways.
        let newcomer = bus.publisher("t");
        assert_eq!(newcomer.index, 1);
        assert!(
            matches!(newcomer.early[..], [Event::SubscriberJoined { id, .. }] if id == subscriber.id),
            "{:?}",
            newcomer.early
        );
        let event = subscriber.change();
        assert!(
            matches!(event, Event::PublisherJoined { id, .. } if id == newcomer.id),
            "{event:?}"
        );
        let id = newcomer.id;
        drop(newcomer);
        let dropped = false;
        assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
        subscriber.release(id);
        subscriber.session.barrier();
    }
}

/// Several handles of one process come back over one session.
#[test]
fn handles_of_one_session_come_back_together() {
    let mut bus = Bus::new();
    let session = Session::connect(bus.path());
    let topics = ["a", "b", "c"];
    let mut publishers =
        topics.map(|topic| Handle::open_on(&session, Role::Publisher, topic).joined());
    let mut subscribers =
        topics.map(|topic| Handle::open_on(&session, Role::Subscriber, topic).joined());
    for publisher in &publishers {
        let event = publisher.change();
        assert!(matches!(event, Event::SubscriberJoined { .. }), "{event:?}");
    }
    bus.busd.replace();
    let again = Session::greet(bus.path(), session.returns(6)).unwrap();
    again.present(&session.processes());
    // All is asked before any answer is read.
    for handle in publishers.iter_mut().chain(&mut subscribers) {
        handle.present_on(&again);
    }
    for handle in publishers.iter_mut().chain(&mut subscribers) {
        handle.await_reclaimed().unwrap();
    }
    again.complete();
    for handle in publishers.iter().chain(&subscribers) {
        let version = handle.registry().of(handle.role.other());
        assert_eq!(handle.synced(version), []);
    }
    let [leaves, ..] = publishers;
    let (id, dropped) = (leaves.id, false);
    drop(leaves);
    assert_eq!(
        subscribers[0].change(),
        Event::PublisherLeft { id, dropped }
    );
}

#[test]
fn a_process_that_comes_back_without_a_handle_has_left() {
    let mut bus = Bus::new();
    let [mut publisher, leaves] = [bus.publisher("t"), bus.publisher("t")];
    let [mut subscriber, goes] = [bus.subscriber("t"), bus.subscriber("t")];
    let joined = [publisher.change(), publisher.change()];
    assert!(matches!(joined[1], Event::SubscriberJoined { id, .. } if id == goes.id));
    bus.busd.replace();
    // One comes ahead of those that know it, the other one after them.
    let _without = comes_without(&leaves, bus.path());
    publisher.reclaim(bus.path());
    publisher.complete();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let (id, dropped) = (leaves.id, false);
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
    publisher.session.barrier();
    publisher.nothing();
    let _without = comes_without(&goes, bus.path());
    assert_eq!(publisher.change(), Event::SubscriberLeft { id: goes.id });
    // The ring of the one that left is still to be read.
    assert_eq!(bus.publisher("t").index, 2);
    subscriber.release(id);
    subscriber.session.barrier();
    assert_eq!(bus.publisher("t").index, leaves.index);
}

#[test]
fn a_handle_that_its_process_does_not_present_has_left() {
    let mut bus = Bus::new();
    let session = Session::connect(bus.path());
    let [mut stays, leaves] =
        [0, 1].map(|_| Handle::open_on(&session, Role::Publisher, "t").joined());
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let known = session.processes();
    let again = Session::greet(bus.path(), session.returns(1)).unwrap();
    again.present(&known);
    stays.present_on(&again);
    stays.await_reclaimed().unwrap();
    subscriber.session.barrier();
    subscriber.nothing();
    again.complete();
    let (id, dropped) = (leaves.id, false);
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
}

#[test]
fn an_absent_process_that_dies_has_left() {
    let mut bus = Bus::new();
    let mut dies = Actor::own(bus.path());
    dies.ok("take publisher t");
    dies.ok("take subscriber t");
    let mut subscriber = bus.subscriber("t");
    let Event::PublisherJoined { id, .. } = subscriber.early[0] else {
        panic!("{:?}", subscriber.early);
    };
    let mut publisher = bus.publisher("t");
    subscriber.change();
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    publisher.reclaim(bus.path());
    publisher.complete();
    subscriber.session.barrier();
    subscriber.nothing();
    dies.kill();
    let dropped = false;
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
    let event = publisher.change();
    assert!(matches!(event, Event::SubscriberLeft { .. }), "{event:?}");
    // And one that is dead already when it is presented.
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    subscriber.session.barrier();
    subscriber.nothing();
    assert_eq!(bus.publisher("t").index, 2, "its ring is still to be read");
}

#[test]
fn a_process_that_dies_before_anybody_presents_it_has_left() {
    let mut bus = Bus::new();
    let mut dies = Actor::own(bus.path());
    dies.ok("take publisher t");
    let mut subscriber = bus.subscriber("t");
    let id = subscriber.known()[0].id;
    bus.busd.child.kill().unwrap();
    bus.busd.child.wait().unwrap();
    dies.kill();
    let path = bus.path().to_owned();
    bus.busd = Busd::start(&path, "");
    subscriber.reclaim(bus.path());
    subscriber.complete();
    let dropped = false;
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
}

#[test]
fn a_connection_that_breaks_while_its_process_comes_back_ends_nothing() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    bus.busd.replace();
    subscriber.reclaim(bus.path());
    subscriber.complete();
    for _ in 0..3 {
        // The last one goes when the next one comes.
        publisher.reclaim(bus.path());
    }
    publisher.session.connection.shut_down();
    publisher.reclaim(bus.path());
    publisher.complete();
    publisher.synced(publisher.registry().subscribers());
    subscriber.session.barrier();
    subscriber.nothing();
    let (id, dropped) = (publisher.id, false);
    drop(publisher);
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
}

/// The process has a session when it is presented, so only its session tells that it ends.
#[test]
fn a_process_that_dies_while_it_comes_back_has_left() {
    for breaks in [false, true] {
        let mut bus = Bus::new();
        let mut dies = Actor::own(bus.path());
        dies.ok("take publisher t");
        let mut subscriber = bus.subscriber("t");
        let id = subscriber.known()[0].id;
        bus.busd.replace();
        // It presents nothing before it dies.
        dies.ok("greet 0");
        subscriber.reclaim(bus.path());
        subscriber.complete();
        if breaks {
            dies.ok("hang 0");
        }
        subscriber.session.barrier();
        subscriber.nothing();
        dies.kill();
        let dropped = false;
        assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
    }
}

#[test]
fn a_process_that_dies_after_its_connection_broke_has_left() {
    let mut bus = Bus::new();
    let mut dies = Actor::own(bus.path());
    dies.ok("take publisher t");
    let mut subscriber = bus.subscriber("t");
    let id = subscriber.known()[0].id;
    bus.busd.replace();
    dies.ok("return 0");
    subscriber.reclaim(bus.path());
    subscriber.complete();
    dies.ok("hang 0");
    subscriber.session.barrier();
    subscriber.nothing();
    dies.kill();
    let dropped = false;
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
}

/// A publisher may have to know a subscriber that joined when the old broker died. It is told that it knows all only when
/// those that are known to be away have come back.
#[test]
fn a_publisher_that_came_back_is_not_told_a_version_while_subscribers_are_away() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    bus.busd.replace();
    publisher.reclaim(bus.path());
    publisher.complete();
    publisher.session.barrier();
    let told = publisher.session.try_next(publisher.number);
    assert!(told.is_none(), "{told:?}");
    // Subscribers need not wait.
    subscriber.reclaim(bus.path());
    subscriber.difference();
    subscriber.complete();
    let (events, version) = publisher.difference();
    assert_eq!(events, []);
    assert_eq!(version, publisher.registry().subscribers());
}

#[test]
fn a_publisher_that_came_back_waits_for_absent_subscribers_a_bounded_time() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let subscriber = bus.subscriber("t");
    publisher.difference();
    bus.busd.replace();
    let since = std::time::Instant::now();
    publisher.reclaim(bus.path());
    publisher.complete();
    let (events, _) = publisher.difference();
    assert_eq!(events, []);
    assert!(since.elapsed() >= super::reclaim_newcomers::PATIENCE);
    drop(subscriber);
}

#[test]
fn doorbells_are_known_again() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    publisher.difference();
    subscriber.register_doorbell();
    publisher.difference();
    publisher.register_doorbell();
    // It has not heard of that doorbell when the broker ends.
    bus.busd.replace();
    publisher.reclaim(bus.path());
    subscriber.reclaim(bus.path());
    publisher.complete();
    subscriber.complete();
    let (event, descriptors) = subscriber.change_told();
    assert_eq!(event, Event::PeerDoorbell { id: publisher.id });
    assert_eq!(publisher.difference().0, []);
    publisher.doorbell().drain();
    bus_core::backend::doorbell::ring(&descriptors[0]);
    assert_eq!(publisher.doorbell().drain(), 1);
    subscriber.doorbell().drain();
    (publisher.session).send(publisher.number, &Request::Wake {}, &[]);
    until(|| subscriber.doorbell().drain() > 0);
}

#[test]
fn a_watch_keeps_its_number_and_is_told_of_topics_again() {
    let mut bus = Bus::new();
    let session = Session::connect(bus.path());
    let mut publisher = bus.publisher("a/b");
    let number = session.ask(&watch_request("a/**"));
    let Event::TopicAppeared { id: topic, .. } = session.next(number).0 else {
        panic!("not told of the topic");
    };
    let Event::Watching { id } = session.next(number).0 else {
        panic!("does not watch");
    };
    bus.busd.replace();
    let again = Session::greet(bus.path(), session.returns(1)).unwrap();
    let mut reclaim = watch_request("a/**");
    if let Request::Watch { reclaims, .. } = &mut reclaim {
        *reclaims = Some(id);
    }
    again.send(number, &reclaim, &[]);
    assert_eq!(again.next(number).0, Event::Watching { id });
    again.complete();
    // A number is one watch's.
    let (kind, why) = again.refused(&reclaim);
    assert_eq!(kind, Refusal::Unknown, "{why}");
    // A topic that was there before comes again, by another number and without a place.
    publisher.come_back(bus.path());
    let back = publisher.await_reclaimed().unwrap();
    publisher.complete();
    let Event::TopicAppeared {
        id: told,
        topic: name,
        kept: false,
        ..
    } = again.next(number).0
    else {
        panic!("not told of the topic again");
    };
    assert_eq!((told, name.as_str()), (back, "a/b"));
    assert_ne!(told, topic);
    // A new one comes with a place.
    let _new = bus.publisher("a/c");
    assert!(matches!(
        again.next(number).0,
        Event::TopicAppeared { kept: true, topic, .. } if topic == "a/c"
    ));
}

/// The first message of a topic that is created while a watch is away may be lost to it, as that of any handle.
#[test]
fn a_watch_is_waited_for_as_members_are() {
    let mut bus = Bus::new();
    let session = Session::connect(bus.path());
    let number = session.ask(&watch_request("**"));
    assert!(matches!(session.next(number).0, Event::Watching { .. }));
    bus.busd.signal(nix::sys::signal::Signal::SIGTERM);
    bus.busd.child.wait().unwrap();
    let lock = bus.busd.lock();
    assert!(lock.contains(" open "), "{lock:?}");
}

/// All that were there come back soon after the start, while members that nobody knows may still come. Nothing else
/// happens after that.
#[test]
fn a_topic_whose_last_member_died_without_a_broker_is_closed_in_time() {
    let mut bus = Bus::new();
    let session = Session::connect(bus.path());
    let number = session.ask(&watch_request("t"));
    let Event::Watching { id: watch } = session.next(number).0 else {
        panic!("does not watch");
    };
    let mut dies = Actor::own(bus.path());
    dies.ok("take publisher t");
    let Event::TopicAppeared { id: topic, .. } = session.next(number).0 else {
        panic!("not told of the topic");
    };
    let mut open = crate::common::open_request(Role::Subscriber, "t");
    if let Request::Open { watched, .. } = &mut open {
        *watched = Some(bus_core::control::Watched { watch, topic });
    }
    let mut subscriber = Handle::ask_on(&session, &open).joined();
    bus.busd.signal(nix::sys::signal::Signal::SIGTERM);
    bus.busd.child.wait().unwrap();
    dies.kill();
    bus.busd = Busd::start(bus.path(), "");
    let again = Session::greet(bus.path(), session.returns(2)).unwrap();
    again.present(&session.processes());
    let mut claim = subscriber.reclaim_request();
    if let Request::Reclaim { watch: of, .. } = &mut claim {
        *of = Some(watch);
    }
    subscriber.present_with(&again, subscriber.known(), &claim);
    let back = subscriber.await_reclaimed().unwrap();
    let mut reclaim = watch_request("t");
    if let Request::Watch { reclaims, .. } = &mut reclaim {
        *reclaims = Some(watch);
    }
    again.send(number, &reclaim, &[]);
    again.complete();
    let told = again.next(number).0;
    assert!(
        matches!(told, Event::TopicAppeared { id, kept: false, .. } if id == back),
        "{told:?}"
    );
    assert_eq!(again.next(number).0, Event::Watching { id: watch });
    assert_eq!(again.next(number).0, Event::TopicGone { id: back });
}

/// A pattern's subscriber whose topic is closed only reads what is there. A topic of the same name is another one.
#[test]
fn a_subscriber_of_a_closed_topic_reads_on() {
    let mut bus = Bus::new();
    let session = Session::connect(bus.path());
    let number = session.ask(&watch_request("t"));
    let Event::Watching { id: watch } = session.next(number).0 else {
        panic!("does not watch");
    };
    let publisher = bus.publisher("t");
    let Event::TopicAppeared { id: topic, .. } = session.next(number).0 else {
        panic!("not told of the topic");
    };
    let mut open = crate::common::open_request(Role::Subscriber, "t");
    if let Request::Open { watched, .. } = &mut open {
        *watched = Some(bus_core::control::Watched { watch, topic });
    }
    let mut late = Handle::ask_on(&session, &open).joined();
    let (ring, dropped) = (publisher.id, false);
    drop(publisher);
    assert_eq!(session.next(number).0, Event::TopicGone { id: topic });
    assert_eq!(late.change(), Event::PublisherLeft { id: ring, dropped });
    bus.busd.replace();
    let newer = bus.subscriber("t");
    let again = Session::greet(bus.path(), session.returns(1)).unwrap();
    again.present(&session.processes());
    let mut claim = late.reclaim_request();
    if let Request::Reclaim {
        watch: of, closed, ..
    } = &mut claim
    {
        (*of, *closed) = (Some(watch), true);
    }
    late.present_with(&again, late.known(), &claim);
    late.await_reclaimed().unwrap();
    again.complete();
    late.difference();
    late.release(ring);
    again.barrier();
    // It meets none of the members of the new topic.
    let anew = bus.publisher("t");
    assert!(
        matches!(anew.early[..], [Event::SubscriberJoined { id, .. }] if id == newer.id),
        "{:?}",
        anew.early
    );
    again.barrier();
    late.nothing();
}

#[test]
fn a_broker_that_ends_while_a_process_comes_back_does_not_say_that_nobody_is_left() {
    let mut bus = Bus::new();
    let publisher = bus.publisher("t");
    bus.busd.replace();
    let _returning = Session::greet(bus.path(), publisher.session.returns(1)).unwrap();
    bus.busd.signal(nix::sys::signal::Signal::SIGTERM);
    bus.busd.child.wait().unwrap();
    let lock = bus.busd.lock();
    assert!(lock.contains(" open "), "{lock:?}");
}

/// Class 20 of the field notes: what a kill leaves behind.
#[test]
fn the_lock_file_says_whether_anybody_is_left_and_nothing_else_stays() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut dies = Actor::own(bus.path());
    dies.ok("take subscriber t");
    publisher.difference();
    bus.busd.replace();
    assert!(bus.busd.lock().contains(" open "));
    dies.kill();
    publisher.reclaim(bus.path());
    publisher.complete();
    let event = publisher.change();
    assert!(matches!(event, Event::SubscriberLeft { .. }), "{event:?}");
    bus.busd.restart();
    publisher.reclaim(bus.path());
    publisher.complete();
    // A newcomer joins when members that nobody knows are not waited for any longer.
    drop(bus.publisher("newcomer"));
    drop(publisher);
    bus.busd.signal(nix::sys::signal::Signal::SIGTERM);
    bus.busd.child.wait().unwrap();
    assert_eq!(bus.files(), ["bus.sock.lock"]);
    let lock = bus.busd.lock();
    assert!(lock.contains(" clean "), "{lock:?}");
}
