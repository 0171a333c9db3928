//! Field note 18, fork: a forked child can neither write its parent's memory nor keep its membership, its broker or its path alive, and whatever it
//! does with its copies of the parent's handles concerns nobody but itself.
//!
//! Each test is a role in a process of its own, which forks.

use std::fmt::Display;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bus_client::{Error, Selector};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::fork::forked;
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, play, say, wait_for};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect};

/// Waits for what must come soon: a time-out is an error of the test.
const SOON: Option<Duration> = Some(WATCHDOG);

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("every_call", every_call),
        ("drops", drops),
        ("payloads", payloads),
        ("anew", anew),
        ("descendants", descendants),
        ("selectors", selectors),
        ("runtimes", runtimes),
        ("execs", execs),
        ("under_load", under_load),
        ("leaves_a_child", leaves_a_child),
    ]);
}

/// Plays a role alone, which hosts the broker; nothing of it is left behind.
fn alone(role: &str) {
    let stage = Stage::new();
    let socket = stage.path.display();
    let mut process = Process::start(role, &[("socket", &socket), ("embedded", &true)]);
    process.expect("done");
    process.finish();
    assert_eq!(stage.left(), [""; 0]);
}

/// What came of a call in a child: `forked` where it was told what it is.
fn told<T>(parent: u32, result: Result<T, Error>) -> &'static str {
    match result {
        Err(Error::Forked { process }) if process == parent => "forked",
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it worked"),
    }
}

#[test]
fn fork_every_call_of_a_child_says_what_it_is_and_its_parent_goes_on() {
    alone("every_call");
}

fn every_call(given: &Given) {
    let bus = given.bus();
    let me = std::process::id();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    // Nobody has ever joined here: the registry is as it was made.
    let mut lonely = bus.publisher::<u64>("lonely").unwrap();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let mut pattern = bus.pattern_subscriber::<u64>("t").unwrap();
    let mut nothing = bus.pattern_subscriber::<u64>("nothing/*").unwrap();
    let mut writer = bus.state_writer::<u64>("state").unwrap();
    let mut state = bus.state::<u64>("state").unwrap();
    let mut selector = Selector::new().unwrap();
    selector.add(&subscriber).unwrap();
    publisher.poll_fd().unwrap();
    publisher.wait_for_subscribers(2, SOON).unwrap();
    publisher.send(&1).unwrap();
    let child = forked(|| {
        let soon = Duration::from_millis(1);
        told(me, lonely.send(&7));
        told(me, lonely.try_loan().map(drop));
        told(me, publisher.send(&7));
        told(me, publisher.try_send(&7));
        told(me, publisher.send_timeout(&7, soon));
        told(me, publisher.publish_batch(&[7, 8]));
        told(me, publisher.loan().map(drop));
        told(me, publisher.wait_for_subscribers(9, Some(soon)));
        told(me, publisher.subscribers());
        told(me, publisher.arm().and_then(|_| publisher.try_send(&7)));
        told(me, subscriber.recv().map(drop));
        told(me, subscriber.try_recv().map(drop));
        told(me, subscriber.recv_timeout(soon).map(drop));
        told(me, subscriber.recv_batch(9).map(drop));
        told(me, subscriber.wait_for_publishers(9, Some(soon)));
        told(me, subscriber.publishers());
        told(
            me,
            subscriber
                .arm()
                .and_then(|_| subscriber.try_recv())
                .map(drop),
        );
        told(me, pattern.recv().map(drop));
        told(me, pattern.try_recv().map(drop));
        told(me, nothing.recv_timeout(soon).map(drop));
        told(me, nothing.topics().map(drop));
        told(me, writer.set(&7));
        told(me, state.changed(Some(soon)));
        told(
            me,
            selector
                .wait()
                .and_then(|_| subscriber.try_recv())
                .map(drop),
        );
        told(me, bus.publisher::<u64>("t").map(drop));
        told(me, bus.subscriber::<u64>("t").map(drop));
        told(me, bus.pattern_subscriber::<u64>("*").map(drop));
        assert!(!bus.hosts_broker());
        // What asks for nothing has an answer, right or not.
        let _ = (publisher.slowest(), publisher.stalls(), subscriber.lost());
        "all".into()
    });
    child.must_say("all");
    publisher.send(&2).unwrap();
    assert_eq!(*subscriber.recv().unwrap(), 1);
    assert_eq!(*subscriber.recv().unwrap(), 2);
    assert_eq!(**pattern.recv().unwrap(), 1);
    writer.set(&3).unwrap();
    assert!(state.changed(SOON).unwrap());
    assert_eq!(publisher.subscribers().unwrap().len(), 2);
    assert!(bus.hosts_broker());
    let again = connect(&given.get::<PathBuf>("socket"), false).unwrap();
    assert_eq!(
        *again.state::<u64>("state").unwrap().get().unwrap().unwrap(),
        3
    );
    say("done");
}

