//! A process of another user that moves whoever sleeps on a word that it maps to a word of its own,
//! where nobody is woken.
//!
//! Other users than root can only be had as root; elsewhere these tests are skipped. The others
//! here are of one user: they sleep before the other user comes, and go on sleeping and waking
//! while it is there.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::ptr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, play, say};
use bus_client::{Bus, TopicBuilder};
use bus_daemon::policy::Source;
use bus_daemon::{Broker, BrokerThread};
use bus_testkit::needs;
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, gettid, setgid, setgroups, setuid};

const OTHER: u32 = 12345;
/// Wake-ups in each test.
const ROUNDS: u64 = 20;
/// How long a wake-up may take before it counts as lost.
const LIMIT: Duration = Duration::from_secs(20);
/// A publisher that waits for room wakes once by itself within this time, to say so in the log.
const NOTICE: Duration = Duration::from_millis(1_500);
/// Where words are that somebody may sleep on: in a ring, a reader segment, a registry.
const WORDS: [usize; 2] = [64, 128];

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[("thief", thief)]);
}

/// Becomes another user, joins, and steals sleepers without end. Counts in a file how often it has
/// been everywhere.
fn thief(given: &Given) {
    let passes = OpenOptions::new()
        .write(true)
        .open(given.get::<String>("passes"));
    let passes = passes.unwrap();
    setgroups(&[]).unwrap();
    setgid(Gid::from_raw(OTHER)).unwrap();
    setuid(Uid::from_raw(OTHER)).unwrap();
    // It does not outlive a change of user.
    set_pdeathsig(Signal::SIGKILL).unwrap();
    // It is busy all the time, beside other tests.
    // SAFETY: it has no pointer, and concerns this process alone.
    unsafe { libc::nice(10) };
    let bus = given.bus();
    let topic = settings(given.topic(&bus));
    let mut publisher = None;
    let mut subscriber = None;
    match given.get::<String>("joins").as_str() {
        "publisher" => publisher = Some(topic.publisher::<u64>().unwrap()),
        _ => subscriber = Some(topic.subscriber::<u64>().unwrap()),
    }
    say("joined");
    for pass in 1_u64.. {
        // It follows whoever comes, and maps what they have.
        if let Some(publisher) = &mut publisher {
            let _ = publisher.subscribers();
        }
        if let Some(subscriber) = &subscriber {
            while let Ok(Some(_)) = subscriber.try_recv() {}
        }
        for base in others() {
            WORDS.iter().for_each(|offset| steal(base + offset));
        }
        passes.write_all_at(&pass.to_ne_bytes(), 0).unwrap();
    }
}

/// The addresses of the segments of others that this process has mapped.
fn others() -> Vec<usize> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let others = |line: &&str| line.contains(" r--s ") && line.contains("/memfd:bus-");
    let bases = maps
        .lines()
        .filter(others)
        .filter_map(|line| line.split('-').next());
    bases
        .map(|base| usize::from_str_radix(base, 16).unwrap())
        .collect()
}

/// Moves all sleepers of a word to a word of this process.
fn steal(word: usize) {
    let own = 0_u32;
    // SAFETY: the kernel reads and writes neither word here: it looks up who sleeps on their pages.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            ptr::with_exposed_provenance::<u32>(word),
            libc::FUTEX_REQUEUE,
            0,
            libc::c_long::from(i32::MAX),
            &raw const own,
            0,
        );
    }
}

fn settings(topic: TopicBuilder) -> TopicBuilder {
    topic.depth(4)
}

/// A broker that serves the other user, and what the thief counts in.
struct Town {
    bus: Bus,
    socket: PathBuf,
    passes: File,
    broker: Option<BrokerThread>,
    folder: tempfile::TempDir,
}

impl Town {
    fn new() -> Option<Self> {
        if !needs::root() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let socket = folder.path().join("bus.sock");
        let file = folder.path().join("bus.toml");
        let rule = format!(
            "[[allow]]\ntopics = \"t\"\nusers = [{OTHER}]\nmay = [\"publish\", \"subscribe\"]\nstall = true\n"
        );
        fs::write(&file, rule).unwrap();
        let mut broker = Broker::bind(&socket).unwrap();
        broker.govern(Source::file(file)).unwrap();
        let broker = broker.spawn().unwrap();
        let bus = Bus::builder("sleeper")
            .socket(&socket)
            .embedded(false)
            .spin(Duration::ZERO);
        let passes = folder.path().join("passes");
        fs::write(&passes, 0_u64.to_ne_bytes()).unwrap();
        Some(Self {
            bus: bus.connect().unwrap(),
            socket,
            passes: File::open(passes).unwrap(),
            broker: Some(broker),
            folder,
        })
    }

    fn topic(&self) -> TopicBuilder {
        settings(self.bus.topic("t").unwrap())
    }

    /// Another broker comes, which does not serve the other user. Returns when the handles of this
    /// process are back.
    fn turn_the_other_user_out(&mut self) {
        self.broker.take().unwrap().stop().unwrap();
        let broker = Broker::bind(&self.socket).unwrap();
        self.broker = Some(broker.spawn().unwrap());
        let own = self.bus.topic("own").unwrap();
        drop(own.publisher::<u64>().unwrap());
    }

    /// A thief that has joined.
    #[track_caller]
    fn thief(&self, joins: &str) -> Process {
        let socket = self.socket.display();
        let passes = self.folder.path().join("passes");
        let passes = passes.display();
        let given: [(&str, &dyn std::fmt::Display); 3] =
            [("socket", &socket), ("passes", &passes), ("joins", &joins)];
        let mut thief = Process::start("thief", &given);
        thief.expect("joined");
        thief
    }

