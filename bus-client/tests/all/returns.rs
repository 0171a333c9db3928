//! What may happen while handles come back from a broker that was killed: the next one is killed as well, or what they knew is gone by then.
//!
//! Classes of bugs that this is to catch: 17, a restart that drops a client; 23, messages lost to who has just joined.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, play, say};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect};
use bus_client::{Error, PatternSubscriber, Publisher, Selector};
use bus_core::control::{Connection, Event, Request, SESSION};
use bus_core::memory::registry::Registry;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, bind, listen, shutdown, socket,
};
use nix::unistd::{Pid, gettid};

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("talker", talker)]);
}

/// Sends one message, and then is there.
fn talker(given: &Given) {
    let bus = given.bus();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    publisher.wait_for_subscribers(1, Some(WATCHDOG)).unwrap();
    publisher.send(&1).unwrap();
    say("sent");
    assert_eq!(hear(), None);
}

fn kill(mut process: Process) {
    process.kill();
    process.reap();
}

/// A version that neither the first broker of a path leads to nor the next one.
const BETWEEN: u32 = 1 << 19;

/// Listens where a broker was killed.
fn listen_at(path: &Path) -> OwnedFd {
    fs::remove_file(path).unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&fd, Backlog::new(16).unwrap()).unwrap();
    fd
}

/// Lets a session in that comes to the listener, and says what it is about to reclaim.
fn let_in(listener: &OwnedFd) -> (Connection, u32) {
    let deadline = Some(Instant::now() + WATCHDOG);
    // No call may wait with a descriptor in the making: it would hold up the session, which is in this process.
    let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let millis = PollTimeout::try_from(WATCHDOG.as_millis()).unwrap();
    assert_eq!(poll(&mut ready, millis), Ok(1), "nobody comes");
    let peer = Connection::accept(listener).unwrap().unwrap();
    let asked = peer.recv::<Request>(deadline).unwrap().message;
    let Request::Hello {
        versions,
        secret,
        reclaims,
        generation,
        ..
    } = asked
    else {
        panic!("it asks for {asked:?}");
    };
    let welcome = Event::Welcome {
        version: versions.1,
        features: 0,
        process: secret.process(),
        generation: generation + 1,
    };
    peer.send(SESSION, &welcome, &[]).unwrap();
    (peer, reclaims)
}

/// A broker that takes the handles of a process back, has somebody to tell them of, and is killed before it does.
fn take_back_and_die(path: &Path) {
    let listener = listen_at(path);
    let deadline = Some(Instant::now() + WATCHDOG);
    let (peer, mut reclaims) = let_in(&listener);
    let registry = Registry::starting_at(BETWEEN + 1).unwrap();
    loop {
        let frame = peer.recv::<Request>(deadline).unwrap();
        match frame.message {
            Request::Reclaim { .. } => {
                let reclaimed = Event::Reclaimed {
                    version: BETWEEN,
                    topic: 1,
                };
                peer.send(frame.handle, &reclaimed, &[registry.fd()])
                    .unwrap();
                reclaims -= 1;
            }
            // So it has the new registries.
            Request::ReclaimComplete {} => break,
            _ => {}
        }
    }
    assert_eq!(reclaims, 0, "all handles were presented");
    // A process that another test just starts may have the listener a little longer.
    shutdown(listener.as_raw_fd(), Shutdown::Both).unwrap();
}

#[test]
fn a_broker_that_is_killed_between_taking_back_and_telling_who_is_there_spoils_no_publisher() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    publisher.send(&1).unwrap();
    kill(host);
    take_back_and_die(&stage.path);
    let host = start_host(&stage.path);
    // A newcomer is answered when all are back.
    let second = bus.subscriber::<u64>("t").unwrap();
    publisher.send(&2).unwrap();
    assert_eq!(publisher.subscribers().unwrap().len(), 2);
    for due in 1..=2 {
        let message = subscriber.recv_timeout(WATCHDOG).unwrap().unwrap();
        assert_eq!(message.to_native(), due);
    }
    let message = second.recv_timeout(WATCHDOG).unwrap().unwrap();
    assert_eq!(message.to_native(), 2);
    host.finish();
}

/// Sends numbers until one of them comes; that one.
fn until_one_comes(publisher: &mut Publisher<u64>, all: &mut PatternSubscriber<u64>) -> u64 {
    let deadline = Instant::now() + WATCHDOG;
    for number in 100.. {
        assert!(Instant::now() < deadline, "none ever comes");
        publisher.try_send(&number).unwrap();
        if let Some(message) = all.recv_timeout(Duration::from_millis(1)).unwrap() {
            return message.to_native();
        }
    }
    unreachable!("there is always one more number")
}

