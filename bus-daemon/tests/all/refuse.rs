//! What is asked for wrongly is refused with a sentence that names both sides, and harms nobody else.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::common::{
    self, Greeting, Handle, Host, Session, ended, open_request, refusal, small, watch_request,
};
use bus_core::control::{
    Connection, Event, KnownPeer, MAX_PACKET, MAX_PRESENTED, MAY_BE_IGNORED, Message,
    PROTOCOL_VERSIONS, Packet, Refusal, Request, Role, SESSION, Secret,
};
use bus_core::memory::segment::{self, Kind};
use bus_core::schema::Schema;
use bus_core::{Error, Settings};
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};

fn open_with(role: Role, schema: Schema, settings: Settings) -> Request {
    Request::Open {
        role,
        topic: "market/ticks".into(),
        schema,
        settings,
        history: 0,
        watched: None,
    }
}

fn greeted(client: &str) -> Greeting {
    Greeting {
        client: client.into(),
        ..Greeting::new()
    }
}

#[test]
fn another_setting_names_both_sides() {
    let host = Host::new();
    let _first = host.publisher("market/ticks");
    let settings = Settings {
        depth: Some(16),
        ..Settings::default()
    };
    let session = host.connect();
    let open = open_with(Role::Subscriber, Schema::bytes(), settings);
    let (kind, why) = session.refused(&open);
    assert_eq!(kind, Refusal::Settings);
    let me = std::process::id();
    assert_eq!(
        why,
        format!(
            "topic market/ticks has depth 2, asked 16; it is open in publisher test (process {me})"
        )
    );
    // What is left open is taken as it is; and the session goes on.
    let open = open_with(Role::Subscriber, Schema::bytes(), Settings::default());
    assert_eq!(Handle::ask_on(&session, &open).settings.depth, 2);
}

#[test]
fn another_type_names_the_first_field_that_differs() {
    let host = Host::new();
    let has = Schema::of::<(u32, f64)>();
    let mut asks = has.clone();
    asks.fields[1].kind = "u64".into();
    let publisher = open_with(Role::Publisher, has, Settings::default());
    let _first = Handle::ask(&host.path, &publisher);
    for role in [Role::Publisher, Role::Subscriber] {
        let open = open_with(role, asks.clone(), Settings::default());
        let (kind, why) = host.refused(&open);
        assert_eq!(kind, Refusal::Schema);
        assert!(
            why.starts_with("topic market/ticks carries (u32, f64)"),
            "{why}"
        );
        assert!(
            why.contains("asked u64") && why.contains("topic has f64"),
            "{why}"
        );
        assert!(why.contains("publisher test (process "), "{why}");
    }
}

#[test]
fn a_type_that_breaks_the_limits_is_refused() {
    let host = Host::new();
    let mut schema = Schema::of::<(u32, f64)>();
    let field = schema.fields[0].clone();
    schema.fields.extend(std::iter::repeat_n(field, 600));
    let open = open_with(Role::Subscriber, schema, Settings::default());
    let (kind, why) = host.refused(&open);
    assert_eq!(kind, Refusal::Schema, "{why}");
}

#[test]
fn bad_names_and_bad_settings_say_which_rule_they_break() {
    let host = Host::new();
    let (kind, why) = host.refused(&open_request(Role::Publisher, "Market//ticks"));
    assert_eq!(kind, Refusal::BadName);
    assert!(why.contains("Market//ticks"), "{why}");

    let (kind, why) = Session::greet(&host.path, greeted(&"x".repeat(128))).unwrap_err();
    assert_eq!(kind, Refusal::BadName);
    assert!(why.starts_with("client:"), "{why}");

    let settings = Settings {
        depth: Some(3),
        ..small()
    };
    let open = open_with(Role::Subscriber, Schema::bytes(), settings);
    let (kind, why) = host.refused(&open);
    assert_eq!(kind, Refusal::BadSetting);
    assert!(
        why.contains("depth") && why.contains("power of two"),
        "{why}"
    );
}

