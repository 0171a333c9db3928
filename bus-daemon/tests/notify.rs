//! Eventfds: who brings one is told of to whom it concerns, and is rung when they come, go, or ask for it.

mod common;

use std::os::fd::{AsFd, OwnedFd};

use bus_core::backend::eventfd;
use bus_core::control::{Event, Refusal, Request};
use common::{Handle, Host, next, refusal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn notify(handle: &Handle, eventfd: &OwnedFd) -> Event {
    let connection = &handle.connection;
    connection
        .send(&Request::Notify, &[eventfd.as_fd()])
        .unwrap();
    handle.next()
}

/// Waits for a ring, and reads off how many there were.
fn await_ring(eventfd: &OwnedFd) -> u64 {
    let mut fds = [PollFd::new(eventfd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(common::LONG.as_millis()).unwrap();
    assert_eq!(poll(&mut fds, timeout).unwrap(), 1, "nobody rang");
    eventfd::drain(eventfd)
}

fn is_same(a: &OwnedFd, b: &OwnedFd) -> bool {
    eventfd::ring(a);
    eventfd::drain(b) == 1
}

#[test]
fn those_who_are_there_get_it_by_an_event_and_those_who_come_with_the_joining() {
    let host = Host::new();
    let publisher = host.publisher("t");
    let subscriber = host.subscriber("t");
    assert!(matches!(
        publisher.next(),
        Event::SubscriberJoined { version: 1, .. }
    ));
    let own = eventfd::create().unwrap();
    assert_eq!(notify(&subscriber, &own), Event::Notified { version: 1 });
    let (event, descriptors) = next(&publisher.connection);
    let id = subscriber.id;
    assert_eq!(event, Event::SubscriberNotify { version: 2, id });
    assert!(is_same(&descriptors[0], &own));
    assert_eq!(publisher.registry().subscribers(), 2);

    let theirs = eventfd::create().unwrap();
    assert_eq!(notify(&publisher, &theirs), Event::Notified { version: 2 });
    let (event, descriptors) = next(&subscriber.connection);
    let id = publisher.id;
    assert_eq!(event, Event::PublisherNotify { version: 2, id });
    assert!(is_same(&descriptors[0], &theirs));

    let late = Handle::open(&host.path, bus_core::control::Role::Subscriber, "t");
    let (event, descriptors) = next(&late.connection);
    assert!(matches!(event, Event::PublisherJoined { .. }), "{event:?}");
    assert_eq!(descriptors.len(), 3);
    assert!(is_same(&descriptors[2], &theirs));
}

#[test]
fn it_is_rung_when_the_others_come_and_go_and_when_they_ask_and_not_else() {
    let host = Host::new();
    let subscriber = host.subscriber("t");
    let own = eventfd::create().unwrap();
    notify(&subscriber, &own);
    assert_eq!(eventfd::drain(&own), 0);
    let publisher = host.publisher("t");
    assert_eq!(await_ring(&own), 1);
    // Other subscribers do not concern it.
    drop(host.subscriber("t"));
    publisher.connection.send(&Request::Wake, &[]).unwrap();
    assert_eq!(await_ring(&own), 1);
    drop(publisher);
    assert_eq!(await_ring(&own), 1);
}

#[test]
fn what_is_no_eventfd_or_comes_at_the_wrong_time_is_refused() {
    let host = Host::new();
    let own = eventfd::create().unwrap();
    let refused = |handle: Handle, fds: &[&OwnedFd]| {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        handle.connection.send(&Request::Notify, &fds).unwrap();
        let (kind, why) = refusal(&handle.connection);
        assert_eq!(kind, Refusal::Protocol, "{why}");
        why
    };
    let (_reader, pipe) = nix::unistd::pipe().unwrap();
    let why = refused(host.subscriber("t"), &[&pipe]);
    assert!(why.contains("no eventfd"), "{why}");
    let why = refused(host.subscriber("t"), &[&own, &own]);
    assert!(why.contains("one descriptor"), "{why}");
    let role = bus_core::control::Role::Subscriber;
    let why = refused(Handle::open(&host.path, role, "t"), &[&own]);
    assert!(why.contains("after Join"), "{why}");
    let twice = host.subscriber("t");
    notify(&twice, &own);
    let why = refused(twice, &[&own]);
    assert!(why.contains("once"), "{why}");
    // A full one does not stop the broker.
    let full = host.subscriber("t");
    notify(&full, &own);
    nix::unistd::write(&own, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    drop(host.publisher("t"));
    drop(host.publisher("t"));
}
