//! Field note 19, memory that is not there; and 17, descriptors that are not there: an error where a handle is opened, which says what is short, leaves
//! nothing behind, and is over when the shortage is.

use std::any::Any;
use std::fs;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use bus_client::{Bus, Error, Selector};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::alone;
use crate::common::process::{Process, WATCHDOG};
use crate::common::role::{Given, hear, play, say, wait_for};
use crate::common::roles::{HOST, start_host};
use crate::common::stage::{Stage, connect, hosting};

const SOON: Option<Duration> = Some(WATCHDOG);

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("starved", starved),
        ("hosts_starved", hosts_starved),
        ("short_of_addresses", short_of_addresses),
        ("follows_short_of_addresses", follows_short_of_addresses),
    ]);
}

/// What this process has open, but for the spare descriptors of its sessions, and has mapped of the bus.
fn possessions() -> (Vec<i32>, usize) {
    let listed = fs::read_dir("/proc/self/fd").unwrap();
    let is_spare = |entry: &std::io::Result<fs::DirEntry>| {
        let leads_to = fs::read_link(entry.as_ref().unwrap().path());
        leads_to.is_ok_and(|path| path == std::path::Path::new("/dev/null"))
    };
    let mut open: Vec<i32> = listed
        .filter(|entry| !is_spare(entry))
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    open.sort_unstable();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let ours = maps.lines().filter(|line| line.contains("memfd:bus-"));
    (open, ours.count())
}

/// Whether this process has more than it had before. Its pidfd of a process may be another one by now.
fn has_more_than((open, ours): &(Vec<i32>, usize)) -> bool {
    let now = possessions();
    now.0.len() > open.len() || now.1 > *ours
}

/// An operation that needs descriptors, and what it leaves for as long as it is wanted.
type Act<'a> = (&'static str, &'a dyn Fn() -> Result<Box<dyn Any>, Error>);

fn kept<T: 'static>(handle: T) -> Result<Box<dyn Any>, Error> {
    Ok(Box::new(handle))
}

/// The error of somebody who has no descriptors says so.
fn names_descriptors(error: &Error) -> bool {
    let text = error.to_string();
    let words = ["descriptor", "Too many open files", "EMFILE"];
    words.iter().any(|word| text.contains(word))
}

/// Tries it with no descriptor left, then with one more, and so on, until it works. Whatever failed left nothing behind, and said why.
fn starve((name, act): Act<'_>, look: &mut impl FnMut()) -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // What is made once and kept.
    drop(act().unwrap_or_else(|e| panic!("{name}: {e}")));
    look();
    let before = possessions();
    let first_free = fs::File::open("/dev/null").unwrap().as_raw_fd();
    for spare in 0.. {
        assert!(spare < 64, "{name} never works");
        let limit = first_free as u64 + spare as u64;
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        let done = act();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let works = done.is_ok();
        if let Err(error) = &done {
            assert!(names_descriptors(error), "{name} with {spare}: {error}");
        }
        drop(done);
        // Other handles take in who came and went.
        let deadline = Instant::now() + WATCHDOG;
        while has_more_than(&before) {
            assert!(
                Instant::now() < deadline,
                "{name} with {spare} left something: {:?} and not {before:?}",
                possessions()
            );
            look();
            std::thread::yield_now();
        }
        if works {
            return spare;
        }
    }
    unreachable!("it works with enough of them")
}

/// Says how many descriptors each operation takes.
fn starved(given: &Given) {
    let bus = given.bus();
    let subscriber = bus.subscriber::<u64>("there").unwrap();
    let mut publisher = bus.publisher::<u64>("there").unwrap();
    let builder = || {
        Bus::builder("starved")
            .socket(given.get::<String>("socket"))
            .embedded(false)
    };
    let acts: [Act; 9] = [
        ("connect", &|| kept(builder().connect()?)),
        // With its keeper.
        ("a first handle", &|| {
            let bus = builder().connect()?;
            kept(bus.publisher::<u64>("there")?)
        }),
        ("publisher", &|| kept(bus.publisher::<u64>("there")?)),
        ("subscriber", &|| kept(bus.subscriber::<u64>("there")?)),
        ("a topic's first", &|| kept(bus.subscriber::<u64>("new")?)),
        ("pattern", &|| kept(bus.pattern_subscriber::<u64>("*")?)),
        ("state", &|| kept(bus.state_writer::<u64>("state")?)),
        ("poll_fd", &|| {
            let mut publisher = bus.publisher::<u64>("there")?;
            publisher.poll_fd()?;
            kept(publisher)
        }),
        ("selector", &|| {
            let subscriber = bus.subscriber::<u64>("there")?;
            let mut selector = Selector::new()?;
            selector.add(&subscriber)?;
            selector.every(WATCHDOG)?;
            drop(selector);
            kept(subscriber)
        }),
    ];
    let mut look = || {
        let deadline = Instant::now() + WATCHDOG;
        let mut alone = || {
            assert!(subscriber.try_recv().unwrap().is_none());
            let there = subscriber.publishers().unwrap().len();
            (there, publisher.subscribers().unwrap().len()) == (1, 1)
        };
        while !alone() {
            assert!(Instant::now() < deadline, "who came never goes");
        }
    };
    for act in acts {
        let taken = starve(act, &mut look);
        say(format_args!("{} {taken}", act.0));
    }
    // Peers that came and went meanwhile changed nothing.
    publisher.wait_for_subscribers(1, SOON).unwrap();
    for n in 0..100 {
        publisher.send(&n).unwrap();
        assert_eq!(*subscriber.recv().unwrap(), n);
    }
    say("done");
}