#[test]
fn fork_what_a_child_drops_releases_nothing_of_its_parents() {
    alone("drops");
}

fn drops(given: &Given) {
    for (topic, lossy) in [("wait", false), ("lossy", true)] {
        let bus = given.bus();
        let mut builder = bus.topic(topic).unwrap().depth(4);
        if lossy {
            builder = builder.lossy();
        }
        let mut publisher = builder.clone().publisher::<u64>().unwrap();
        let subscriber = builder.subscriber::<u64>().unwrap();
        publisher.wait_for_subscribers(1, SOON).unwrap();
        for n in 0..4 {
            publisher.send(&n).unwrap();
        }
        // What is in an option can be dropped in a child, and is there still in its parent.
        let mut message = Some(subscriber.recv().unwrap());
        let mut held = Some(subscriber.recv().unwrap().hold());
        let mut batch = Some(subscriber.recv_batch(2).unwrap());
        assert_eq!(
            *batch.as_ref().unwrap().into_iter().next().unwrap().unwrap(),
            2
        );
        let child = forked(|| {
            drop(message.take());
            drop(held.take());
            drop(batch.take());
            "dropped".into()
        });
        child.must_say("dropped");
        if !lossy {
            let full = publisher.try_send(&4);
            assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
        }
        assert_eq!(*message.take().unwrap(), 0);
        drop((message, batch));
        let mut all = Some((publisher, subscriber, bus));
        forked(|| {
            drop(all.take());
            drop(held.take());
            "dropped".into()
        })
        .must_say("dropped");
        let (mut publisher, subscriber, bus) = all.unwrap();
        assert_eq!(*held.take().unwrap(), 1);
        publisher.send(&4).unwrap();
        let there = std::iter::from_fn(|| subscriber.try_recv().unwrap().map(|m| m.to_native()));
        assert_eq!(there.last(), Some(4));
        assert!(bus.hosts_broker());
        assert!(fs::exists(given.get::<String>("socket")).unwrap());
    }
    say("done");
}

#[test]
fn fork_a_child_that_touches_a_payload_ends_and_its_parent_does_not_notice() {
    alone("payloads");
}

fn payloads(given: &Given) {
    let bus = given.bus();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    publisher.wait_for_subscribers(1, SOON).unwrap();
    publisher.send(&1).unwrap();
    let message = subscriber.recv().unwrap();
    forked(|| message.to_string()).must_die_of(Signal::SIGSEGV);
    assert_eq!(*message, 1);
    drop(message);

    let mut loan = Some(publisher.loan().unwrap());
    **loan.as_mut().unwrap() = 2.into();
    forked(|| {
        **loan.as_mut().unwrap() = 7.into();
        "written".into()
    })
    .must_die_of(Signal::SIGSEGV);
    forked(|| loan.take().unwrap().send().to_string()).must_die_of(Signal::SIGSEGV);
    forked(|| {
        let _ = loan.take();
        "dropped".into()
    })
    .must_say("dropped");
    assert!(subscriber.try_recv().unwrap().is_none());
    loan.unwrap().send();
    assert_eq!(*subscriber.recv().unwrap(), 2);
    say("done");
}

#[test]
fn fork_a_child_connects_anew_and_is_a_member_of_its_own() {
    alone("anew");
}

