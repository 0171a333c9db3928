//! Clients that do not read, do not acknowledge, do not stop, or are too many: they cost themselves.
//!
//! It is a program of its own, because it takes nearly all the descriptors that a process may have.

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use bus_core::control::{Connection, Event, Message, Refusal, Request, Role, SESSION};
use bus_core::{Delivery, Settings};
use bus_testkit::needs;
use common::actor::Actor;
use common::{Busd, Greeting, Handle, Host, Session, open_request, send_with, small, until};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

/// Descriptors that a session is sent ahead of what it acknowledges.
const CREDIT: usize = 8;

/// A request to open a topic with this delivery.
fn delivering(role: Role, topic: &str, delivery: Delivery) -> Request {
    let mut open = open_request(role, topic);
    if let Request::Open { settings, .. } = &mut open {
        *settings = Settings {
            delivery: Some(delivery),
            ..small()
        };
    }
    open
}

/// What is in the socket of a session that acknowledges nothing: how many descriptors came.
fn descriptors_in(session: &Session) -> usize {
    let mut count = 0;
    while let Some(frame) = session.connection.try_recv::<Event>().unwrap() {
        count += frame.descriptors.len();
    }
    count
}

/// Class 3 of the field notes: one that stalls stops the others.
#[test]
fn a_client_that_never_reads_stops_nobody_and_catches_up() {
    let host = Host::new();
    let stalled = host.publisher("t");
    let awake = host.publisher("t");
    let session = host.connect();
    for _ in 0..500 {
        let subscriber = Handle::open_on(&session, Role::Subscriber, "t").joined();
        let id = subscriber.id;
        let event = awake.change();
        assert!(
            matches!(event, Event::SubscriberJoined { id: joined, .. } if joined == id),
            "{event:?}"
        );
        drop(subscriber);
        assert_eq!(awake.change(), Event::SubscriberLeft { id });
    }
    let last = host.subscriber("t");
    // When it reads again, it learns the last version and which subscribers are there; those that came and went
    // meanwhile it does not hear of.
    let mut members = BTreeSet::new();
    let mut events = 0;
    for event in stalled.synced(stalled.registry().subscribers()) {
        events += 1;
        match event {
            Event::SubscriberJoined { id, .. } => assert!(members.insert(id)),
            Event::SubscriberLeft { id } => assert!(members.remove(&id)),
            other => panic!("{other:?}"),
        }
    }
    assert!(events < 100, "{events} events were kept for it");
    assert!(members.into_iter().eq([last.id]));
    stalled.nothing();
}

#[test]
fn a_session_that_never_acknowledges_gets_few_descriptors_and_others_go_on() {
    let host = Host::new();
    let stalled = host.subscriber("t");
    stalled.session.stop_acknowledging();
    let awake = host.subscriber("t");
    let session = host.connect();
    let publishers: Vec<_> = (0..30)
        .map(|_| {
            let publisher = Handle::open_on(&session, Role::Publisher, "t").joined();
            let event = awake.change();
            assert!(
                matches!(event, Event::PublisherJoined { id, .. } if id == publisher.id),
                "{event:?}"
            );
            publisher
        })
        .collect();
    // Its other handles get no more than the session may have.
    assert_eq!(descriptors_in(&stalled.session), CREDIT);
    let opening = stalled.session.ask(&open_request(Role::Subscriber, "u"));
    session.barrier();
    assert_eq!(descriptors_in(&stalled.session), 0);
    // It is told the rest as it acknowledges.
    let received = Request::Received { descriptors: 3 };
    stalled.session.send(SESSION, &received, &[]);
    until(|| peeked(&stalled.session));
    assert_eq!(opening, 2);
    drop(publishers);
}

/// Whether something is in a session's socket.
fn peeked(session: &Session) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let mut byte = [0];
    nix::sys::socket::recv(session.connection.as_fd().as_raw_fd(), &mut byte, flags).is_ok()
}

