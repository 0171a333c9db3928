//! What a process does to find a broker or to host one, and what it leaves alone in its own
//! surroundings: limits, threads, users, files.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bus_client::Bus;
use bus_daemon::Broker;
use bus_daemon::policy::Source;
use common::process::{Process, WATCHDOG};
use common::role::{Given, play, say, wait_for};
use common::roles::{HOST, start_host};
use common::stage::{Stage, connect, hosting, told};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, Uid, setuid};

const OTHER: u32 = 65534;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[
        HOST,
        ("limited", limited),
        ("seeker", seeker),
        ("dropper", dropper),
        ("pinned", pinned),
    ]);
}

fn is_root(test: &str) -> bool {
    let root = Uid::effective().is_root();
    if !root {
        println!("{test}: skipped, for only root can be another user");
    }
    root
}

/// Hosts a broker with a low limit of descriptors; says the limit, its own and that of a child.
fn limited(given: &Given) {
    const LOW: u64 = 256;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard > LOW, "there is nothing to be raised");
    setrlimit(Resource::RLIMIT_NOFILE, LOW, hard).unwrap();
    let mut builder = hosting("limited", given.get::<String>("socket"));
    if given.get("raise") {
        builder = builder.raise_descriptor_limit();
    }
    let bus = builder.connect().unwrap();
    assert!(bus.hosts_broker());
    let _handle = bus.subscriber::<u64>("t").unwrap();
    let child = Command::new("sh").args(["-c", "ulimit -Sn"]).output();
    let child = String::from_utf8(child.unwrap().stdout).unwrap();
    let (own, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(child.trim(), own.to_string());
    say(format_args!("limit {}", own as i64 - LOW as i64));
}

#[test]
fn hosting_leaves_the_limit_of_descriptors_as_it_is_unless_it_is_asked_to_raise_it() {
    for raise in [false, true] {
        let stage = Stage::new();
        let socket = stage.path.display();
        let settings: [(&str, &dyn std::fmt::Display); 2] =
            [("socket", &socket), ("raise", &raise)];
        let mut limited = Process::start("limited", &settings);
        let more: i64 = limited.expect("limit").parse().unwrap();
        assert_eq!(more > 0, raise, "by {more}");
        limited.finish();
    }
}

/// Seeks a broker, as the test says; says whether it hosts one itself, or what is wrong. Then opens
/// a handle.
fn seeker(given: &Given) {
    if let Some(user) = given.find("user") {
        setuid(Uid::from_raw(user)).unwrap();
    }
    let mut builder = Bus::builder("seeker").socket(given.get::<String>("socket"));
    if let Some(embedded) = given.find("embedded") {
        builder = builder.embedded(embedded);
    }
    say("seeking");
    match builder.connect() {
        Ok(bus) => {
            say(format_args!("hosts {}", bus.hosts_broker()));
            let opened = bus.topic("t").unwrap().lossy().publisher::<u64>();
            say(format_args!("opened {:?}", opened.map(drop)));
        }
        Err(error) => say(format_args!("error {error}")),
    }
}

#[test]
fn at_a_path_that_is_named_a_process_waits_for_a_broker_and_hosts_none() {
    let stage = Stage::new();
    let mut seeker = stage.start("seeker");
    seeker.expect("seeking");
    let host = start_host(&stage.path);
    assert_eq!(seeker.expect("hosts"), "false");
    seeker.expect("opened Ok");
    seeker.finish();
    host.finish();
}

