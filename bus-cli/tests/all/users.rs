//! Different users on one broker, from end to end: what they may they can, and nobody is held up by who may not hold them up.
//!
//! Other users than root can only be had as root; elsewhere these tests are skipped.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{self, Place, Running, collect, heard, segments, until};
use bus_daemon::policy::{Source, user_name as named};
use bus_daemon::{Broker, BrokerThread};
use bus_testkit::needs;
use nix::sys::signal::Signal;

const ALICE: u32 = 12345;
const BOB: u32 = 65534;

const POLICY: &str = r#"
    [[allow]]
    topics = ["open", "waits"]
    users = [12345]
    may = ["publish"]

    [[allow]]
    topics = ["believed"]
    users = [12345]
    may = ["publish"]
    trust = "in-place"

    [[allow]]
    topics = ["open", "believed"]
    users = [65534]
    may = ["subscribe"]

    [[topic]]
    topics = ["open", "believed"]
    delivery = "evict:50ms"
    "#;

/// A broker for several users, and `bus` where they can run it.
struct Town {
    place: Place,
    bus: PathBuf,
    _broker: BrokerThread,
}

impl Town {
    fn new() -> Option<Self> {
        if !needs::root() {
            return None;
        }
        let place = Place::new();
        let open = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        open(place.dir.path());
        let bus = place.dir.path().join("bus");
        std::fs::copy(env!("CARGO_BIN_EXE_bus"), &bus).unwrap();
        open(&bus);
        let policy = place.dir.path().join("bus.toml");
        std::fs::write(&policy, POLICY).unwrap();
        let mut broker = Broker::bind(place.socket()).unwrap();
        broker.govern(Source::file(policy)).unwrap();
        let broker = broker.spawn().unwrap();
        Some(Self {
            place,
            bus,
            _broker: broker,
        })
    }

    fn start(&self, user: u32, arguments: &[&str]) -> Running {
        let mut command = Command::new(&self.bus);
        command
            .args(arguments)
            .uid(user)
            .gid(user)
            .env("BUS_SOCKET", self.place.socket())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Running::new(&mut command)
    }
}

#[test]
fn a_stream_goes_from_one_user_to_another_and_no_further_than_the_policy_says() {
    let Some(town) = Town::new() else { return };
    let mut subscriber = town.start(BOB, &["sub", "open", "--lines"]);
    let read = collect(subscriber.stdout());
    until("it has joined", || segments(subscriber.id(), "reader") > 0);
    let mut publisher = town.start(ALICE, &["pub", "open", "--lines"]);
    let sent: String = (0..2000).map(|line| format!("{line}\n")).collect();
    publisher.stdin().write_all(sent.as_bytes()).unwrap();
    publisher.end_well();
    let read = read.recv_timeout(common::LIMIT).unwrap();
    assert_eq!(String::from_utf8(read).unwrap(), sent);
    subscriber.end_well();

    let to_bob = "user 65534 may not publish on topic open";
    town.start(BOB, &["pub", "open"]).end_badly(1, to_bob);
    let to_bob = "user 65534 may not subscribe on topic waits";
    town.start(BOB, &["sub", "waits"]).end_badly(1, to_bob);
    let to_nobody = "this broker serves user 0 and the users that its policy names";
    town.start(777, &["sub", "open"]).end_badly(1, to_nobody);
}

#[test]
fn who_is_on_the_other_side_is_told_with_its_user_and_how_it_is_read() {
    let Some(town) = Town::new() else { return };
    let topics = [
        ("open", "not trusted: copied, then read"),
        ("believed", "trusted: read in place"),
    ];
    for (topic, how) in topics {
        let mut subscriber = town.start(BOB, &["sub", topic, "--lines", "-v"]);
        let told = heard(subscriber.stderr());
        until("it has joined", || segments(subscriber.id(), "reader") > 0);
        let mut publisher = town.start(ALICE, &["pub", topic, "--lines", "-v"]);
        let its = heard(publisher.stderr());
        let came = its.recv_timeout(common::LIMIT).unwrap();
        let says = format!(
            "subscriber bus-sub, user {}, process {}, came",
            named(BOB),
            subscriber.id()
        );
        assert!(came.ends_with(&says), "{came}");
        let came = told.recv_timeout(common::LIMIT).unwrap();
        let who = format!(
            "publisher bus-pub, user {}, process {},",
            named(ALICE),
            publisher.id()
        );
        assert!(came.ends_with(&format!("{who} came; {how}")), "{came}");
        drop(publisher.stdin());
        let left = told.recv_timeout(common::LIMIT).unwrap();
        assert!(left.ends_with(&format!("{who} left")), "{left}");
    }
}

/// Class 3 of the field notes: a stalled or killed consumer stops every producer.
#[test]
fn a_stopped_subscriber_of_another_user_holds_its_publisher_up_no_longer_than_the_topic_says() {
    let Some(town) = Town::new() else { return };
    let stopped = town.start(BOB, &["sub", "open", "--lines", "--follow"]);
    let mut reads_on = town.start(BOB, &["sub", "open", "--lines"]);
    let read = collect(reads_on.stdout());
    for subscriber in [&stopped, &reads_on] {
        until("it has joined", || segments(subscriber.id(), "reader") > 0);
    }
    let mut publisher = town.start(ALICE, &["pub", "open", "--lines"]);
    let mut lines = publisher.stdin();
    lines.write_all(b"-1\n").unwrap();
    until("it has met the publisher", || {
        segments(stopped.id(), "ring") > 0
    });
    stopped.signal(Signal::SIGSTOP);
    // Several times what the ring takes.
    let sent: String = (0..100_000).map(|line| format!("{line}\n")).collect();
    lines.write_all(sent.as_bytes()).unwrap();
    drop(lines);
    publisher.end_well();
    // Who reads on has all of it.
    let read = read.recv_timeout(common::LIMIT).unwrap();
    assert_eq!(String::from_utf8(read).unwrap(), format!("-1\n{sent}"));
    reads_on.end_well();
    stopped.signal(Signal::SIGCONT);
}