/// Nobody tells a pattern that a topic is closed, where its last publisher ends while no broker is there.
#[test]
fn a_topic_that_closed_while_no_broker_was_there_and_comes_again_is_a_new_one() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut all = bus.pattern_subscriber::<u64>("a/*").unwrap();
    let mut first = bus.publisher::<u64>("a/b").unwrap();
    first.send(&1).unwrap();
    let next = |all: &mut PatternSubscriber<u64>| {
        let message = all.recv_timeout(WATCHDOG).unwrap();
        message.expect("nothing comes").to_native()
    };
    assert_eq!(next(&mut all), 1);
    first.send(&2).unwrap();
    kill(host);
    drop(first);
    let host = start_host(&stage.path);
    let mut second = bus.publisher::<u64>("a/b").unwrap();
    second.send(&3).unwrap();
    drop(second);
    // What is left in the ring of the first, and the new one from its first message on.
    assert_eq!((next(&mut all), next(&mut all)), (2, 3));
    host.finish();
}

/// The same, where a broker had closed it and was killed before the pattern had read that, or of the next topic with its name.
#[test]
fn a_topic_that_closed_and_came_again_before_a_restart_is_a_new_one() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let mut all = bus.pattern_subscriber::<u64>("a/*").unwrap();
    let mut first = bus.publisher::<u64>("a/b").unwrap();
    first.send(&1).unwrap();
    assert!(all.recv_timeout(WATCHDOG).unwrap().is_some());
    drop(first);
    let mut second = bus.publisher::<u64>("a/b").unwrap();
    kill(host);
    let host = start_host(&stage.path);
    // It is answered when all are back.
    drop(bus.publisher::<u64>("a/c").unwrap());
    until_one_comes(&mut second, &mut all);
    assert_eq!(all.topics().unwrap().len(), 1);
    host.finish();
}

/// Waits until this thread sleeps in an epoll.
fn await_parked(task: Pid) {
    let calls = [
        libc::SYS_epoll_wait,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
    ];
    let calls = calls.map(|number| format!("{number} "));
    let path = format!("/proc/self/task/{task}/syscall");
    let deadline = Instant::now() + WATCHDOG;
    while !calls
        .iter()
        .any(|call| fs::read_to_string(&path).unwrap().starts_with(call))
    {
        assert!(Instant::now() < deadline, "it never sleeps");
        thread::yield_now();
    }
}

/// Class 13 of the field notes, a lost wake-up: the next broker is stopped while it is asked to take a handle back, and a peer dies, which nobody can tell.
#[test]
fn who_is_parked_sees_the_end_of_a_publisher_while_the_next_broker_stands_still() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let subscriber = bus.topic("t").unwrap().end_with_publishers();
    let subscriber = subscriber.subscriber::<u64>().unwrap();
    let mut selector = Selector::new().unwrap();
    selector.add(&subscriber).unwrap();
    let mut talker = stage.start("talker");
    talker.expect("sent");
    assert_eq!(
        subscriber
            .recv_timeout(WATCHDOG)
            .unwrap()
            .unwrap()
            .to_native(),
        1
    );
    kill(host);
    let listener = listen_at(&stage.path);
    let deadline = Some(Instant::now() + WATCHDOG);
    // The talker's session comes as well.
    let mut asked = Vec::new();
    while asked.len() < 2 {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let millis = PollTimeout::try_from(WATCHDOG.as_millis()).unwrap();
        assert_eq!(poll(&mut ready, millis), Ok(1), "nobody comes");
        let peer = Connection::accept(&listener).unwrap().unwrap();
        let asks = peer.recv::<Request>(deadline).unwrap().message;
        assert!(matches!(asks, Request::Hello { .. }), "{asks:?}");
        asked.push(peer);
    }
    let waits = gettid();
    let (killed, end) = thread::scope(|scope| {
        let killed = scope.spawn(move || {
            // Nobody but a ring wakes it then.
            await_parked(waits);
            let now = Instant::now();
            kill(talker);
            now
        });
        let end = loop {
            match subscriber.try_recv() {
                Ok(None) => drop(selector.wait_timeout(WATCHDOG).unwrap()),
                Ok(Some(_)) => panic!("there was one message"),
                Err(error) => break error,
            }
        };
        (killed.join().unwrap(), end)
    });
    let took = killed.elapsed();
    assert!(matches!(end, Error::Ended { .. }), "{end}");
    println!("noticed after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}
