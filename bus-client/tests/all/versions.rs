//! A broker of another version of the protocol, at the path where handles look for theirs.
//!
//! Classes of bugs that this is to catch: an update of one side takes down what works; who is of another version is taken for broken.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::process::WATCHDOG;
use crate::common::role::play;
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect, told};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, accept, bind, listen,
    recv, send, shutdown, socket,
};

/// The prefix of each packet of the next version, which stays as it is in all of them: magic, version, kind, length, 0. It says nothing that this version knows.
const OTHER: [u8; 16] = *b"BusC\x03\0\x02\0\0\0\0\0\0\0\0\0";

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST]);
}

/// Somebody who answers whatever it is asked in another version, as a broker does that does not know this one.
struct Newer {
    listener: Arc<OwnedFd>,
    answered: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Newer {
    fn start(path: &Path) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&listener, Backlog::new(16).unwrap()).unwrap();
        let listener = Arc::new(listener);
        let answered = Arc::new(AtomicUsize::new(0));
        let (ours, count) = (Arc::clone(&listener), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            while let Ok(peer) = accept(ours.as_raw_fd()) {
                let mut bytes = [0; 4096];
                // Who only looks whether somebody is there asks nothing.
                if recv(peer, &mut bytes, MsgFlags::empty()).is_ok_and(|count| count > 0) {
                    let _ = send(peer, &OTHER, MsgFlags::MSG_NOSIGNAL);
                    // ORDERING: a count that is waited for; nothing hangs on it.
                    count.fetch_add(1, Ordering::Relaxed);
                }
                nix::unistd::close(peer).unwrap();
            }
        });
        Self {
            listener,
            answered,
            thread,
        }
    }

    fn await_answers(&self, count: usize) {
        let deadline = Instant::now() + WATCHDOG;
        // ORDERING: as above.
        while self.answered.load(Ordering::Relaxed) < count {
            assert!(Instant::now() < deadline, "nobody asked so often");
            thread::yield_now();
        }
    }

    fn end(self, path: &Path) {
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).unwrap();
        self.thread.join().unwrap();
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_broker_of_another_version_takes_nobody_back_and_hurts_nobody() {
    let stage = Stage::new();
    let mut host = start_host(&stage.path);
    let bus = connect(&stage.path, false).unwrap();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    host.kill();
    host.reap();
    fs::remove_file(&stage.path).unwrap();
    let newer = Newer::start(&stage.path);
    // Each asks again and again, and goes on meanwhile.
    newer.await_answers(6);
    for number in 0..100 {
        publisher.send(&number).unwrap();
        assert_eq!(*subscriber.recv().unwrap(), number);
    }
    let both = ["protocol version 3", "speaks 2", "update the older one"];
    told(bus.subscriber::<u64>("t"), &both);
    newer.end(&stage.path);

    // One that they know has them back.
    let _host = start_host(&stage.path);
    let late = connect(&stage.path, false).unwrap();
    let late = late.subscriber::<u64>("t").unwrap();
    publisher
        .wait_for_subscribers(2, Some(Duration::from_secs(10)))
        .unwrap();
    publisher.send(&7).unwrap();
    for one in [&subscriber, &late] {
        assert_eq!(*one.recv().unwrap(), 7);
    }
}