/// Where nothing may be lost, a ring waits for every subscriber that was there in its life, told of it or not.
#[test]
fn a_subscriber_that_stands_still_is_named_to_the_publisher_that_finds_no_index() {
    let host = Host::new();
    let stalled = host.subscriber("t");
    stalled.session.stop_acknowledging();
    let session = host.connect();
    let open = open_request(Role::Publisher, "t");
    let rings: Vec<_> = (0..60)
        .map(|expected| {
            let publisher = Handle::ask_on(&session, &open).joined();
            assert_eq!(publisher.index, expected);
            publisher.id
        })
        .collect();
    let (kind, why) = session.refused(&open);
    assert_eq!(kind, Refusal::Limit);
    let me = std::process::id();
    assert!(
        why.contains(&format!("subscriber test (process {me}, 60 rings)")),
        "{why}"
    );
    // It goes on, hears of all that came and went, and releases them.
    let received = Request::Received {
        descriptors: CREDIT as u32,
    };
    stalled.session.send(SESSION, &received, &[]);
    let (mut joined, mut left) = (Vec::new(), Vec::new());
    while left.len() < rings.len() {
        let (event, descriptors) = stalled.change_told();
        let descriptors = descriptors.len() as u32;
        if descriptors > 0 {
            let received = Request::Received { descriptors };
            stalled.session.send(SESSION, &received, &[]);
        }
        match event {
            Event::PublisherJoined { id, ended, .. } => {
                joined.push(id);
                if ended {
                    left.push(id);
                }
            }
            Event::PublisherLeft { id, dropped: false } => left.push(id),
            other => panic!("{other:?}"),
        }
    }
    joined.sort_unstable();
    assert_eq!(joined, rings);
    for ring in rings {
        stalled.release(ring);
    }
    stalled.session.barrier();
    assert_eq!(Handle::ask_on(&session, &open).index, 0);
}

/// Where messages may be lost, a subscriber that stands still keeps no publisher out.
#[test]
fn publishers_come_and_go_without_end_beside_a_subscriber_that_stands_still() {
    let host = Host::new();
    let evict = Delivery::Evict { after_us: 50_000 };
    for (topic, delivery) in [("lossy", Delivery::Lossy), ("evicting", evict)] {
        let publisher = delivering(Role::Publisher, topic, delivery);
        let idle = Handle::ask(&host.path, &delivering(Role::Subscriber, topic, delivery)).joined();
        let session = host.connect();
        let ids: Vec<_> = (0..200)
            .map(|_| Handle::ask_on(&session, &publisher).joined().id)
            .collect();
        session.barrier();
        // What it was told of first is lost to it; the last rings are there to be read.
        let mut there = BTreeSet::new();
        let mut dropped = Vec::new();
        let last = idle.registry().publishers();
        for event in idle.synced(last) {
            match event {
                Event::PublisherJoined { id, .. } => assert!(there.insert(id)),
                Event::PublisherLeft { id, dropped: true } => {
                    assert!(there.remove(&id));
                    dropped.push(id);
                }
                Event::PublisherLeft { dropped: false, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(!dropped.is_empty(), "nothing of what it knew was given up");
        let oldest: Vec<_> = ids.iter().copied().take(dropped.len()).collect();
        assert_eq!(dropped, oldest, "the oldest go first");
        assert!(there.into_iter().eq(ids[140..].iter().copied()));
    }
}

/// The kernel counts descriptors on their way against the user of the sender, here a user with few.
#[test]
fn idle_sessions_keep_no_other_from_joining_where_the_user_may_have_few_descriptors() {
    if !needs::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let path = dir.path().join("bus.sock");
    let mut broker = Actor::start(&path, USER, &[]);
    broker.ok("limit 1024");
    broker.ok(&format!("serve {}", path.display()));
    let mut clients = Actor::start(&path, USER, &[]);
    clients.ok("limit 1024");
    clients.ok("idle 4 130 t");
}

/// An ordinary user.
const USER: u32 = 65534;

#[test]
fn a_client_that_floods_does_not_starve_others() {
    let host = Host::new();
    let flood = host.subscriber("t");
    let done = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let mut sent = 0_u64;
            // ORDERING: none needed; the flag only ends the loop, and the join below orders the rest.
            while !done.load(Ordering::Relaxed) {
                let released = Request::Released { ring: 7 };
                flood.session.send(flood.number, &released, &[]);
                sent += 1;
            }
            sent
        });
        for _ in 0..100 {
            drop(host.publisher("u"));
        }
        // ORDERING: see above.
        done.store(true, Ordering::Relaxed);
        flooding.join().unwrap()
    });
    assert!(sent > 100);
}