#[test]
fn descriptors_that_run_out_at_any_point_are_an_error_and_nothing_leaks() {
    let _alone = alone();
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut starved = stage.start("starved");
    loop {
        let line = starved.expect("");
        if line == "done" {
            break;
        }
        // Without want of any it would show nothing.
        let taken: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(taken > 0, "{line}");
        println!("{line} descriptors");
    }
    starved.finish();
    host.finish();
}

/// Hosts the broker with so many spare descriptors and never more, for a broker takes as many as it may have.
fn hosts_starved(given: &Given) {
    let before = possessions();
    let first_free = fs::File::open("/dev/null").unwrap().as_raw_fd();
    let limit = first_free as u64 + given.get::<u64>("spare");
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
    let bus = hosting("host", given.get::<String>("socket"));
    let tried = bus.connect().and_then(|bus| {
        let mut publisher = bus.publisher::<u64>("t")?;
        publisher.send(&1)?;
        Ok((publisher, bus))
    });
    let line = match &tried {
        Ok(_) => "works".to_owned(),
        Err(error) if names_descriptors(error) => "short".into(),
        Err(error) => error.to_string(),
    };
    drop(tried);
    if limit > first_free as u64 + 1 {
        let now = possessions();
        // The socket that descriptors become in a forked child is kept.
        assert!(
            now.0.len() <= before.0.len() + 1 && now.1 == before.1,
            "{now:?}"
        );
    }
    say(line);
}

#[test]
fn descriptors_that_run_out_where_the_broker_is_hosted_leave_no_half_of_one() {
    let _alone = alone();
    let stage = Stage::new();
    let socket = stage.path.display();
    let needed = (0_u64..64).find(|spare| {
        let mut host = Process::start("hosts_starved", &[("socket", &socket), ("spare", spare)]);
        let said = host.expect("");
        assert!(said == "works" || said == "short", "with {spare}: {said}");
        host.finish();
        assert_eq!(stage.left(), [""; 0]);
        said == "works"
    });
    assert!(needed.is_some_and(|needed| needed > 10), "{needed:?}");
}

/// Lets this process have so many more bytes of addresses, or as many as it likes.
fn allow_addresses(more: Option<u64>) {
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    let limit = more.map_or(hard, |more| {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        pages * 4096 + more
    });
    setrlimit(Resource::RLIMIT_AS, limit, hard).unwrap();
}

const ROOM: u64 = 16 << 20;

/// Opens a topic whose ring takes more addresses than it may have.
fn short_of_addresses(given: &Given) {
    let bus = given.bus();
    drop(bus.publisher::<u64>("small").unwrap());
    let before = possessions();
    let topic = || bus.topic("large").unwrap().depth(1 << 18).stride(256);
    for _ in 0..10 {
        allow_addresses(Some(ROOM));
        let error = topic().publisher::<u64>().map(drop).unwrap_err();
        allow_addresses(None);
        let text = error.to_string();
        for part in ["large", "ring", "ulimit -v", "smaller depth"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert_eq!(possessions(), before);
    }
    topic().publisher::<u64>().unwrap().send(&1).unwrap();
    say("done");
}

#[test]
fn addresses_that_run_out_are_an_error_at_creation() {
    let _alone = alone();
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut short = stage.start("short_of_addresses");
    short.expect("done");
    short.finish();
    host.finish();
}

/// Subscribes, and has no addresses for the ring of a publisher that comes; says what comes of it, and whether a new handle works when there are
/// some.
fn follows_short_of_addresses(given: &Given) {
    let bus = given.bus();
    let topic = || bus.topic("t").unwrap().depth(1 << 18).stride(256);
    let subscriber = topic().subscriber::<u64>().unwrap();
    let before = possessions();
    allow_addresses(Some(ROOM));
    say("joined");
    wait_for("sent");
    let error = match subscriber.recv_timeout(WATCHDOG) {
        Err(error) => error.to_string(),
        Ok(message) => panic!("received: {}", message.is_some()),
    };
    allow_addresses(None);
    // The publisher's process is known, and no ring of it is mapped.
    let now = possessions();
    assert!(now.0.len() <= before.0.len() + 1, "{now:?}");
    assert_eq!(now.1, before.1);
    say(error);
    drop(subscriber);
    let again = topic().history(1).subscriber::<u64>().unwrap();
    assert_eq!(*again.recv_timeout(WATCHDOG).unwrap().unwrap(), 7);
    drop(again);
    assert_eq!(hear(), None);
}

#[test]
fn addresses_that_run_out_for_a_peers_ring_are_told_and_nothing_is_lost_unseen() {
    let _alone = alone();
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let mut short = stage.start("follows_short_of_addresses");
    short.expect("joined");
    let bus = connect(&stage.path, false).unwrap();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    publisher.send(&7).unwrap();
    short.tell("sent");
    let said = short.expect("topic t: this handle is of no use any more");
    assert!(said.contains("mapping a segment"), "{said}");
    short.finish();
    host.finish();
}
