//! Members of more than one user on a topic: the registry says so before the second user gets
//! anything of the topic, and goes on saying so at the next broker.
//!
//! Other users than root can only be had as root; elsewhere these tests are skipped.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::common::actor::Actor;
use crate::common::{Handle, Host, LONG, until};
use bus_core::control::Role;
use bus_core::{publish, receive};
use bus_daemon::Broker;
use bus_daemon::policy::Source;
use bus_testkit::needs;
use nix::unistd::{Pid, gettid};

const ALICE: u32 = 12345;
const POLICY: &str = r#"
    [[allow]]
    topics = "t"
    users = [12345]
    may = ["publish", "subscribe"]
    stall = true
    "#;

fn versions(handle: &Handle) -> [u32; 2] {
    let registry = handle.registry();
    [registry.publishers(), registry.subscribers()]
}

#[test]
fn members_are_told_to_park_before_a_second_user_gets_a_descriptor() {
    if !needs::root() {
        return;
    }
    for role in ["publisher", "subscriber"] {
        let host = Host::governed(POLICY);
        let (first, second) = (host.subscriber("t"), host.publisher("t"));
        let elsewhere = host.subscriber("elsewhere");
        let before = versions(&first);
        assert!(!first.registry().is_foreign() && !second.registry().is_foreign());
        let mut alice = Actor::start(&host.path, ALICE, &[]);
        // It has not joined yet, and has got the registry.
        let opened = alice.ok(&format!("open {role} t"));
        assert_eq!(alice.ok(&format!("foreign {opened}")), "true");
        assert!(first.registry().is_foreign());
        let now = versions(&first);
        assert_ne!(now[0], before[0], "subscribers sleep on");
        assert_ne!(now[1], before[1], "publishers sleep on");
        // Those that were there are told the versions that they see.
        assert_eq!(first.synced(now[0]).len(), 1, "the publisher");
        second.synced(now[1]);
        // Whoever comes later sees it, and it stays so when the second user has gone.
        alice.ok(&format!("give {opened}"));
        assert!(host.subscriber("t").registry().is_foreign());
        assert!(!elsewhere.registry().is_foreign());
    }
}

/// A thread that sleeps on shared words, and what it says when it is woken.
fn sleeper(sleep: impl FnOnce() + Send + 'static) -> (Pid, Receiver<()>) {
    let (tell, told) = channel();
    let (say, said) = channel();
    thread::spawn(move || {
        tell.send(gettid()).unwrap();
        sleep();
        // The test may be over.
        let _ = say.send(());
    });
    (told.recv().unwrap(), said)
}

/// Class 13, between users: a lost wake-up.
#[test]
fn who_sleeps_on_shared_words_is_woken_before_a_second_user_can_steal_its_wake_ups() {
    if !needs::root() {
        return;
    }
    let host = Host::governed(POLICY);
    let first = host.subscriber("t");
    let [publishers, subscribers] = versions(&first);
    let settings = first.settings;
    let registry = first.registry_fd();
    let subscriber = receive::Subscriber::create(&settings, registry, Arc::new(())).unwrap();
    let mut publisher = publish::Publisher::create(&settings, registry, 0).unwrap();
    subscriber.set_version(publishers);
    publisher.set_version(subscribers);
    let sleepers = [
        sleeper(move || subscriber.sleep(None)),
        sleeper(move || publisher.sleep_for_subscribers(0, None, None)),
    ];
    for (thread, _) in &sleepers {
        until(|| {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('S')
        });
    }
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    alice.ok("open subscriber t");
    for (_, said) in &sleepers {
        said.recv_timeout(LONG).expect("its wake-up was lost");
    }
}

/// The second user may have gone, and still map what it was given.
#[test]
fn a_member_that_comes_back_brings_along_that_there_was_a_second_user() {
    if !needs::root() {
        return;
    }
    let mut host = Host::governed(POLICY);
    let (mut first, mut elsewhere) = (host.subscriber("t"), host.subscriber("elsewhere"));
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    alice.ok("take subscriber t");
    alice.kill();
    host.stop();
    let mut broker = Broker::bind(&host.path).unwrap();
    let policy = host.path.with_file_name("bus.toml");
    broker.govern(Source::file(policy)).unwrap();
    host.broker = Some(broker.spawn().unwrap());
    for (handle, foreign) in [(&mut first, true), (&mut elsewhere, false)] {
        handle.reclaim(&host.path);
        handle.complete();
        assert_eq!(handle.registry().is_foreign(), foreign);
        let newcomer = Handle::open(&host.path, Role::Subscriber, &handle.topic);
        assert_eq!(newcomer.registry().is_foreign(), foreign);
    }
}