#[test]
fn a_process_that_may_not_host_waits_for_a_broker_of_somebody_who_may() {
    if !is_root("a_process_that_may_not_host_waits_for_a_broker_of_somebody_who_may") {
        return;
    }
    let stage = Stage::new();
    fs::set_permissions(stage.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let policy = stage.dir.path().join("bus.toml");
    let rule = format!("[[allow]]\ntopics = \"t\"\nusers = [{OTHER}]\nmay = \"publish\"\n");
    fs::write(&policy, rule).unwrap();
    let socket = stage.path.display();
    let settings: [(&str, &dyn std::fmt::Display); 3] =
        [("socket", &socket), ("embedded", &true), ("user", &OTHER)];

    let mut without = Process::start("seeker", &settings);
    without.expect("seeking");
    let why = without.expect("error");
    assert!(why.contains("this process may not host one"), "{why}");
    assert!(
        why.contains("Permission denied") && why.contains("start busd"),
        "{why}"
    );
    without.finish();

    let mut with = Process::start("seeker", &settings);
    with.expect("seeking");
    let mut broker = Broker::bind(&stage.path).unwrap();
    broker.govern(Source::file(policy)).unwrap();
    let broker = broker.spawn().unwrap();
    assert_eq!(with.expect("hosts"), "false");
    with.expect("opened Ok");
    with.finish();
    broker.stop().unwrap();
}

/// A policy that declares a topic, and lets another user publish there.
const DECLARED: &str = "[[topic]]\ntopics = [\"t\"]\ndepth = 64\n\n\
    [[allow]]\ntopics = [\"t\"]\nusers = [65534]\nmay = \"publish\"\n";

#[test]
fn a_hosted_broker_gives_topics_what_the_file_beside_its_socket_declares_and_serves_nobody_else() {
    let stage = Stage::new();
    let policy = stage.path.with_extension("toml");
    fs::write(&policy, DECLARED).unwrap();
    let bus = hosting("host", &stage.path).connect().unwrap();
    assert!(bus.hosts_broker());
    let other = || bus.topic("t").unwrap().depth(2);
    let says = format!("depth 64, as {}:1 declares, asked 2", policy.display());
    told(other().publisher::<u64>(), &[&says]);
    told(other().subscriber::<u64>(), &[&says]);
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    bus.publisher::<u64>("t").unwrap().send(&1).unwrap();
    assert_eq!(*subscriber.recv().unwrap(), 1);
    assert_eq!(subscriber.settings().depth, 64);
    let mode = fs::metadata(&stage.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "mode {mode:o}");
    // A bus that meets no other is as its program says.
    let private = Bus::private("private").unwrap();
    fs::write(private.path().with_extension("toml"), "wrong").unwrap();
    private.publisher::<u64>("t").unwrap();
}

#[test]
fn a_process_hosts_no_broker_while_the_policy_has_a_mistake_and_says_which() {
    let stage = Stage::new();
    let policy = stage.path.with_extension("toml");
    let mut host = start_host(&stage.path);
    let bus = connect(&stage.path, true).unwrap();
    let subscriber = bus.subscriber::<u64>("t").unwrap();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    fs::write(&policy, DECLARED.replace("depth", "dept")).unwrap();
    // Who finds a broker needs no policy.
    let guest = connect(&stage.path, true).unwrap();
    drop(guest);
    host.kill();
    host.reap();
    let place = format!("{}:3:1: ", policy.display());
    let says = [
        "hosts none until its policy is right",
        &place,
        "did you mean `depth`?",
    ];
    told(connect(&stage.path, true).map(drop), &says);
    publisher.send(&1).unwrap();
    assert_eq!(*subscriber.recv().unwrap(), 1);

    fs::write(&policy, DECLARED).unwrap();
    let late = connect(&stage.path, true).unwrap();
    let late = late.subscriber::<u64>("t").unwrap();
    publisher.wait_for_subscribers(2, Some(WATCHDOG)).unwrap();
    publisher.send(&2).unwrap();
    assert_eq!(*late.recv().unwrap(), 2);
    // The topic is as it was before it was declared.
    assert_eq!(late.settings(), subscriber.settings());
}

/// Hosts, becomes another user, and opens a handle.
fn dropper(given: &Given) {
    let bus = hosting("dropper", given.get::<String>("socket")).connect();
    let bus = bus.unwrap();
    let mut publisher = bus.topic("t").unwrap().lossy().publisher::<u64>().unwrap();
    setuid(Uid::from_raw(OTHER)).unwrap();
    publisher.send(&1).unwrap();
    let error = bus.publisher::<u64>("t").map(drop).unwrap_err();
    say(format_args!("error {error}"));
    wait_for("end");
}

#[test]
fn a_host_that_has_changed_its_user_is_told_so() {
    if !is_root("a_host_that_has_changed_its_user_is_told_so") {
        return;
    }
    let stage = Stage::new();
    let mut dropper = stage.start("dropper");
    let why = dropper.expect("error");
    assert!(
        why.contains("hosts the broker for user 0 and is user 65534 now"),
        "{why}"
    );
    dropper.tell("end");
    dropper.finish();
}

#[test]
fn a_stopped_host_is_named() {
    let stage = Stage::new();
    let host = start_host(&stage.path);
    let pid = Pid::from_raw(host.pid() as i32);
    let bus = connect(&stage.path, false).unwrap();
    kill(pid, Signal::SIGSTOP).unwrap();
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    let path = stage.path.display().to_string();
    let named = format!("process {pid} (");
    told(
        bus.subscriber::<u64>("t").map(drop),
        &[&path, &named, "did not answer", "it is stopped"],
    );
    kill(pid, Signal::SIGCONT).unwrap();
    host.finish();
}

/// Removes a file as soon as it is there.
fn until_removed(path: &Path) {
    let deadline = Instant::now() + WATCHDOG;
    while fs::remove_file(path).is_err() {
        assert!(Instant::now() < deadline, "{} is not there", path.display());
        std::thread::yield_now();
    }
}

#[test]
fn a_host_whose_socket_was_removed_goes_on_with_the_broker_that_it_has() {
    let bus = Bus::private("host").unwrap();
    let mut publisher = bus.publisher::<u64>("t").unwrap();
    for n in 0..10 {
        // The broker listens there again in its own time.
        until_removed(bus.path());
        // It opens at the same broker, so they meet.
        let subscriber = bus.subscriber::<u64>("t").unwrap();
        publisher.send(&n).unwrap();
        assert_eq!(*subscriber.recv_timeout(WATCHDOG).unwrap().unwrap(), n);
    }
    assert!(bus.hosts_broker());
}

#[test]
fn private_buses_do_not_meet_and_leave_nothing() {
    let (one, other) = (Bus::private("one").unwrap(), Bus::private("other").unwrap());
    assert_ne!(one.path(), other.path());
    let directory = one.path().parent().unwrap().to_owned();
    assert_eq!(
        fs::metadata(&directory).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let subscriber = other.subscriber::<u64>("t").unwrap();
    let mut publisher = one.publisher::<u64>("t").unwrap();
    publisher.send(&1).unwrap();
    assert!(subscriber.try_recv().unwrap().is_none());
    // Who is told of the path can join.
    let guest = connect(one.path(), false).unwrap();
    let joined = guest.subscriber::<u64>("t").unwrap();
    publisher.send(&2).unwrap();
    assert_eq!(*joined.recv_timeout(WATCHDOG).unwrap().unwrap(), 2);
    drop(one);
    assert!(directory.exists(), "a handle is left");
    drop((publisher, joined, guest));
    assert!(!directory.exists());
}

/// What the kernel says of the threads of this process with this name: a line of its status.
fn of_thread(name: &str, key: &str) -> String {
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            let status = read("status");
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            return line.unwrap().trim().to_owned();
        }
    }
    panic!("no thread {name}");
}