/// What is asked of the broker is answered; a client that reads no answers is not read either.
#[test]
fn a_client_that_asks_and_reads_no_answers_is_read_no_more() {
    let host = Host::new();
    let session = host.connect();
    let bad = open_request(Role::Publisher, "No Name");
    let mut asked = 0_u32;
    // Both sockets are full in the end.
    while session
        .connection
        .try_send(session.number(), &bad, &[])
        .unwrap()
    {
        asked += 1;
        assert!(asked < 1_000_000, "the broker reads without end");
        if asked.is_multiple_of(64) {
            drop(host.publisher("t"));
        }
    }
    // It is served again when it reads.
    for handle in 1..=asked {
        assert_eq!(session.refusal(handle).0, Refusal::BadName);
    }
    session.barrier();
}

#[test]
fn more_connections_than_the_limit_are_turned_away() {
    bus_daemon::raise_descriptor_limit();
    let host = Host::new();
    // A socket at either end, and a pidfd.
    let needed = 3 * bus_daemon::MAX_SESSIONS as u64 + 500;
    if !needs::descriptors(needed) {
        return;
    }
    let connections: Vec<_> = (0..bus_daemon::MAX_SESSIONS)
        .map(|_| Connection::connect(&host.path).unwrap())
        .collect();
    let excess = Connection::connect(&host.path).unwrap();
    let (kind, why) = common::refusal(&excess);
    assert_eq!(kind, Refusal::Limit);
    assert!(why.contains("4096 sessions"), "{why}");
    // The others are served, and one that leaves makes room.
    let mut connections = connections.into_iter();
    let last = connections.next_back().unwrap();
    let last = Session::greet_over(last, Greeting::new()).unwrap();
    let _served = Handle::open_on(&last, Role::Subscriber, "t");
    drop(connections);
    let another = || Session::greet(&host.path, Greeting::new());
    until(|| another().is_ok());
}

/// A socket that has sent what nobody takes, and lingers for a minute when it is closed; and the other end.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    setsockopt(&listener, sockopt::RcvBuf, &2048).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    while client.write(&[0; 65_536]).is_ok() {}
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 60,
    };
    setsockopt(&client, sockopt::Linger, &linger).unwrap();
    (client.into(), server)
}

/// Class 3 of the field notes: one that stalls stops the others. Whoever closes the last descriptor of such a socket waits.
#[test]
fn a_descriptor_whose_closing_waits_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let busd = Busd::start(&path, "");
    let witness = Handle::open(&path, Role::Publisher, "t").joined();
    let wake = Request::Wake {}.pack(SESSION).unwrap();
    for way in 0..5 {
        let (socket, _end) = lingering();
        let session = Session::connect(&path);
        let connection = &session.connection;
        // While it is stopped, what is sent becomes its own: this side's descriptor is then not the last.
        busd.signal(Signal::SIGSTOP);
        match way {
            0 => send_with(connection, wake.as_bytes(), &[socket.as_fd()]),
            1 => send_with(connection, b"nothing", &[socket.as_fd()]),
            2 => send_with(connection, wake.as_bytes(), &[socket.as_fd(); 9]),
            _ => {
                // What comes first is refused, so that this is never read. What has no bytes is not the end.
                send_with(connection, b"nothing", &[]);
                if way == 4 {
                    send_with(connection, b"", &[]);
                }
                send_with(connection, wake.as_bytes(), &[socket.as_fd()]);
            }
        }
        drop(socket);
        busd.signal(Signal::SIGCONT);
        let subscriber = Handle::open(&path, Role::Subscriber, "t").joined();
        let event = witness.change();
        assert!(matches!(event, Event::SubscriberJoined { .. }), "{event:?}");
        let id = subscriber.id;
        drop(subscriber);
        assert_eq!(witness.change(), Event::SubscriberLeft { id });
    }
}
