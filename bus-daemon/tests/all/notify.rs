//! Doorbells: who brings one is told of to whom it concerns, and is rung when they come, go, or ask for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::common::{self, Handle, Host, next, refusal};
use bus_core::backend::doorbell::{self, Doorbell};
use bus_core::control::{Event, Refusal, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn notify(handle: &Handle, doorbell: &Doorbell) -> Event {
    let connection = &handle.connection;
    connection
        .send(&Request::Notify, &[doorbell.button()])
        .unwrap();
    handle.next()
}

/// Waits for a ring, and takes off how many there were.
fn await_ring(doorbell: &Doorbell) -> usize {
    let mut fds = [PollFd::new(doorbell.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(common::LONG.as_millis()).unwrap();
    assert_eq!(poll(&mut fds, timeout).unwrap(), 1, "nobody rang");
    doorbell.drain()
}

fn is_same(button: &OwnedFd, own: &Doorbell) -> bool {
    doorbell::ring(button);
    own.drain() == 1
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
    let own = Doorbell::new().unwrap();
    assert_eq!(notify(&subscriber, &own), Event::Notified { version: 1 });
    let (event, descriptors) = next(&publisher.connection);
    let id = subscriber.id;
    assert_eq!(event, Event::SubscriberNotify { version: 2, id });
    assert!(is_same(&descriptors[0], &own));
    assert_eq!(publisher.registry().subscribers(), 2);

    let theirs = Doorbell::new().unwrap();
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
    let own = Doorbell::new().unwrap();
    notify(&subscriber, &own);
    assert_eq!(own.drain(), 0);
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
fn what_is_no_doorbell_or_comes_at_the_wrong_time_is_refused() {
    let host = Host::new();
    let own = Doorbell::new().unwrap();
    let refused = |handle: Handle, fds: &[BorrowedFd<'_>]| {
        handle.connection.send(&Request::Notify, fds).unwrap();
        let (kind, why) = refusal(&handle.connection);
        assert_eq!(kind, Refusal::Protocol, "{why}");
        why
    };
    let (_reader, pipe) = nix::unistd::pipe().unwrap();
    let why = refused(host.subscriber("t"), &[pipe.as_fd()]);
    assert!(why.contains("no doorbell"), "{why}");
    let why = refused(host.subscriber("t"), &[own.button(), own.button()]);
    assert!(why.contains("one descriptor"), "{why}");
    let role = bus_core::control::Role::Subscriber;
    let why = refused(Handle::open(&host.path, role, "t"), &[own.button()]);
    assert!(why.contains("after Join"), "{why}");
    let twice = host.subscriber("t");
    notify(&twice, &own);
    let why = refused(twice, &[own.button()]);
    assert!(why.contains("once"), "{why}");
    // A full one does not stop the broker.
    let full = host.subscriber("t");
    notify(&full, &own);
    while nix::unistd::write(own.button(), &[0]).is_ok() {}
    drop(host.publisher("t"));
    drop(host.publisher("t"));
}