/// A handle is refused; the others of its session, and the session, go on.
#[test]
fn a_refused_handle_takes_no_other_handle_with_it() {
    let host = Host::new();
    let session = host.connect();
    let subscriber = Handle::open_on(&session, Role::Subscriber, "t").joined();
    let opened = Handle::open_on(&session, Role::Publisher, "t");
    let (short, _mapping) = segment::create(Kind::Ring, 4096).unwrap();
    session.send(opened.number, &Request::Join {}, &[short.as_fd()]);
    assert_eq!(session.refusal(opened.number).0, Refusal::Segment);
    assert_eq!(
        session.refused(&open_request(Role::Publisher, "No Name")).0,
        Refusal::BadName
    );
    let publisher = host.publisher("t");
    let event = subscriber.change();
    assert!(
        matches!(event, Event::PublisherJoined { id, .. } if id == publisher.id),
        "{event:?}"
    );
}

#[test]
fn requests_in_the_wrong_order_end_the_session() {
    let host = Host::new();
    let raw = |request: &Request| {
        let connection = Connection::connect(&host.path).unwrap();
        connection.send(1, request, &[]).unwrap();
        refusal(&connection)
    };
    for first in [Request::Join {}, Request::Released { ring: 0 }] {
        let (kind, why) = raw(&first);
        assert_eq!(kind, Refusal::Protocol);
        assert!(
            why.contains("the first message of a session is Hello"),
            "{why}"
        );
    }
    let on_session = |request: &Request, descriptors: &[BorrowedFd<'_>]| {
        let session = host.connect();
        session.send(SESSION, request, descriptors);
        let (kind, why) = session.refusal(SESSION);
        assert_eq!(kind, Refusal::Protocol, "{request:?}: {why}");
        why
    };
    let why = on_session(&Greeting::new().hello(), &[]);
    assert!(why.contains("Hello comes once"), "{why}");
    let why = on_session(&open_request(Role::Publisher, "t"), &[]);
    assert!(
        why.contains("Open is about a handle, and names none"),
        "{why}"
    );
    on_session(&Request::Join {}, &[]);
    let why = on_session(&Request::ReclaimComplete {}, &[]);
    assert!(why.contains("ReclaimComplete comes once"), "{why}");
    let present = Request::PresentProcess {
        process: 1,
        pid: 1,
        user: 0,
        client: String::new(),
    };
    on_session(&present, &[]);

    let on_handle = |handle: Handle, request: &Request, descriptors: &[BorrowedFd<'_>]| {
        (handle.session).send(handle.number, request, descriptors);
        loop {
            match handle.next() {
                Event::Refused { kind, why } => {
                    assert_eq!(kind, Refusal::Protocol, "{request:?}: {why}");
                    handle.session.ends();
                    return why;
                }
                Event::Synced { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let opened = Handle::open(&host.path, Role::Publisher, "t");
    let why = on_handle(opened, &open_request(Role::Publisher, "u"), &[]);
    assert!(
        why.contains("Open is no request of handle 1, which is a publisher or subscriber"),
        "{why}"
    );
    let (reader, _mapping) = segment::create(Kind::Reader, 4096).unwrap();
    let why = on_handle(host.subscriber("t"), &Request::Join {}, &[reader.as_fd()]);
    assert!(why.contains("asked to join again"), "{why}");
    on_handle(host.publisher("t"), &Request::Released { ring: 0 }, &[]);
    let decline = Request::Decline { topic: 1 };
    on_handle(host.subscriber("t"), &decline, &[]);
    let publisher = host.publisher("t");
    let reclaim = publisher.reclaim_request();
    on_handle(publisher, &reclaim, &[reader.as_fd()]);
}

#[test]
fn more_peers_than_a_packet_may_present_are_refused() {
    let host = Host::new();
    let session = host.connect();
    let peer = KnownPeer {
        id: 1,
        process: 1,
        index: 0,
        left: true,
        doorbell: false,
    };
    let peers = vec![peer; MAX_PRESENTED + 1];
    let (kind, why) = session.refused(&Request::PresentPeers { peers });
    assert_eq!(kind, Refusal::Protocol);
    assert!(why.contains("too many peers"), "{why}");
}

/// A ring that it never heard of is nothing to a subscriber.
#[test]
fn a_release_of_a_ring_that_is_none_does_no_harm() {
    let host = Host::new();
    let subscriber = host.subscriber("t");
    let publisher = host.publisher("t");
    for ring in [0, 7, publisher.id, publisher.id, u64::MAX] {
        subscriber.release(ring);
    }
    subscriber.session.barrier();
}

/// Class 6 and 19 of the field notes: a segment that is half built, or can be cut under its reader.
#[test]
fn a_segment_that_is_not_one_is_refused() {
    let host = Host::new();
    let plain: OwnedFd = tempfile::tempfile().unwrap().into();
    let (short, _mapping) = segment::create(Kind::Ring, 4096).unwrap();
    let unsealed = nix::sys::memfd::memfd_create(
        c"unsealed",
        nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING | nix::sys::memfd::MFdFlags::MFD_CLOEXEC,
    )
    .unwrap();
    nix::unistd::ftruncate(&unsealed, 8192).unwrap();
    let socket: OwnedFd = std::os::unix::net::UnixDatagram::unbound().unwrap().into();

    let witness = host.subscriber("t");
    let session = host.connect();
    for (segment, says) in [
        (&plain, "topic t"),
        (&short, "4096 bytes"),
        (&unsealed, "not sealed"),
        (&socket, "topic t"),
    ] {
        let handle = Handle::open_on(&session, Role::Publisher, "t");
        session.send(handle.number, &Request::Join {}, &[segment.as_fd()]);
        let (kind, why) = session.refusal(handle.number);
        assert_eq!(kind, Refusal::Segment);
        assert!(why.contains(says), "{why}");
    }
    for descriptors in [&[][..], &[plain.as_fd(), short.as_fd()][..]] {
        let handle = Handle::open(&host.path, Role::Publisher, "t");
        (handle.session).send(handle.number, &Request::Join {}, descriptors);
        assert_eq!(handle.session.refusal(handle.number).0, Refusal::Protocol);
    }
    witness.nothing();
}

#[test]
fn descriptors_that_nobody_asked_for_are_refused() {
    let host = Host::new();
    let gift: OwnedFd = tempfile::tempfile().unwrap().into();
    for request in [open_request(Role::Publisher, "t"), watch_request("t")] {
        let session = host.connect();
        let number = session.number();
        session.send(number, &request, &[gift.as_fd()]);
        assert_eq!(session.refusal(number).0, Refusal::Protocol);
    }
    for request in [
        Request::Received { descriptors: 0 },
        Request::Retell {},
        Request::ReclaimComplete {},
    ] {
        let session = host.connect();
        session.send(SESSION, &request, &[gift.as_fd()]);
        assert_eq!(session.refusal(SESSION).0, Refusal::Protocol);
    }
    let connection = Connection::connect(&host.path).unwrap();
    let hello = Greeting::new().hello();
    match connection.send(SESSION, &hello, &[gift.as_fd()]) {
        Ok(()) => assert_eq!(refusal(&connection).0, Refusal::Protocol),
        // The kernel takes none for a connection of whose client the broker knows nothing yet.
        Err(Error::Io { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
        }
        Err(error) => panic!("{error}"),
    }

    let publisher = host.publisher("t");
    let number = publisher.number;
    (publisher.session).send(number, &Request::Wake {}, &[gift.as_fd()]);
    assert_eq!(publisher.session.refusal(number).0, Refusal::Protocol);
}

fn send_raw(connection: &Connection, bytes: &[u8]) {
    send(
        connection.as_fd().as_raw_fd(),
        bytes,
        MsgFlags::MSG_NOSIGNAL,
    )
    .unwrap();
}

/// As a client of the wire version 1 reads what is told to it: it looks at the version ahead of all else.
fn version_that_an_old_client_sees(packet: &[u8]) -> u16 {
    assert_eq!(packet[..4], *b"BusC");
    u16::from_le_bytes([packet[4], packet[5]])
}

#[test]
fn malformed_packets_are_refused_and_others_go_on() {
    let host = Host::new();
    let witness = host.publisher("t");
    let good = open_request(Role::Publisher, "t").pack(1).unwrap();
    let good = good.as_bytes();
    let mut wrong_length = good.to_vec();
    wrong_length[8] ^= 1;
    let mut garbage = good.to_vec();
    garbage[16..].fill(0xff);
    let event = Event::Synced { version: 1 }.pack(1).unwrap();
    for bytes in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0_u8],
        &good[..15],
        &good[..good.len() - 1],
        &wrong_length,
        &garbage,
        event.as_bytes(),
        &vec![0x42; MAX_PACKET + 1],
    ] {
        // Before it has said who it is, and after.
        let connection = Connection::connect(&host.path).unwrap();
        send_raw(&connection, bytes);
        let (kind, why) = refusal(&connection);
        assert_eq!(kind, Refusal::Protocol, "{why}");
        let session = host.connect();
        send_raw(&session.connection, bytes);
        let (kind, why) = session.refusal(SESSION);
        assert_eq!(kind, Refusal::Protocol, "{why}");
    }
    let subscriber = host.subscriber("t");
    assert_eq!(subscriber.early.len(), 1);
    let event = witness.change();
    assert!(
        matches!(event, Event::SubscriberJoined { id, .. } if id == subscriber.id),
        "{event:?}"
    );
}

/// A client of the protocol before sessions: its first packet says version 1, and it understands this much of the answer.
#[test]
fn a_client_of_an_older_wire_finds_out_that_the_versions_differ() {
    let host = Host::new();
    for version in [1, 77_u16] {
        let mut bytes = open_request(Role::Publisher, "t")
            .pack(1)
            .unwrap()
            .as_bytes()
            .to_vec();
        bytes[4..6].copy_from_slice(&version.to_le_bytes());
        let connection = Connection::connect(&host.path).unwrap();
        send_raw(&connection, &bytes);
        let mut answer = [0; 2048];
        common::until(|| {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
            nix::sys::socket::recv(connection.as_fd().as_raw_fd(), &mut answer, flags).is_ok()
        });
        assert_eq!(
            version_that_an_old_client_sees(&answer),
            bus_core::control::WIRE_VERSION
        );
        let (kind, why) = refusal(&connection);
        assert_eq!(kind, Refusal::Version, "{why}");
        assert!(why.contains(&version.to_string()), "{why}");
    }
}

#[test]
fn versions_without_a_common_one_are_named_on_both_sides() {
    let host = Host::new();
    let (oldest, newest) = PROTOCOL_VERSIONS;
    for (from, to) in [(newest + 1, newest + 3), (0, oldest - 1)] {
        let hello = Request::Hello {
            versions: (from, to),
            features: 0,
            client: "test".into(),
            secret: Secret(1, 1),
            reclaims: 0,
            generation: 0,
        };
        let connection = Connection::connect(&host.path).unwrap();
        connection.send(SESSION, &hello, &[]).unwrap();
        let (kind, why) = refusal(&connection);
        assert_eq!(kind, Refusal::Version);
        for range in [format!("{from} to {to}"), format!("{oldest} to {newest}")] {
            assert!(why.contains(&range), "{why}");
        }
    }
}

#[test]
fn a_feature_that_only_one_side_knows_matters_only_where_it_is_needed() {
    let host = Host::new();
    let hello = |features| Request::Hello {
        versions: PROTOCOL_VERSIONS,
        features,
        client: "test".into(),
        secret: Secret(2, 2),
        reclaims: 0,
        generation: 0,
    };
    let connection = Connection::connect(&host.path).unwrap();
    connection.send(SESSION, &hello(1 << 5), &[]).unwrap();
    let (kind, why) = refusal(&connection);
    assert_eq!(kind, Refusal::Version);
    assert!(why.contains("feature 5"), "{why}");
    let connection = Connection::connect(&host.path).unwrap();
    connection.send(SESSION, &hello(1 << 40), &[]).unwrap();
    let welcome = connection.recv::<Event>(common::deadline()).unwrap();
    assert!(
        matches!(welcome.message, Event::Welcome { features: 0, .. }),
        "{welcome:?}"
    );
}

#[test]
fn an_unknown_message_is_skipped_only_where_its_sender_says_that_it_may_be() {
    let host = Host::new();
    let session = host.connect();
    let gift: OwnedFd = tempfile::tempfile().unwrap().into();
    let ignorable = Packet::unknown(MAY_BE_IGNORED | 4711, 1);
    let raw = [gift.as_raw_fd()];
    for rights in [&[][..], &[ControlMessage::ScmRights(&raw)][..]] {
        sendmsg::<()>(
            session.connection.as_fd().as_raw_fd(),
            &[IoSlice::new(ignorable.as_bytes())],
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .unwrap();
    }
    let _goes_on = Handle::open_on(&session, Role::Publisher, "t");
    send_raw(&session.connection, Packet::unknown(4711, 1).as_bytes());
    let (kind, why) = session.refusal(SESSION);
    assert_eq!(kind, Refusal::Version);
    let (oldest, newest) = PROTOCOL_VERSIONS;
    for part in [
        "message 4711",
        &format!("versions {oldest} to {newest} of the protocol"),
        &format!("the client speaks versions {oldest} to {newest}"),
    ] {
        assert!(why.contains(part), "{why}");
    }
}

/// A bit of a good request turned over, everywhere: each is refused or understood, and the broker goes on.
#[test]
fn no_changed_bit_stops_the_broker() {
    let host = Host::new();
    let ignored = |bytes: &[u8]| u16::from_le_bytes([bytes[6], bytes[7]]) & MAY_BE_IGNORED != 0;
    let hello = Greeting::new().hello().pack(SESSION).unwrap();
    for at in 0..hello.as_bytes().len() {
        let mut bytes = hello.as_bytes().to_vec();
        bytes[at] ^= 0x81;
        let connection = Connection::connect(&host.path).unwrap();
        send_raw(&connection, &bytes);
        if ignored(&bytes) {
            send_raw(&connection, hello.as_bytes());
        }
        let event = connection
            .recv::<Event>(common::deadline())
            .unwrap()
            .message;
        assert!(
            matches!(event, Event::Welcome { .. } | Event::Refused { .. }),
            "byte {at}: {event:?}"
        );
    }
    let good = open_request(Role::Subscriber, "t").pack(1).unwrap();
    for at in 0..good.as_bytes().len() {
        let mut bytes = good.as_bytes().to_vec();
        bytes[at] ^= 0x81;
        let session = host.connect();
        send_raw(&session.connection, &bytes);
        if ignored(&bytes) {
            send_raw(&session.connection, good.as_bytes());
        }
        let event = session
            .connection
            .recv::<Event>(common::deadline())
            .unwrap()
            .message;
        assert!(
            matches!(event, Event::Opened { .. } | Event::Refused { .. }),
            "byte {at}: {event:?}"
        );
    }
}

#[test]
fn a_second_broker_is_told_that_there_is_one() {
    let host = Host::new();
    let error = bus_daemon::Broker::bind(&host.path).unwrap_err();
    assert!(matches!(error, bus_daemon::Error::InUse { .. }), "{error}");
    assert!(error.to_string().contains("bus.sock"), "{error}");
    let _still_there = host.publisher("t");
}

#[test]
fn an_answer_that_is_something_else_is_told_apart() {
    let (client, foreign) = Connection::pair().unwrap();
    send_raw(&foreign, b"220 mail.example.org ESMTP");
    let error = client.recv::<Event>(common::deadline()).unwrap_err();
    assert!(matches!(error, Error::Control(_)), "{error}");
    assert!(error.to_string().contains("no part of bus"), "{error}");
}

/// A secret makes a process; another process that has learnt it is still another process.
#[test]
fn a_process_comes_again_over_another_connection_and_its_old_one_ends() {
    let host = Host::new();
    let witness = host.subscriber("t");
    let old = host.connect();
    let publisher = Handle::open_on(&old, Role::Publisher, "t").joined();
    let event = witness.change();
    assert!(matches!(event, Event::PublisherJoined { .. }), "{event:?}");
    let new = Session::greet(&host.path, old.greeting.clone()).unwrap();
    assert_eq!(new.process, old.process);
    ended(&old.connection);
    let (id, dropped) = (publisher.id, false);
    assert_eq!(witness.change(), Event::PublisherLeft { id, dropped });
    Handle::open_on(&new, Role::Publisher, "t").joined();
}

#[test]
fn a_client_that_claims_an_impossible_generation_is_refused_and_others_are_served() {
    let host = Host::new();
    let greeting = Greeting {
        generation: u64::MAX,
        ..Greeting::new()
    };
    let Err((kind, why)) = Session::greet(&host.path, greeting) else {
        panic!("it is let in");
    };
    assert_eq!(kind, Refusal::Protocol);
    assert!(why.contains("generation"), "{why}");
    assert!(host.connect().generation() < 100);
}
