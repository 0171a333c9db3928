//! What users, machines and strangers do wrong: each is an error that says what, where, and what to do, and leaves nothing
//! behind; nothing hangs, panics, or is killed.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bus_client::Error;
use bus_testkit::needs;

use crate::common::role::{Given, hear, play, say, wait_for};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect, hosting, told};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, recv,
    send, socket,
};
use nix::unistd::{Uid, setuid};

/// A user that owns nothing here.
const NOBODY: u32 = 65_534;

#[bus_client::message]
struct Tick {
    symbol: u32,
    price: f64,
    venue: String,
}

mod other {
    #[bus_client::message]
    pub struct Tick {
        pub symbol: u32,
        pub price: f64,
        pub venue: u64,
    }
}

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("stranger", stranger),
        ("visitor", visitor),
        ("ticker", ticker),
    ]);
}

#[test]
fn no_broker_and_none_allowed_here() {
    let stage = Stage::new();
    let path = stage.path.display().to_string();
    told(connect(&stage.path, false), &[&path, "start busd"]);
    assert_eq!(fs::read_dir(stage.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_killed_host_leaves_a_socket_that_says_so_and_is_replaced() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    host.kill();
    host.reap();
    let path = stage.path.display().to_string();
    told(connect(&stage.path, false), &[&path, "start busd"]);
    let bus = connect(&stage.path, true).unwrap();
    assert!(bus.hosts_broker());
    bus.publisher::<u64>("t").unwrap();
    drop(bus);
    assert_eq!(stage.left(), [""; 0]);
}

/// How somebody who is no broker treats a connection.
#[derive(Clone, Copy)]
enum Manners {
    Silent,
    Babbles,
    HangsUp,
}

fn listener(path: &Path) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&fd, Backlog::new(16).unwrap()).unwrap();
    fd
}

/// Accepts as many connections as somebody makes who is treated so.
fn pretend(path: &Path, manners: Manners) -> thread::JoinHandle<()> {
    let listener = listener(path);
    thread::spawn(move || {
        let connections = match manners {
            // Somebody who meets a broker on its way out turns to the next one.
            Manners::HangsUp => 2,
            Manners::Silent | Manners::Babbles => 1,
        };
        for _ in 0..connections {
            let peer = accept(listener.as_raw_fd()).unwrap();
            let mut bytes = [0; 4096];
            match manners {
                Manners::HangsUp => {}
                Manners::Silent => {
                    while recv(peer, &mut bytes, MsgFlags::empty()).is_ok_and(|n| n > 0) {}
                }
                Manners::Babbles => {
                    // The first one may be gone already.
                    let _ = send(peer, b"220 smtp.example.com", MsgFlags::MSG_NOSIGNAL);
                    while recv(peer, &mut bytes, MsgFlags::empty()).is_ok_and(|n| n > 0) {}
                }
            }
            nix::unistd::close(peer).unwrap();
        }
    })
}

#[test]
fn somebody_else_at_the_socket_is_no_broker() {
    for (manners, part) in [
        (Manners::HangsUp, "is no broker"),
        (Manners::Babbles, "bad control message"),
        (Manners::Silent, "did not answer in 5 seconds"),
    ] {
        let stage = Stage::new();
        let pretender = pretend(&stage.path, manners);
        let path = stage.path.display().to_string();
        // Where one may be hosted here, a hang-up would mean that the path is about to be free.
        let began = Instant::now();
        told(connect(&stage.path, false), &[&path, part]);
        assert!(began.elapsed() < Duration::from_secs(20));
        pretender.join().unwrap();
        assert!(stage.path.exists(), "somebody else's socket was removed");
    }
}

/// Listens, and accepts nobody.
#[test]
fn a_listener_that_accepts_nobody_is_given_up_on() {
    let stage = Stage::new();
    let _listener = listener(&stage.path);
    let path = stage.path.display().to_string();
    told(connect(&stage.path, true), &[&path, "did not answer"]);
}

#[test]
fn what_is_no_socket_of_ours_is_named_and_left_alone() {
    let stage = Stage::new();
    let path = stage.path.display().to_string();
    let stream = std::os::unix::net::UnixListener::bind(&stage.path).unwrap();
    told(connect(&stage.path, true), &[&path, "something else"]);
    drop(stream);
    fs::remove_file(&stage.path).unwrap();

    fs::write(&stage.path, "precious").unwrap();
    told(connect(&stage.path, true), &[&path, "not a socket"]);
    assert_eq!(fs::read(&stage.path).unwrap(), b"precious");
    fs::remove_file(&stage.path).unwrap();

    fs::create_dir(&stage.path).unwrap();
    told(connect(&stage.path, true), &[&path, "not a socket"]);
    assert!(stage.path.is_dir());

    let nowhere = stage.dir.path().join("nowhere/bus.sock");
    told(connect(&nowhere, true), &[&nowhere.display().to_string()]);
    assert_eq!(fs::read_dir(stage.dir.path()).unwrap().count(), 1);
}

