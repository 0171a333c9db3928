//! What goes wrong: each a sentence and an exit code, or a clean end.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use crate::common::{Place, Running, segments, state, until};
use bus_client::Bus;
use nix::sys::signal::Signal;

#[test]
fn wrong_usage_is_2() {
    let place = Place::new();
    for arguments in [
        &["pub"][..],
        &["sub", "raw", "--lines", "--bytes"],
        &["pub", "raw", "--chunk", "many"],
        &["demo", "--seconds", "0"],
        &["nothing"],
    ] {
        assert_eq!(place.start(arguments).end().code, Some(2), "{arguments:?}");
    }
}

#[test]
fn a_bad_name_says_what_is_allowed() {
    let place = Place::new();
    for command in ["pub", "sub"] {
        for name in ["Raw", "", "a//b", &"x".repeat(128)] {
            place.start(&[command, name]).end_badly(2, "[a-z0-9_.-]");
        }
        let named = place.start(&[command, "raw", "--name", "no spaces"]);
        named.end_badly(2, "no spaces");
    }
}

#[test]
fn a_setting_out_of_its_limits_is_named() {
    let place = Place::new();
    place
        .start(&["sub", "raw", "--depth", "3"])
        .end_badly(1, "power of two");
    let sub = place.start(&["sub", "raw", "--max-payload", "2G"]);
    sub.end_badly(1, "max_payload");
    place
        .start(&["pub", "raw", "--chunk", "0"])
        .end_badly(1, "--chunk 1");
}

#[test]
fn a_setting_that_the_topic_contradicts_is_named_with_both_sides() {
    let place = Place::new();
    let first = place.start(&["sub", "raw", "--depth", "64"]);
    until("it has the topic", || segments(first.id(), "reader") > 0);
    // The publisher decides, though it comes later.
    let mut publisher = place.start(&["pub", "raw", "--depth", "128"]);
    let _open = publisher.stdin();
    let refused = first.end();
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("64") && refused.stderr.contains("128"),
        "{}",
        refused.stderr
    );
}

#[test]
fn nobody_at_the_socket_says_how_to_start_somebody() {
    let place = Place::new();
    let sub = place.start(&["sub", "raw", "--no-embedded"]);
    sub.end_badly(1, "start busd");
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 0);
}

#[test]
fn somebody_else_at_the_socket_is_left_alone() {
    let place = Place::new();
    fs::write(place.socket(), "precious").unwrap();
    place.start(&["sub", "raw"]).end_badly(1, "not a socket");
    assert_eq!(fs::read(place.socket()).unwrap(), b"precious");

    fs::remove_file(place.socket()).unwrap();
    let _other = UnixListener::bind(place.socket()).unwrap();
    let publisher = place.start(&["pub", "raw"]);
    publisher.end_badly(1, "something else than a broker");
    assert!(place.socket().exists());
}

#[test]
fn a_socket_path_that_does_not_fit_says_how_long_it_may_be() {
    let place = Place::new();
    let long = format!("/tmp/{}", "x".repeat(108));
    place
        .start(&["sub", "raw", "--socket", &long])
        .end_badly(1, "107");
    let mut command = place.command(&["sub", "raw"]);
    command.env("BUS_SOCKET", &long).stderr(Stdio::piped());
    Running::new(&mut command).end_badly(2, "107");
}

#[test]
fn another_type_on_the_topic_is_named() {
    let place = Place::new();
    let bus = Bus::builder("typed")
        .socket(place.socket())
        .embedded(true)
        .connect()
        .unwrap();
    let _numbers = bus.publisher::<u64>("raw").unwrap();
    for command in ["pub", "sub"] {
        place.start(&[command, "raw"]).end_badly(1, "topic raw");
    }
}

