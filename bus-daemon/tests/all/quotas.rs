//! What one user may take of the broker, and that nobody else notices when it does.
//!
//! Other users than root can only be had as root; elsewhere these tests are skipped.

use crate::common::actor::Actor;
use crate::common::{Busd, Greeting, Handle, Host, Session, open_request, until};
use bus_core::control::{Connection, Event, Refusal, Role};
use bus_daemon::MAX_IDLE_TOPICS;
use bus_testkit::needs;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};

const ALICE: u32 = 12345;
const BOB: u32 = 65534;

/// Both may do everything; these are their limits.
fn host(limits: &str) -> Host {
    Host::governed(&format!(
        "[[allow]]\ntopics = \"**\"\nusers = [{ALICE}, {BOB}]\nmay = [\"publish\", \"subscribe\"]\nstall = true\n\
         [limits]\n{limits}\n"
    ))
}

#[test]
fn over_each_quota_the_refusal_names_it_its_limit_and_who_uses_it_and_another_user_notices_nothing()
{
    if !needs::root() {
        return;
    }
    // A ring of these tests takes 8192 bytes, a reader segment 4096 or 8192, a registry 4096.
    for (limits, fits, over, quota) in [
        (
            "connections = 2",
            2,
            "take publisher c",
            "2 connections and has 2",
        ),
        (
            "publishers = 2",
            2,
            "take publisher c",
            "2 publishers and has 2",
        ),
        (
            "subscriptions = 0",
            2,
            "take subscriber a",
            "0 subscriptions and has 0",
        ),
        (
            "subscriptions = 0",
            2,
            "watch **",
            "0 subscriptions and has 0",
        ),
        ("topics = 2", 2, "take publisher c", "2 topics and has 2"),
        (
            "segments = 4",
            2,
            "take publisher c",
            "4 segments and has 4",
        ),
        (
            "bytes = \"25K\"",
            2,
            "take publisher c",
            "25600 bytes and has 24576",
        ),
        (
            "descriptors = 12",
            2,
            "take publisher c",
            "12 descriptors and has 12",
        ),
    ] {
        let host = host(limits);
        let mut alice = Actor::start(&host.path, ALICE, &[]);
        let topics = ["a", "b"];
        for topic in &topics[..fits] {
            alice.ok(&format!("take publisher {topic}"));
        }
        let why = alice.refused(over, "Limit");
        assert!(
            why.contains(&format!("user {ALICE} may have {quota}")),
            "{limits}: {why}"
        );
        if !quota.contains("has 0") {
            let who = format!("by actor (process {})", alice.pid());
            assert!(why.contains(&who), "{limits}: {why}");
        }
        // Its own neighbour is as badly off, and learns who it is.
        let mut neighbour = Actor::start(&host.path, ALICE, &[]);
        let why = neighbour.refused(over, "Limit");
        assert!(why.contains(quota), "{limits}: {why}");
        // Nobody else is.
        let mut bob = Actor::start(&host.path, BOB, &[]);
        bob.ok("take publisher d");
        let _own = host.publisher("e");
        // Room is where somebody left, at once.
        alice.ok("give 0");
        if !quota.contains("has 0") {
            alice.ok(over);
        }
    }
}

#[test]
fn a_thousand_joins_and_leaves_leave_the_account_at_zero() {
    if !needs::root() {
        return;
    }
    // Room for exactly one handle with its topic: whatever were left behind would be one too many. A subscriber that
    // comes first takes the most bytes.
    let host = host(
        "connections = 1\npublishers = 1\nsubscriptions = 1\ntopics = 1\nsegments = 2\nbytes = \"16K\"\ndescriptors = 6\nregistrations = 1000000",
    );
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    alice.ok("churn 500 t");
    // Also of who is killed, with its hands full.
    for _ in 0..20 {
        alice.ok("take publisher t");
        alice.kill();
        alice = Actor::start(&host.path, ALICE, &[]);
    }
    alice.ok("take publisher t");
    let why = alice.refused("take subscriber t", "Limit");
    assert!(why.contains("1 connections and has 1"), "{why}");
}

#[test]
fn what_a_topic_retains_of_who_ended_is_on_its_users_account() {
    if !needs::root() {
        return;
    }
    // Who has ended is no publisher any more.
    let host = host("segments = 4\npublishers = 1");
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    for _ in 0..2 {
        let ended = alice.ok("take publisher t retain=2");
        alice.ok(&format!("give {ended}"));
    }
    // The registry and two rings that ended.
    alice.ok("take publisher t retain=2");
    let why = alice.refused("take subscriber t", "Limit");
    assert!(why.contains("4 segments and has 4"), "{why}");
}

