//! What is asked for wrongly is refused with a sentence that names both sides, and harms nobody else.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::common::{self, Handle, Host, open_request, refusal, small};
use bus_core::control::{Connection, MAX_PACKET, Message, Refusal, Request, Role};
use bus_core::memory::segment::{self, Kind};
use bus_core::schema::Schema;
use bus_core::{Error, Settings};
use nix::sys::socket::{MsgFlags, send};

fn ask(host: &Host, request: &Request) -> (Refusal, String) {
    let connection = host.connect();
    connection.send(request, &[]).unwrap();
    refusal(&connection)
}

fn open_with(schema: Schema, settings: Settings) -> Request {
    Request::Open {
        client: "test".into(),
        role: Role::Subscriber,
        topic: "market/ticks".into(),
        schema,
        settings,
        history: 0,
        watched: None,
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
    let (kind, why) = ask(&host, &open_with(Schema::bytes(), settings));
    assert_eq!(kind, Refusal::Settings);
    assert_eq!(why, "topic market/ticks has depth 2, asked 16");
    // What is left open is taken as it is.
    let connection = host.connect();
    connection
        .send(&open_with(Schema::bytes(), Settings::default()), &[])
        .unwrap();
    let (event, _) = common::next(&connection);
    assert!(
        matches!(event, bus_core::control::Event::Opened { settings, .. } if settings.depth == 2),
        "{event:?}"
    );
}

#[test]
fn another_type_names_the_first_field_that_differs() {
    let host = Host::new();
    let has = Schema::of::<(u32, f64)>();
    let mut asks = has.clone();
    asks.fields[1].kind = "u64".into();
    let first = host.connect();
    first
        .send(&open_with(has, Settings::default()), &[])
        .unwrap();
    assert_eq!(common::next(&first).1.len(), 1);
    let (kind, why) = ask(&host, &open_with(asks, Settings::default()));
    assert_eq!(kind, Refusal::Schema);
    assert!(
        why.starts_with("topic market/ticks carries (u32, f64)"),
        "{why}"
    );
    assert!(
        why.contains("asked u64") && why.contains("topic has f64"),
        "{why}"
    );
}

#[test]
fn a_type_that_breaks_the_limits_is_refused() {
    let host = Host::new();
    let mut schema = Schema::of::<(u32, f64)>();
    let field = schema.fields[0].clone();
    schema.fields.extend(std::iter::repeat_n(field, 600));
    let (kind, why) = ask(&host, &open_with(schema, Settings::default()));
    assert_eq!(kind, Refusal::Schema, "{why}");
}

#[test]
fn bad_names_and_bad_settings_say_which_rule_they_break() {
    let host = Host::new();
    let (kind, why) = ask(&host, &open_request(Role::Publisher, "Market//ticks"));
    assert_eq!(kind, Refusal::BadName);
    assert!(why.contains("Market//ticks"), "{why}");

    let mut request = open_request(Role::Publisher, "t");
    if let Request::Open { client, .. } = &mut request {
        *client = "x".repeat(128);
    }
    let (kind, why) = ask(&host, &request);
    assert_eq!(kind, Refusal::BadName);
    assert!(why.starts_with("client:"), "{why}");

    let settings = Settings {
        depth: Some(3),
        ..small()
    };
    let (kind, why) = ask(&host, &open_with(Schema::bytes(), settings));
    assert_eq!(kind, Refusal::BadSetting);
    assert!(
        why.contains("depth") && why.contains("power of two"),
        "{why}"
    );
}

#[test]
fn requests_in_the_wrong_order_are_refused() {
    let host = Host::new();
    assert_eq!(ask(&host, &Request::Join).0, Refusal::Protocol);
    assert_eq!(
        ask(&host, &Request::Released { index: 0 }).0,
        Refusal::Protocol
    );

    let twice = Handle::open(&host.path, Role::Publisher, "t");
    twice
        .connection
        .send(&open_request(Role::Publisher, "u"), &[])
        .unwrap();
    let (kind, why) = refusal(&twice.connection);
    assert_eq!(kind, Refusal::Protocol);
    assert!(
        why.contains("topic t open") && why.contains("open u"),
        "{why}"
    );

    let again = host.subscriber("t");
    let (reader, _mapping) = segment::create(Kind::Reader, 4096).unwrap();
    again
        .connection
        .send(&Request::Join, &[reader.as_fd()])
        .unwrap();
    assert_eq!(refusal(&again.connection).0, Refusal::Protocol);

    let publisher = host.publisher("t");
    publisher.release(0);
    assert_eq!(refusal(&publisher.connection).0, Refusal::Protocol);

    let subscriber = host.subscriber("t");
    subscriber.release(60);
    assert_eq!(refusal(&subscriber.connection).0, Refusal::Protocol);
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
    for (segment, says) in [
        (&plain, "topic t"),
        (&short, "4096 bytes"),
        (&unsealed, "not sealed"),
        (&socket, "topic t"),
    ] {
        let handle = Handle::open(&host.path, Role::Publisher, "t");
        handle
            .connection
            .send(&Request::Join, &[segment.as_fd()])
            .unwrap();
        let (kind, why) = refusal(&handle.connection);
        assert_eq!(kind, Refusal::Segment);
        assert!(why.contains(says), "{why}");
    }
    for descriptors in [&[][..], &[plain.as_fd(), short.as_fd()][..]] {
        let handle = Handle::open(&host.path, Role::Publisher, "t");
        handle.connection.send(&Request::Join, descriptors).unwrap();
        assert_eq!(refusal(&handle.connection).0, Refusal::Protocol);
    }
    witness.nothing();
}

#[test]
fn descriptors_that_nobody_asked_for_are_refused() {
    let host = Host::new();
    let gift: OwnedFd = tempfile::tempfile().unwrap().into();
    let connection = host.connect();
    let request = open_request(Role::Publisher, "t");
    connection.send(&request, &[gift.as_fd()]).unwrap();
    assert_eq!(refusal(&connection).0, Refusal::Protocol);

    let subscriber = host.subscriber("t");
    let fds: [BorrowedFd<'_>; 1] = [gift.as_fd()];
    subscriber
        .connection
        .send(&Request::Released { index: 0 }, &fds)
        .unwrap();
    assert_eq!(refusal(&subscriber.connection).0, Refusal::Protocol);
}

fn send_raw(connection: &Connection, bytes: &[u8]) {
    send(
        connection.as_fd().as_raw_fd(),
        bytes,
        MsgFlags::MSG_NOSIGNAL,
    )
    .unwrap();
}

#[test]
fn malformed_packets_are_refused_and_others_go_on() {
    let host = Host::new();
    let witness = host.publisher("t");
    let good = open_request(Role::Publisher, "t").pack().unwrap();
    let good = good.as_bytes();
    let mut wrong_length = good.to_vec();
    wrong_length[8] ^= 1;
    let mut garbage = good.to_vec();
    garbage[16..].fill(0xff);
    let event = bus_core::control::Event::Joined { version: 1 }
        .pack()
        .unwrap();
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
        let connection = host.connect();
        send_raw(&connection, bytes);
        let (kind, why) = refusal(&connection);
        assert_eq!(kind, Refusal::Protocol, "{why}");
    }
    let subscriber = host.subscriber("t");
    assert_eq!(subscriber.early.len(), 1);
    assert!(matches!(
        witness.next(),
        bus_core::control::Event::SubscriberJoined { version: 1, .. }
    ));
}

#[test]
fn another_version_of_the_protocol_is_told_so() {
    let host = Host::new();
    let mut bytes = open_request(Role::Publisher, "t")
        .pack()
        .unwrap()
        .as_bytes()
        .to_vec();
    bytes[4..6].copy_from_slice(&77_u16.to_le_bytes());
    let connection = host.connect();
    send_raw(&connection, &bytes);
    let (kind, why) = refusal(&connection);
    assert_eq!(kind, Refusal::Protocol);
    assert!(why.contains("77"), "{why}");
}

/// A bit of a good request turned over, everywhere: each is refused or understood, and the broker goes on.
#[test]
fn no_changed_bit_stops_the_broker() {
    let host = Host::new();
    let good = open_request(Role::Subscriber, "t")
        .pack()
        .unwrap()
        .as_bytes()
        .to_vec();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x81;
        let connection = host.connect();
        send_raw(&connection, &bytes);
        let (event, _) = common::next(&connection);
        assert!(
            matches!(
                event,
                bus_core::control::Event::Opened { .. } | bus_core::control::Event::Refused { .. }
            ),
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
fn who_answers_with_something_else_is_told_apart() {
    let (client, foreign) = Connection::pair().unwrap();
    send_raw(&foreign, b"220 mail.example.org ESMTP");
    let error = client
        .recv::<bus_core::control::Event>(common::deadline())
        .unwrap_err();
    assert!(matches!(error, Error::Control(_)), "{error}");
    assert!(error.to_string().contains("no part of bus"), "{error}");
}