fn anew(given: &Given) {
    let bus = given.bus();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let mut mine = bus.publisher::<u64>("t").unwrap();
    let child = forked(|| {
        let bus = given.bus();
        assert!(!bus.hosts_broker());
        let mut publisher = bus.publisher::<u64>("t").unwrap();
        let subscriber = bus.subscriber::<u64>("t").unwrap();
        publisher.wait_for_subscribers(2, SOON).unwrap();
        publisher.send(&7).unwrap();
        assert_eq!(*subscriber.recv().unwrap(), 7);
        "sent".into()
    });
    let pid = child.pid.as_raw() as u32;
    let message = subscriber.recv_timeout(WATCHDOG).unwrap().unwrap();
    assert_eq!(*message, 7);
    drop(message);
    child.must_say("sent");
    mine.send(&8).unwrap();
    assert_eq!(*subscriber.recv().unwrap(), 8);
    // It has gone by itself, as a process of its own.
    while subscriber
        .publishers()
        .unwrap()
        .iter()
        .any(|peer| peer.pid == pid)
    {
        assert!(
            subscriber
                .recv_timeout(Duration::from_millis(10))
                .unwrap()
                .is_none()
        );
    }
    say("done");
}

#[test]
fn fork_a_grandchild_is_no_member_either() {
    alone("descendants");
}

fn descendants(given: &Given) {
    let bus = given.bus();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let me = std::process::id();
    forked(|| {
        let theirs = given.bus();
        let mut second = theirs.publisher::<u64>("t").unwrap();
        let child = std::process::id();
        forked(|| {
            told(me, publisher.send(&7));
            told(child, second.send(&7));
            told(child, theirs.publisher::<u64>("t").map(drop));
            let mut third = given.bus().publisher::<u64>("t").unwrap();
            third.wait_for_subscribers(1, SOON).unwrap();
            third.send(&3).unwrap();
            "third".into()
        })
        .must_say("third");
        told(me, publisher.send(&7));
        second.wait_for_subscribers(1, SOON).unwrap();
        second.send(&2).unwrap();
        "second".into()
    })
    .must_say("second");
    publisher.send(&1).unwrap();
    let mut got: Vec<u64> = (0..3)
        .map(|_| {
            subscriber
                .recv_timeout(WATCHDOG)
                .unwrap()
                .unwrap()
                .to_native()
        })
        .collect();
    got.sort_unstable();
    assert_eq!(got, [1, 2, 3]);
    say("done");
}

#[test]
fn fork_a_child_takes_nothing_out_of_its_parents_selector() {
    alone("selectors");
}

fn selectors(given: &Given) {
    let bus = given.bus();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let mut selector = Selector::new().unwrap();
    let token = selector.add(&subscriber).unwrap();
    let timer = selector.every(Duration::from_secs(3600)).unwrap();
    assert!(
        selector
            .wait_timeout(Duration::from_millis(20))
            .unwrap()
            .is_none()
    );
    let mut selector = Some(selector);
    forked(|| {
        let selector = selector.as_mut().unwrap();
        selector.remove(token);
        selector.remove(timer);
        "removed".into()
    })
    .must_say("removed");
    forked(|| {
        drop(selector.take());
        "dropped".into()
    })
    .must_say("dropped");
    let sender = thread::spawn({
        let bus = bus.clone();
        move || {
            let mut publisher = bus.publisher::<u64>("t").unwrap();
            publisher.wait_for_subscribers(1, SOON).unwrap();
            publisher.send(&1).unwrap();
            publisher
        }
    });
    let ready = selector.as_mut().unwrap().wait_timeout(WATCHDOG).unwrap();
    assert_eq!(ready, Some(token));
    drop(sender.join().unwrap());
    drop(selector);
    say("done");
}

#[test]
fn fork_a_child_takes_nothing_out_of_its_parents_runtime() {
    alone("runtimes");
}

#[cfg(not(feature = "tokio"))]
fn runtimes(given: &Given) {
    drop(given.bus());
    say("done");
}