/// Opens its first handle on a pinned thread, and says how the threads of the library are.
fn pinned(given: &Given) {
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut first = CpuSet::new();
    let number = (0..CpuSet::count()).find(|cpu| all.is_set(*cpu).unwrap());
    first.set(number.unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &first).unwrap();
    let bus = hosting("pinned", given.get::<String>("socket"))
        .connect()
        .unwrap();
    let _handle = bus.subscriber::<u64>("t").unwrap();
    let own = of_thread("role", "Cpus_allowed_list:");
    for name in ["bus-broker", "bus-session"] {
        let processors = of_thread(name, "Cpus_allowed_list:");
        assert_ne!(processors, own, "{name} is pinned as well");
        let blocked = u64::from_str_radix(&of_thread(name, "SigBlk:"), 16).unwrap();
        let is_blocked = |signal: Signal| blocked >> (signal as i32 - 1) & 1 == 1;
        assert!(
            is_blocked(Signal::SIGTERM) && is_blocked(Signal::SIGUSR1),
            "{name}"
        );
        assert!(
            !is_blocked(Signal::SIGSEGV) && !is_blocked(Signal::SIGPROF),
            "{name}"
        );
    }
    say("quiet");
}

#[test]
fn the_librarys_threads_are_not_pinned_where_the_first_handle_is_opened() {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let processors = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap());
    if processors.count() < 2 {
        println!("skipped: there is one processor only");
        return;
    }
    let stage = Stage::new();
    let mut pinned = stage.start("pinned");
    pinned.expect("quiet");
    pinned.finish();
}

#[test]
fn a_pipe_as_lock_file_makes_no_client_wait() {
    let stage = Stage::new();
    let lock = stage.dir.path().join("bus.sock.lock");
    let made = Command::new("mkfifo")
        .arg(&lock)
        .stdin(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let refused = hosting("test", &stage.path).connect().map(drop);
    told(refused, &["lock file that is no regular file"]);
}
