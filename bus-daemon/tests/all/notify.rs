//! Doorbells: a handle that registers one is told of to its peers, and is rung when they come, go, or ask for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::common::{self, Handle, Host, Session};
use bus_core::backend::doorbell::{self, Doorbell};
use bus_core::control::{Event, Refusal, Request, Role};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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

fn wake(handle: &Handle) {
    (handle.session).send(handle.number, &Request::Wake {}, &[]);
}

#[test]
fn peers_that_are_there_get_it_by_an_event_and_later_ones_with_the_joining() {
    let host = Host::new();
    let mut publisher = host.publisher("t");
    let mut subscriber = host.subscriber("t");
    publisher.difference();
    let version = subscriber.register_doorbell();
    assert_eq!(version, subscriber.version);
    let (event, descriptors) = publisher.next_told();
    assert_eq!(event, Event::PeerDoorbell { id: subscriber.id });
    assert!(is_same(&descriptors[0], subscriber.doorbell()));
    let version = publisher.version.wrapping_add(2);
    assert_eq!(publisher.next(), Event::Synced { version });
    assert_eq!(publisher.registry().subscribers(), version);

    assert_eq!(publisher.register_doorbell(), version);
    let (event, descriptors) = subscriber.change_told();
    assert_eq!(event, Event::PeerDoorbell { id: publisher.id });
    assert!(is_same(&descriptors[0], publisher.doorbell()));

    let late = Handle::open(&host.path, Role::Subscriber, "t");
    let (event, descriptors) = late.next_told();
    assert!(matches!(event, Event::PublisherJoined { .. }), "{event:?}");
    assert_eq!(descriptors.len(), 2);
    assert!(is_same(&descriptors[1], publisher.doorbell()));
}

#[test]
fn it_is_rung_when_peers_come_and_go_and_when_they_ask_and_not_else() {
    let host = Host::new();
    let mut subscriber = host.subscriber("t");
    subscriber.register_doorbell();
    let own = subscriber.doorbell();
    assert_eq!(own.drain(), 0);
    let publisher = host.publisher("t");
    assert_eq!(await_ring(own), 1);
    // Other subscribers do not concern it.
    drop(host.subscriber("t"));
    wake(&publisher);
    assert_eq!(await_ring(own), 1);
    drop(publisher);
    assert_eq!(await_ring(own), 1);
}

/// A handle that is parked is rung for what is told to it, though its session reads nothing.
#[test]
fn handles_of_a_session_that_reads_nothing_are_rung() {
    let host = Host::new();
    let mut subscriber = host.subscriber("t");
    subscriber.register_doorbell();
    subscriber.session.stop_acknowledging();
    let session = host.connect();
    for _ in 0..20 {
        let publisher = Handle::open_on(&session, Role::Publisher, "t").joined();
        assert_eq!(await_ring(subscriber.doorbell()), 1);
        drop(publisher);
        assert_eq!(await_ring(subscriber.doorbell()), 1);
    }
}

#[test]
fn what_is_no_doorbell_or_comes_at_the_wrong_time_is_refused() {
    let host = Host::new();
    let own = Doorbell::new().unwrap();
    let refused = |handle: &Handle, fds: &[BorrowedFd<'_>]| {
        let session: &Session = &handle.session;
        session.send(handle.number, &Request::RegisterDoorbell {}, fds);
        loop {
            match handle.next() {
                Event::Refused { kind, why } => {
                    assert_eq!(kind, Refusal::Protocol, "{why}");
                    session.ends();
                    return why;
                }
                Event::Synced { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let (_reader, pipe) = nix::unistd::pipe().unwrap();
    let why = refused(&host.subscriber("t"), &[pipe.as_fd()]);
    assert!(why.contains("no doorbell"), "{why}");
    let why = refused(&host.subscriber("t"), &[own.button(), own.button()]);
    assert!(why.contains("one descriptor"), "{why}");
    let opened = Handle::open(&host.path, Role::Subscriber, "t");
    let why = refused(&opened, &[own.button()]);
    assert!(why.contains("after Join"), "{why}");
    let mut twice = host.subscriber("t");
    twice.register_doorbell();
    let why = refused(&twice, &[own.button()]);
    assert!(why.contains("once"), "{why}");
    // A full one does not stop the broker.
    let mut full = host.subscriber("t");
    full.register_doorbell();
    while nix::unistd::write(full.doorbell().button(), &[0]).is_ok() {}
    drop(host.publisher("t"));
    drop(host.publisher("t"));
}