/// What the broker keeps beyond anybody's use goes by who keeps the most.
#[test]
fn what_one_user_retains_is_not_pushed_out_by_another() {
    if !needs::root() {
        return;
    }
    let host = host("topics = 300");
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let mut bob = Actor::start(&host.path, BOB, &[]);
    let ended = alice.ok("take publisher kept retain=1");
    alice.ok(&format!("give {ended}"));
    for at in 0..=MAX_IDLE_TOPICS {
        let ended = bob.ok(&format!("take publisher bob/{at} retain=1"));
        bob.ok(&format!("give {ended}"));
    }
    // It is still there, and the first of the user that keeps the most is not.
    for (topic, ended) in [("kept", true), ("bob/0", false)] {
        let late = bob.ok(&format!("take subscriber {topic} retain=1 history=1"));
        let early = bob.tell(&format!("early {late}"));
        assert_eq!(early.contains("ended: true"), ended, "{topic}: {early}");
    }
}

#[test]
fn who_keeps_a_topic_open_is_charged_for_it_and_not_who_made_it() {
    if !needs::root() {
        return;
    }
    let host = host("topics = 1");
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let mut bob = Actor::start(&host.path, BOB, &[]);
    let made = alice.ok("take publisher a delivery=lossy");
    bob.ok("take subscriber a delivery=lossy");
    alice.refused("take publisher b", "Limit");
    alice.ok(&format!("give {made}"));
    alice.ok("take publisher b");
    let why = bob.refused("take publisher c", "Limit");
    assert!(why.contains("1 topics and has 1"), "{why}");
}

#[test]
fn who_asks_too_often_is_told_how_long_to_wait_and_others_are_not() {
    if !needs::root() {
        return;
    }
    let host = host("registrations = 20");
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let said = alice.ok("flood 200 t");
    let (refused, why) = said.split_once(' ').unwrap();
    // As many as a second's come at once; how many more depends on how fast this machine is.
    let refused: u32 = refused.parse().unwrap();
    assert!(refused > 0 && refused <= 180, "{said}");
    assert!(
        why.contains("more than 20 registrations a second; try again in "),
        "{why}"
    );
    let mut bob = Actor::start(&host.path, BOB, &[]);
    for _ in 0..20 {
        let handle = bob.ok("take publisher t");
        bob.ok(&format!("give {handle}"));
    }
    let _own = host.subscriber("t");
}

/// What it may not have it does not get by asking for it in another way.
#[test]
fn the_brokers_own_user_is_limited_where_it_is_named() {
    let own = nix::unistd::geteuid();
    let host = Host::governed(&format!(
        "[limits]\npublishers = 0\n[[limits.user]]\nusers = [{own}]\npublishers = 1\n"
    ));
    let first = host.publisher("a");
    let (kind, why) = host.refused(&open_request(Role::Publisher, "b"));
    assert_eq!(kind, Refusal::Limit);
    assert!(
        why.contains("1 publishers and has 1: 1 by test (process "),
        "{why}"
    );
    drop(first);
    let _second: Handle = host.publisher("b");
}

/// The broker hears of who comes before it hears of who left, though it was the other way round.
#[test]
fn who_left_makes_room_for_who_comes_though_the_broker_has_not_noticed_yet() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("bus.sock"), dir.path().join("bus.toml"));
    let own = nix::unistd::geteuid();
    let policy = format!("[[limits.user]]\nusers = [{own}]\nconnections = 1\n");
    std::fs::write(&file, policy).unwrap();
    let busd = Busd::start(&path, &format!("export BUS_POLICY='{}'", file.display()));
    let first = Handle::open(&path, Role::Publisher, "t").joined();
    // Only once it sleeps does it hear of both in the order in which they came.
    until(|| busd.state() == 'S');
    busd.signal(Signal::SIGSTOP);
    let pid = nix::unistd::Pid::from_raw(busd.child.id() as i32);
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    let second = Connection::connect(&path).unwrap();
    drop(first);
    busd.signal(Signal::SIGCONT);
    let second = Session::greet_over(second, Greeting::new()).unwrap();
    Handle::open_on(&second, Role::Publisher, "t").joined();
}

/// Far more than the broker sends before it waits for an acknowledgement.
const AT_ONCE: u32 = 200;

#[test]
fn a_session_that_asks_for_much_at_once_is_answered_though_it_acknowledges_late() {
    let host = Host::new();
    let session = host.connect();
    let handles: Vec<_> = (0..AT_ONCE)
        .map(|topic| session.ask(&open_request(Role::Publisher, &format!("t/{topic}"))))
        .collect();
    for handle in handles {
        let (event, descriptors) = session.next(handle);
        assert!(matches!(event, Event::Opened { .. }), "{event:?}");
        assert_eq!(descriptors.len(), 1);
    }
}