    /// Waits until this thread sleeps and stays asleep while the thief is everywhere twice.
    fn robbed(&self, sleeper: &Sleeper) {
        let passes = || {
            let mut pass = [0; 8];
            self.passes.read_exact_at(&mut pass, 0).unwrap();
            u64::from_ne_bytes(pass)
        };
        loop {
            sleeper.asleep();
            let before = passes();
            until(|| passes() >= before + 3);
            if sleeper.sleeps() {
                return;
            }
        }
    }
}

fn until(mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + WATCHDOG;
    while !so() {
        assert!(Instant::now() < deadline, "it never is so");
        thread::yield_now();
    }
}

/// A thread that sleeps and says what woke it.
struct Sleeper {
    thread: Pid,
    said: Receiver<u64>,
}

impl Sleeper {
    /// It is not waited for: where a wake-up is lost, it sleeps for ever.
    fn start(sleep: impl FnOnce(&dyn Fn(u64)) + Send + 'static) -> Self {
        let (say, said): (Sender<u64>, _) = channel();
        let (tell, told) = channel();
        thread::spawn(move || {
            tell.send(gettid()).unwrap();
            // The test may be over.
            sleep(&|number| {
                let _ = say.send(number);
            });
        });
        let thread = told.recv().unwrap();
        Self { thread, said }
    }

    fn sleeps(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", self.thread)).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('S')
    }

    fn asleep(&self) {
        until(|| self.sleeps());
    }

    #[track_caller]
    fn says(&self) -> u64 {
        let said = self.said.recv_timeout(LIMIT);
        said.expect("its wake-up was lost")
    }
}

/// Class 13, between users: a lost wake-up.
#[test]
fn a_subscriber_that_waits_is_woken_though_another_user_steals_sleepers() {
    let Some(town) = Town::new() else { return };
    let mut publisher = town.topic().publisher::<u64>().unwrap();
    let subscriber = town.topic().subscriber::<u64>().unwrap();
    let sleeper = Sleeper::start(move |say| {
        while let Ok(message) = subscriber.recv() {
            say(message.to_native());
        }
    });
    sleeper.asleep();
    let _thief = town.thief("subscriber");
    for round in 0..ROUNDS {
        town.robbed(&sleeper);
        publisher.send(&round).unwrap();
        assert_eq!(sleeper.says(), round);
    }
}

/// What the last broker gave the other user stays mapped, whatever the next one allows.
#[test]
fn another_user_that_the_next_broker_turns_away_steals_no_wake_ups_either() {
    let Some(mut town) = Town::new() else { return };
    let mut publisher = town.topic().publisher::<u64>().unwrap();
    let subscriber = town.topic().subscriber::<u64>().unwrap();
    let sleeper = Sleeper::start(move |say| {
        while let Ok(message) = subscriber.recv() {
            say(message.to_native());
        }
    });
    let _thief = town.thief("subscriber");
    publisher.wait_for_subscribers(2, Some(WATCHDOG)).unwrap();
    town.turn_the_other_user_out();
    for round in 0..ROUNDS {
        town.robbed(&sleeper);
        publisher.send(&round).unwrap();
        assert_eq!(sleeper.says(), round);
    }
}

#[test]
fn a_publisher_that_waits_for_room_is_woken_though_another_user_steals_sleepers() {
    let Some(town) = Town::new() else { return };
    let mut publisher = town.topic().publisher::<u64>().unwrap();
    let subscriber = town.topic().subscriber::<u64>().unwrap();
    let sleeper = Sleeper::start(move |say| {
        let mut sent = 0_u64;
        while publisher.send(&sent).is_ok() {
            say(sent);
            sent += 1;
        }
    });
    for sent in 0..4 {
        assert_eq!(sleeper.says(), sent);
    }
    sleeper.asleep();
    let _thief = town.thief("publisher");
    for round in 0..ROUNDS {
        let began = Instant::now();
        // The first waits are so long that nothing but a wake-up ends them any more.
        until(|| round >= 2 || began.elapsed() > NOTICE);
        town.robbed(&sleeper);
        assert_eq!(subscriber.recv().unwrap().to_native(), round);
        assert_eq!(sleeper.says(), round + 4);
    }
}

#[test]
fn who_waits_for_publishers_is_woken_though_another_user_steals_sleepers() {
    let Some(town) = Town::new() else { return };
    let subscriber = town.topic().subscriber::<u64>().unwrap();
    let sleeper = Sleeper::start(move |say| {
        for publishers in 1.. {
            if subscriber.wait_for_publishers(publishers, None).is_err() {
                return;
            }
            say(publishers as u64);
        }
    });
    sleeper.asleep();
    let _thief = town.thief("subscriber");
    let mut publishers = Vec::new();
    for round in 1..=ROUNDS {
        town.robbed(&sleeper);
        publishers.push(town.topic().publisher::<u64>().unwrap());
        assert_eq!(sleeper.says(), round);
    }
}

#[test]
fn who_waits_for_subscribers_is_woken_though_another_user_steals_sleepers() {
    let Some(town) = Town::new() else { return };
    let mut publisher = town.topic().publisher::<u64>().unwrap();
    let sleeper = Sleeper::start(move |say| {
        for subscribers in 1.. {
            if publisher.wait_for_subscribers(subscribers, None).is_err() {
                return;
            }
            say(subscribers as u64);
        }
    });
    sleeper.asleep();
    let _thief = town.thief("publisher");
    let mut subscribers = Vec::new();
    for round in 1..=ROUNDS {
        town.robbed(&sleeper);
        subscribers.push(town.topic().subscriber::<u64>().unwrap());
        assert_eq!(sleeper.says(), round);
    }
}
