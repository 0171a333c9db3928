//! Clients that do not read, do not stop, or are too many: they cost themselves.
//!
//! It is a program of its own, because it takes nearly all the descriptors that a process may have.

mod common;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bus_core::control::{Connection, Event, Message, Request, Role};
use bus_testkit::needs;
use common::{Busd, Handle, Host, open_request};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};

/// Class 3 of the field notes: one that stalls stops the others.
#[test]
fn a_client_that_never_reads_stops_nobody_and_catches_up() {
    let host = Host::new();
    let stalled = host.publisher("t");
    let awake = host.publisher("t");
    // Far more than a socket takes.
    for round in 0..2000_u32 {
        let subscriber = host.subscriber("t");
        assert!(matches!(
            awake.next(),
            Event::SubscriberJoined { version, .. } if version == 2 * round + 1
        ));
        drop(subscriber);
        assert!(matches!(
            awake.next(),
            Event::SubscriberLeft { version, .. } if version == 2 * round + 2
        ));
    }
    let last = host.subscriber("t");
    // When it reads again, it learns the last version and who is there, in order.
    let mut versions = Vec::new();
    let mut members = std::collections::BTreeSet::new();
    while versions.last() != Some(&4001) {
        match stalled.next() {
            Event::SubscriberJoined { version, id, .. } => {
                versions.push(version);
                assert!(members.insert(id));
            }
            Event::SubscriberLeft { version, id, .. } => {
                versions.push(version);
                members.remove(&id);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(versions.is_sorted());
    assert!(
        versions.len() < 4001,
        "the socket took everything, so nothing was tested"
    );
    assert!(members.into_iter().eq([last.id]));
    stalled.nothing();
}

#[test]
fn a_subscriber_that_never_reads_holds_the_indices_that_it_was_told() {
    let host = Host::new();
    let stalled = host.subscriber("t");
    for expected in 0..60 {
        let publisher = host.publisher("t");
        assert_eq!(publisher.index, expected);
    }
    for _ in 0..60 {
        let Event::PublisherJoined { index, .. } = stalled.next() else {
            panic!("not joined");
        };
        assert!(matches!(stalled.next(), Event::PublisherLeft { .. }));
        stalled.release(index);
    }
    stalled.nothing();
}

/// Class 23 of the field notes: "lossless" that loses. What was published while its socket was full is there to be read, though its publishers have ended; so
/// their indices stay taken, and who is refused for that learns why.
#[test]
fn a_subscriber_whose_socket_is_full_hears_of_all_that_came_and_went() {
    let host = Host::new();
    let stalled = host.subscriber("t");
    // Released unread, only to fill the socket: without that the indices would run out before.
    for _ in 0..1000 {
        let publisher = host.publisher("t");
        stalled.release(publisher.index);
    }
    let unheard: Vec<_> = (0..60).map(|_| host.publisher("t").id).collect();
    common::until(|| stalled.registry().publishers() == 2 * 1060);
    let connection = host.connect();
    connection
        .send(&open_request(Role::Publisher, "t"), &[])
        .unwrap();
    let (kind, why) = common::refusal(&connection);
    assert_eq!(kind, bus_core::control::Refusal::Limit);
    let me = std::process::id();
    assert!(
        why.contains(&format!("subscriber test (process {me}, 60 rings)")),
        "{why}"
    );
    let (mut joined, mut left, mut last) = (Vec::new(), Vec::new(), 0);
    while left.last() != unheard.last() {
        let version = match stalled.next() {
            Event::PublisherJoined {
                version, id, index, ..
            } => {
                joined.push(id);
                // The others were released already.
                if unheard.contains(&id) {
                    stalled.release(index);
                }
                version
            }
            Event::PublisherLeft { version, id, .. } => {
                left.push(id);
                version
            }
            other => panic!("{other:?}"),
        };
        assert!(version > last);
        last = version;
    }
    assert_eq!(joined[joined.len() - 60..], unheard);
    assert_eq!(left[left.len() - 60..], unheard);
    assert!(
        joined.len() < 1060,
        "the socket took everything, so nothing was tested"
    );
    host.publisher("t");
}

#[test]
fn a_client_that_floods_does_not_starve_others() {
    let host = Host::new();
    let flood = host.subscriber("t");
    let done = std::sync::atomic::AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let mut sent = 0_u64;
            // ORDERING: none needed; the flag only ends the loop, and the join below orders the rest.
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                flood
                    .connection
                    .send(&Request::Released { index: 0 }, &[])
                    .unwrap();
                sent += 1;
            }
            sent
        });
        for _ in 0..100 {
            drop(host.publisher("u"));
        }
        // ORDERING: see above.
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        flooding.join().unwrap()
    });
    assert!(sent > 100);
}

#[test]
fn more_connections_than_the_limit_are_turned_away() {
    bus_daemon::raise_descriptor_limit();
    let host = Host::new();
    // A socket at either end, and a pidfd.
    let needed = 3 * bus_daemon::MAX_CONNECTIONS as u64 + 500;
    if !needs::descriptors(needed) {
        return;
    }
    let connections: Vec<_> = (0..bus_daemon::MAX_CONNECTIONS)
        .map(|_| host.connect())
        .collect();
    let excess = host.connect();
    let (kind, why) = common::refusal(&excess);
    assert_eq!(kind, bus_core::control::Refusal::Limit);
    assert!(why.contains("4096 connections"), "{why}");
    // The others are served, and one that leaves makes room.
    let last = connections.last().unwrap();
    last.send(&open_request(Role::Subscriber, "t"), &[])
        .unwrap();
    assert!(matches!(common::next(last).0, Event::Opened { .. }));
    drop(connections);
    let deadline = common::deadline().unwrap();
    loop {
        assert!(
            std::time::Instant::now() < deadline,
            "there is never room again"
        );
        let connection = host.connect();
        // Turned away already, or about to be.
        if connection
            .send(&open_request(Role::Subscriber, "t"), &[])
            .is_ok()
            && let Ok((Event::Opened { .. }, _)) = connection.recv::<Event>(Some(deadline))
        {
            break;
        }
    }
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

fn send_with(socket: &impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let parts = [std::io::IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &parts, &rights, flags, None).unwrap();
}

/// Class 3 of the field notes: one that stalls stops the others. Whoever closes the last descriptor of such a socket waits.
#[test]
fn a_descriptor_whose_closing_waits_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let busd = Busd::start(&path, "");
    let witness = Handle::open(&path, Role::Publisher, "t").joined();
    let wake = Request::Wake.pack().unwrap();
    for way in 0..4 {
        let (socket, _end) = lingering();
        let connection = Connection::connect(&path).unwrap();
        // While it is stopped, what is sent becomes its own: this side's descriptor is then not the last.
        busd.signal(Signal::SIGSTOP);
        match way {
            0 => send_with(&connection, wake.as_bytes(), &[socket.as_fd()]),
            1 => send_with(&connection, b"nothing", &[socket.as_fd()]),
            2 => send_with(&connection, wake.as_bytes(), &[socket.as_fd(); 9]),
            _ => {
                // What comes first is refused, so that this is never read.
                send_with(&connection, b"nothing", &[]);
                send_with(&connection, wake.as_bytes(), &[socket.as_fd()]);
            }
        }
        drop(socket);
        busd.signal(Signal::SIGCONT);
        let subscriber = Handle::open(&path, Role::Subscriber, "t").joined();
        assert!(matches!(witness.next(), Event::SubscriberJoined { .. }));
        drop(subscriber);
        assert!(matches!(witness.next(), Event::SubscriberLeft { .. }));
    }
}