/// A child that drops what its parent waits for in a runtime.
#[cfg(feature = "tokio")]
fn runtimes(given: &Given) {
    use std::future::Future;
    use std::task::{Context, Waker};

    let bus = given.bus();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut subscriber = bus.subscriber::<u64>("t").unwrap().into_async();
        let mut received = Some(Box::pin(async move {
            let message = subscriber.recv().await.unwrap();
            message.to_native()
        }));
        let mut context = Context::from_waker(Waker::noop());
        let waits = received.as_mut().unwrap().as_mut().poll(&mut context);
        assert!(waits.is_pending());
        forked(|| {
            drop(received.take());
            "dropped".into()
        })
        .must_say("dropped");
        publisher.wait_for_subscribers(1, SOON).unwrap();
        // It is sent when the other has looked in vain, and waits.
        let began = Instant::now();
        let (message, _) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(5), received.unwrap()),
            async { publisher.send(&1).unwrap() }
        );
        assert_eq!(message.unwrap(), 1);
        assert!(began.elapsed() < Duration::from_secs(4), "nobody woke it");
    });
    say("done");
}

/// The descriptors of an exec'ed child, each with what it is. It forks first, if it is told to, instead of what the library finds better.
fn list(forks: bool) -> Vec<String> {
    let mut command = Command::new("ls");
    command.arg("-l").arg("/proc/self/fd");
    if forks {
        // SAFETY: it does nothing, and makes the library fork.
        unsafe { command.pre_exec(|| Ok(())) };
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.retain(|line| line.contains(" -> "));
    lines
}

#[test]
fn exec_leaves_a_child_no_descriptor_of_the_bus() {
    alone("execs");
}

fn execs(given: &Given) {
    // Whoever started this test may have left it some.
    let before = list(false).len();
    let bus = given.bus();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let _pattern = bus.pattern_subscriber::<u64>("**").unwrap();
    let _state = bus.state_writer::<u64>("state").unwrap();
    let mut selector = Selector::new().unwrap();
    selector.add(&subscriber).unwrap();
    selector.every(Duration::from_secs(3600)).unwrap();
    publisher.poll_fd().unwrap();
    publisher.wait_for_subscribers(2, SOON).unwrap();
    let here = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(here > 20, "{here}: is nothing open?");
    for lines in [list(false), list(true)] {
        assert_eq!(lines.len(), before, "{lines:#?}");
        let ours = lines.iter().find(|line| {
            line.contains("socket:") || line.contains("memfd:") || line.contains("anon_inode:")
        });
        assert_eq!(ours, None);
    }
    drop(selector);
    say("done");
}

#[test]
fn fork_and_exec_under_load_disturb_nobody() {
    alone("under_load");
}

fn under_load(given: &Given) {
    const CHILDREN: usize = 60;
    let bus = given.bus();
    let over = AtomicBool::new(false);
    let subscriber = bus
        .topic("t")
        .unwrap()
        .depth(64)
        .subscriber::<u64>()
        .unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let topic = bus.topic("t").unwrap().depth(64);
            let mut publisher = topic.publisher::<u64>().unwrap();
            publisher.wait_for_subscribers(1, SOON).unwrap();
            let mut next = 0_u64;
            // ORDERING: nothing but its own value is told.
            while !over.load(Ordering::Relaxed) {
                publisher.send(&next).unwrap();
                next += 1;
            }
            publisher.send(&u64::MAX).unwrap();
        });
        scope.spawn(move || {
            let mut next = 0_u64;
            loop {
                let held = subscriber.recv().unwrap().hold();
                if *held == u64::MAX {
                    break;
                }
                assert_eq!(*held, next);
                next += 1;
            }
        });
        // Handles come and go, so that forks meet them half made and half gone.
        scope.spawn(|| {
            // ORDERING: as above.
            while !over.load(Ordering::Relaxed) {
                let one = bus.publisher::<u64>("others").unwrap();
                let other = bus.subscriber::<u64>("others").unwrap();
                drop((one, other));
            }
        });
        for n in 0..CHILDREN {
            match n % 3 {
                0 => assert!(Command::new("true").status().unwrap().success()),
                1 => {
                    let mut command = Command::new("true");
                    // SAFETY: it does nothing.
                    unsafe { command.pre_exec(|| Ok(())) };
                    assert!(command.status().unwrap().success());
                }
                _ => {
                    let me = std::process::id();
                    forked(|| told(me, bus.publisher::<u64>("t").map(drop)).into())
                        .must_say("forked");
                }
            }
        }
        // ORDERING: as above.
        over.store(true, Ordering::Relaxed);
    });
    say("done");
}

