//! A publisher that is a real process of a real other user, and rewrites its messages while they are read.
//!
//! Other users than root can only be had as root; elsewhere these tests are skipped.

use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, play};
use bus_client::{Bus, Error, TopicBuilder, Trust};
use bus_daemon::policy::Source;
use bus_daemon::{Broker, BrokerThread};
use bus_testkit::needs;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

const OTHER: u32 = 12345;
/// How long messages are rewritten at least.
const SHORT: Duration = Duration::from_millis(500);
/// Where the first slot lies in a ring, and how far apart slots are.
const SLOTS: usize = 4096;
const STRIDE: usize = 64;
const DEPTH: usize = 4;

/// Each part follows from the first.
type Tick = (u64, String, Vec<u32>);
/// Whatever is written over it, it is numbers.
type Numbers = [u64; 6];

fn tick(number: u64) -> Tick {
    (number, "x".repeat(20), vec![number as u32; 9])
}

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[("rewriter", rewriter)]);
}

/// A broker that serves the other user.
struct Town {
    bus: Bus,
    socket: PathBuf,
    _broker: BrokerThread,
    _folder: tempfile::TempDir,
}

impl Town {
    fn new() -> Option<Self> {
        if !needs::root() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (socket, file) = (
            folder.path().join("bus.sock"),
            folder.path().join("bus.toml"),
        );
        let rule = |topic, trust| {
            format!(
                "[[allow]]\ntopics = \"{topic}\"\nusers = [{OTHER}]\nmay = \"publish\"\ntrust = \"{trust}\"\n"
            )
        };
        std::fs::write(
            &file,
            rule("copied", "copy") + &rule("believed", "in-place"),
        )
        .unwrap();
        let mut broker = Broker::bind(&socket).unwrap();
        broker.govern(Source::file(file)).unwrap();
        let broker = broker.spawn().unwrap();
        let bus = Bus::builder("reader").socket(&socket).embedded(false);
        Some(Self {
            bus: bus.connect().unwrap(),
            socket,
            _broker: broker,
            _folder: folder,
        })
    }

    fn rewriter(&self, topic: &str) -> Process {
        let socket = self.socket.display();
        Process::start("rewriter", &[("socket", &socket), ("topic", &topic)])
    }
}

fn settings(topic: TopicBuilder) -> TopicBuilder {
    let topic = topic.depth(DEPTH as u32).stride(STRIDE as u32);
    topic.max_payload(400).arena(2048)
}

/// Becomes another user, sends without end, and writes over what it has sent.
fn rewriter(given: &Given) {
    setgroups(&[]).unwrap();
    setgid(Gid::from_raw(OTHER)).unwrap();
    setuid(Uid::from_raw(OTHER)).unwrap();
    // It does not outlive a change of user.
    set_pdeathsig(Signal::SIGKILL).unwrap();
    let bus = given.bus();
    let topic = settings(given.topic(&bus));
    if given.get::<String>("topic") == "copied" {
        let mut publisher = topic.publisher::<Tick>().unwrap();
        thread::spawn(rewrite);
        for number in 0.. {
            publisher.send(&tick(number)).unwrap();
        }
    } else {
        let mut publisher = topic.publisher::<Numbers>().unwrap();
        thread::spawn(rewrite);
        loop {
            publisher.send(&[7; 6]).unwrap();
        }
    }
}

/// Writes over all payloads of this process's ring, again and again. Stamps and places stay, so that the messages are found.
fn rewrite() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let own = |line: &&str| line.contains(" rw-s ") && line.contains("memfd:bus-ring");
    let line = maps.lines().find(own).expect("its ring is mapped");
    let range = line.split(' ').next().unwrap();
    let (base, end) = range.split_once('-').unwrap();
    let [base, end] = [base, end].map(|text| usize::from_str_radix(text, 16).unwrap());
    let mut chance = 1_u64;
    loop {
        for offset in (SLOTS..end - base).step_by(8) {
            if offset < SLOTS + DEPTH * STRIDE && offset % STRIDE < 16 {
                continue;
            }
            chance = chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(7);
            // SAFETY: the word is within the mapping of this process's ring, which stays, and aligned; volatile, as a hostile process would
            // write it.
            unsafe { ((base + offset) as *mut u64).write_volatile(chance >> (chance % 64)) };
        }
    }
}

fn is_corrupt(error: &Error) -> bool {
    matches!(error, Error::Topic { source, .. } if matches!(source, bus_core::Error::Corrupt { .. }))
}

/// Class 16, between users: what was validated is what is read, whatever its publisher does.
#[test]
fn a_publisher_of_another_user_never_changes_what_was_validated() {
    let Some(town) = Town::new() else { return };
    let topic = settings(town.bus.topic("copied").unwrap());
    let subscriber = topic.subscriber::<Tick>().unwrap();
    let _rewriter = town.rewriter("copied");
    subscriber.wait_for_publishers(1, Some(WATCHDOG)).unwrap();
    let peer = subscriber.publishers().unwrap().remove(0);
    assert_eq!((peer.user, peer.trust), (OTHER, Some(Trust::Copy)));
    let (mut valid, mut refused) = (0, 0);
    let mut kept: Option<(bus_client::HeldValue<Tick>, String)> = None;
    let began = Instant::now();
    while began.elapsed() < SHORT || valid == 0 || refused == 0 {
        assert!(
            began.elapsed() < WATCHDOG,
            "{valid} valid, {refused} refused"
        );
        match subscriber.recv_timeout(WATCHDOG) {
            Ok(seen) => {
                let seen = seen.expect("it sends without end");
                let once = format!("{:?}", *seen);
                assert!(std::str::from_utf8(seen.1.as_bytes()).is_ok());
                assert_eq!(once, format!("{:?}", *black_box(&*seen)));
                valid += 1;
                if kept.is_none() {
                    kept = Some((seen.hold(), once));
                }
            }
            Err(error) if is_corrupt(&error) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let (held, once) = kept.unwrap();
    assert_eq!(format!("{:?}", *held), once);
}

/// The same publisher, where a rule says that it is believed: now its writes are seen. So the test above can fail; and of numbers nothing
/// worse comes than other numbers.
#[test]
fn where_a_rule_believes_another_user_its_writes_reach_who_reads() {
    let Some(town) = Town::new() else { return };
    let topic = settings(town.bus.topic("believed").unwrap());
    let subscriber = topic.subscriber::<Numbers>().unwrap();
    let _rewriter = town.rewriter("believed");
    subscriber.wait_for_publishers(1, Some(WATCHDOG)).unwrap();
    let peer = subscriber.publishers().unwrap().remove(0);
    assert_eq!((peer.user, peer.trust), (OTHER, Some(Trust::InPlace)));
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < WATCHDOG, "nothing changed in time");
        let seen = subscriber
            .recv_timeout(WATCHDOG)
            .unwrap()
            .expect("it sends without end");
        let once = seen.map(|number| number.to_native());
        let changed = (0..1000).any(|_| black_box(&*seen).map(|number| number.to_native()) != once);
        if changed {
            return;
        }
    }
}