#[test]
fn a_line_that_is_too_long_is_named_with_the_setting_and_the_lines_before_it_arrive() {
    let place = Place::new();
    let mut publisher = place.start(&["pub", "--lines", "log"]);
    let subscriber = place.start(&["sub", "--lines", "log"]);
    let mut stdin = publisher.stdin();
    stdin.write_all(b"fits\nfits\n").unwrap();
    stdin.write_all(&[b'x'; 70_000]).unwrap();
    stdin.write_all(b"\nafter\n").unwrap();
    drop(stdin);
    let ended = publisher.end();
    assert_eq!(ended.code, Some(1));
    for part in ["line 3", "65536", "--max-payload"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    assert_eq!(subscriber.end_well(), b"fits\nfits\n");
}

#[test]
fn a_line_without_end_is_refused_before_it_fills_memory() {
    let place = Place::new();
    let mut publisher = place.start(&["pub", "--lines", "--subscribers", "0", "log"]);
    let mut stdin = publisher.stdin();
    let block = [b'x'; 1 << 16];
    let mut written = 0;
    while stdin.write_all(&block).is_ok() {
        written += block.len();
        assert!(written < 16 << 20, "it takes any amount");
    }
    publisher.end_badly(1, "line 1");
}

#[test]
fn a_chunk_that_does_not_fit_the_topic_says_what_to_do() {
    let place = Place::new();
    let publisher = place.start(&["pub", "raw", "--chunk", "1M", "--subscribers", "0"]);
    publisher.end_badly(1, "smaller --chunk");
}

#[test]
fn an_output_that_is_closed_is_a_clean_end_and_the_publisher_says_that_nobody_is_left() {
    let place = Place::new();
    let mut command = place.command(&["pub", "raw"]);
    let zeroes = fs::File::open("/dev/zero").unwrap();
    let publisher = Running::new(command.stdin(zeroes).stderr(Stdio::piped()));
    let mut subscriber = place.start(&["sub", "raw"]);
    let mut stdout = subscriber.stdout();
    stdout.read_exact(&mut [0; 100]).unwrap();
    drop(stdout);
    subscriber.end_well();
    publisher.end_badly(1, "all subscribers have left");
}

#[test]
fn an_output_closed_while_nothing_comes_is_noticed() {
    let place = Place::new();
    let mut publisher = place.start(&["pub", "--lines", "raw"]);
    let mut stdin = publisher.stdin();
    let mut subscriber = place.start(&["sub", "--lines", "raw"]);
    stdin.write_all(b"one\n").unwrap();
    let mut stdout = subscriber.stdout();
    stdout.read_exact(&mut [0; 4]).unwrap();
    drop(stdout);
    subscriber.end_well();
}

#[test]
fn an_output_that_is_full_is_an_error() {
    let place = Place::new();
    let mut publisher = place.start(&["pub", "raw"]);
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = place.command(&["sub", "raw"]);
    let subscriber = Running::new(command.stdout(full).stderr(Stdio::piped()));
    publisher.stdin().write_all(b"some").unwrap();
    subscriber.end_badly(1, "No space left");
}

#[test]
fn signals_end_a_subscriber_well_wherever_it_is() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // Waiting for a publisher.
        let place = Place::new();
        let subscriber = place.start(&["sub", "raw"]);
        until("it waits", || segments(subscriber.id(), "reader") > 0);
        subscriber.signal(signal);
        subscriber.end_well();
        assert_eq!(place.left(), ["bus.sock.lock"]);

        // Stuck with its output, which nobody reads.
        let zeroes = fs::File::open("/dev/zero").unwrap();
        let _publisher = Running::new(place.command(&["pub", "raw"]).stdin(zeroes));
        let mut subscriber = place.start(&["sub", "raw"]);
        let mut stdout = subscriber.stdout();
        stdout.read_exact(&mut [0; 1]).unwrap();
        until("it is stuck", || state(subscriber.id()) == 'S');
        subscriber.signal(signal);
        until("it ends", || subscriber.child.try_wait().unwrap().is_some());
        subscriber.end_well();
        drop(stdout);
    }
}

#[test]
fn signals_end_a_publisher_wherever_it_is_and_the_code_tells() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        // Waiting for subscribers.
        let place = Place::new();
        let mut publisher = place.start(&["pub", "raw"]);
        let stdin = publisher.stdin();
        until("it waits", || segments(publisher.id(), "ring") > 0);
        publisher.signal(signal);
        assert_eq!(publisher.end().code, Some(code));
        drop(stdin);

        // Waiting for input.
        let mut publisher = place.start(&["pub", "raw"]);
        let mut stdin = publisher.stdin();
        let mut subscriber = place.start(&["sub", "raw"]);
        stdin.write_all(b"x").unwrap();
        subscriber.stdout().read_exact(&mut [0; 1]).unwrap();
        publisher.signal(signal);
        assert_eq!(publisher.end().code, Some(code));
        drop((stdin, subscriber));

        // Waiting for room.
        let zeroes = fs::File::open("/dev/zero").unwrap();
        let mut command = place.command(&["pub", "raw"]);
        let publisher = Running::new(command.stdin(zeroes).stderr(Stdio::piped()));
        let subscriber = place.start(&["sub", "raw"]);
        until("it waits for room", || {
            segments(publisher.id(), "reader") > 0
                && state(subscriber.id()) == 'S'
                && state(publisher.id()) == 'S'
        });
        publisher.signal(signal);
        assert_eq!(publisher.end().code, Some(code));
    }
}