/// Opens a publisher and a subscriber, of topics of their own, hosts the broker if told to, and forks a child that stays until it is killed; says
/// `ready` and the child's number. At `leave` lets go of everything.
fn leaves_a_child(given: &Given) {
    let bus = given.bus();
    let publisher = bus.publisher::<u64>("published").unwrap();
    let subscriber = bus.topic("read").unwrap().depth(4).subscriber::<u64>();
    let child = forked(|| {
        // Else the test would wait for the end of what it says.
        nix::unistd::close(1).unwrap();
        loop {
            nix::unistd::pause();
        }
    });
    say(format_args!("ready {}", child.pid));
    wait_for("leave");
    drop((publisher, subscriber, bus));
    say("left");
    assert_eq!(hear(), None);
}

/// A process that is killed at last, whoever its parent is by then.
struct Orphan(Pid);

impl Orphan {
    fn of(parent: &mut Process) -> Self {
        Self(Pid::from_raw(parent.number("ready") as i32))
    }

    fn lives(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0));
        stat.is_ok_and(|stat| !stat.contains(") Z"))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

/// How a member goes whose child stays.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Going {
    Killed,
    Leaves,
}

fn go(parent: &mut Process, going: Going) {
    match going {
        Going::Killed => {
            parent.kill();
            parent.reap();
        }
        Going::Leaves => {
            parent.tell("leave");
            parent.expect("left");
        }
    }
}

#[test]
fn fork_a_child_that_stays_keeps_no_membership_of_its_parents() {
    for going in [Going::Killed, Going::Leaves] {
        let stage = Stage::new();
        let host = start_host(&stage.path);
        let mut parent = stage.start("leaves_a_child");
        let child = Orphan::of(&mut parent);
        let bus = connect(&stage.path, false).unwrap();
        let topic = bus.topic("published").unwrap().end_with_publishers();
        let subscriber = topic.subscriber::<u64>().unwrap();
        let topic = bus.topic("read").unwrap().depth(4);
        let mut publisher = topic.publisher::<u64>().unwrap();
        publisher.wait_for_subscribers(1, SOON).unwrap();
        (0..4).for_each(|n| assert_eq!(publisher.send(&n).unwrap(), n));
        assert!(matches!(publisher.try_send(&4), Err(Error::Full { .. })));
        go(&mut parent, going);
        publisher.send_timeout(&4, WATCHDOG).unwrap();
        let ended = matches!(subscriber.recv_timeout(WATCHDOG), Err(Error::Ended { .. }));
        assert!(ended, "{going:?}");
        assert!(child.lives());
        drop(parent);
        drop((subscriber, publisher, bus));
        host.finish();
    }
}

#[test]
fn fork_a_child_that_stays_keeps_no_path_taken_and_no_connection_open() {
    for going in [Going::Killed, Going::Leaves] {
        let stage = Stage::new();
        let socket = stage.path.display();
        let settings: [(&str, &dyn Display); 2] = [("socket", &socket), ("embedded", &true)];
        let mut parent = Process::start("leaves_a_child", &settings);
        let child = Orphan::of(&mut parent);
        let old = connect(&stage.path, false).unwrap();
        let line = bus_core::control::Connection::connect(&stage.path).unwrap();
        go(&mut parent, going);
        // Nobody holds the other end.
        let heard = line.recv::<bus_core::control::Event>(Some(Instant::now() + WATCHDOG));
        assert!(matches!(heard, Err(bus_core::Error::Closed)), "{heard:?}");
        let bus = connect(&stage.path, true).unwrap();
        assert!(bus.hosts_broker(), "{going:?}");
        let mut publisher = bus.publisher::<u64>("t").unwrap();
        let subscriber = old.subscriber::<u64>("t").unwrap();
        publisher.send(&1).unwrap();
        assert_eq!(*subscriber.recv().unwrap(), 1);
        assert!(child.lives());
        drop(parent);
        // Its end removes nothing of who came after.
        drop(child);
        drop((publisher, subscriber, old, bus));
        assert_eq!(stage.left(), [""; 0]);
    }
}