/// Listens as another user.
fn stranger(given: &Given) {
    setuid(Uid::from_raw(NOBODY)).unwrap();
    let path = PathBuf::from(given.get::<String>("socket"));
    let _listener = listener(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    say("listening");
    assert_eq!(hear(), None);
}

/// Connects as another user, and says what comes of it.
fn visitor(given: &Given) {
    setuid(Uid::from_raw(NOBODY)).unwrap();
    let path = PathBuf::from(given.get::<String>("socket"));
    match connect(&path, true) {
        Ok(_) => say("connected"),
        Err(error) => say(error),
    }
}

#[test]
fn a_socket_of_another_user_is_not_trusted() {
    if !needs::root() {
        return;
    }
    let stage = Stage::new();
    stage.open_to_all();
    let mut stranger = stage.start("stranger");
    stranger.expect("listening");
    for embedded in [false, true] {
        let path = stage.path.display().to_string();
        told(
            connect(&stage.path, embedded),
            &[&path, "belongs to user 65534", "BUS_SOCKET"],
        );
    }
    stranger.finish();
}

#[test]
fn a_broker_of_another_user_lets_nobody_in() {
    if !needs::root() {
        return;
    }
    let stage = Stage::new();
    stage.open_to_all();
    let host = start_host(&stage.path);
    let mut visitor = stage.start("visitor");
    let said = visitor.expect("no broker at");
    assert!(said.contains("it belongs to user 0"), "{said}");
    visitor.finish();
    host.finish();
}

#[test]
fn a_path_that_is_too_long_says_how_long_it_may_be() {
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
    for embedded in [false, true] {
        told(
            connect(&long, embedded),
            &["125 bytes", "107", "BUS_SOCKET"],
        );
    }
    told(connect(Path::new(""), true), &["empty"]);
}

#[test]
fn bad_names_are_quoted_with_the_rule() {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let long = "x".repeat(128);
    for name in ["", "A", "a b", "/a", "a/", "a//b", "ü", "a\0", "a\n", &long] {
        let results = [
            bus.publisher::<u64>(name).map(drop),
            bus.subscriber::<u64>(name).map(drop),
            bus.bytes_publisher(name).map(drop),
            bus.bytes_subscriber(name).map(drop),
            hosting(name, &stage.path).connect().map(drop),
        ];
        for result in results {
            assert!(matches!(result, Err(Error::Argument(_))));
            told(result, &["bad name", "1 to 127 bytes of [a-z0-9_.-]"]);
        }
    }
    bus.publisher::<u64>("x".repeat(127)).unwrap();
}

/// Publishes ticks.
fn ticker(given: &Given) {
    let bus = given.bus();
    let topic = bus.topic("ticks").unwrap().depth(64).max_payload(1000);
    let mut publisher = topic.publisher::<Tick>().unwrap();
    say("joined");
    wait_for("go");
    let tick = Tick {
        symbol: 1,
        price: 2.5,
        venue: "v".into(),
    };
    publisher.send(&tick).unwrap();
    assert_eq!(hear(), None);
}

#[test]
fn a_wrong_type_or_setting_names_both_sides_and_disturbs_nobody() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut ticker = stage.start("ticker");
    ticker.expect("joined");
    let bus = connect(&stage.path, false).unwrap();
    let ticks = bus.subscriber::<Tick>("ticks").unwrap();

    let parts = ["ticks", "venue", "u64"];
    told(bus.subscriber::<other::Tick>("ticks"), &parts);
    told(bus.publisher::<other::Tick>("ticks"), &parts);
    told(bus.bytes_subscriber("ticks"), &["ticks", "Tick", "bytes"]);
    told(bus.publisher::<u64>("ticks"), &["ticks", "Tick", "u64"]);

    let topic = || bus.topic("ticks").unwrap();
    let asked = |result, parts: [&str; 3]| {
        assert!(matches!(result, Err(Error::Refused(_))));
        told::<()>(result, &parts);
    };
    let open = |topic: bus_client::TopicBuilder| topic.publisher::<Tick>().map(drop);
    asked(open(topic().depth(128)), ["depth", "64", "128"]);
    asked(
        open(topic().max_payload(2000)),
        ["max_payload", "1000", "2000"],
    );
    asked(open(topic().keep(3)), ["keep", "1", "3"]);
    asked(open(topic().stride(1024)), ["stride", "1024", "64"]);
    let topic = || bus.topic("new").unwrap();
    told(open(topic().depth(100)), &["depth", "100", "power of two"]);
    told(open(topic().stride(100)), &["stride", "multiple of 64"]);
    told(
        open(topic().max_payload(1 << 31)),
        &["max_payload", "1 GiB"],
    );

    ticker.tell("go");
    assert_eq!(ticks.recv().unwrap().venue.as_str(), "v");
    assert_eq!(ticks.publishers().unwrap().len(), 1);
    ticker.finish();
    host.finish();
}

#[bus_client::message]
#[rkyv(attr(repr(C, align(64))))]
struct Line {
    bytes: [u8; 64],
}

#[test]
fn a_type_that_is_aligned_too_far_is_named_as_the_cause() {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    let text = told(
        bus.publisher::<Line>("t"),
        &[
            "cannot carry this type",
            "aligned to 64 bytes",
            "limit is 16",
        ],
    );
    assert!(!text.contains("control message"), "{text}");
    told(bus.subscriber::<Line>("t"), &["cannot carry this type"]);
}
