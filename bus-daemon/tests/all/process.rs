//! `busd` and its clients as processes: signals, kills, and limits that are real.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, Busd, Handle, Host, Session, open_request, refusal, until};
use bus_core::control::{Connection, Event, Refusal, Request, Role};
use bus_core::memory::layout::PAGE;
use bus_core::memory::segment::{self, Kind};
use nix::sys::signal::Signal;

/// Not a test of its own: the process that other tests start and kill. It joins, says so, and waits for ever.
#[test]
#[ignore = "is started by other tests as a process of its own"]
fn a_process_that_joins() {
    let (Ok(path), Ok(role)) = (std::env::var("TEST_SOCKET"), std::env::var("TEST_ROLE")) else {
        return;
    };
    let role = if role == "publisher" {
        Role::Publisher
    } else {
        Role::Subscriber
    };
    let handle = Handle::open(Path::new(&path), role, "t").joined();
    eprintln!("joined as {}", handle.id);
    // A child that has the connection as well: only the process's end tells that it is gone.
    if std::env::var("TEST_LEAK").is_ok() {
        let connection = handle
            .session
            .connection
            .as_fd()
            .try_clone_to_owned()
            .unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::from(connection))
            .spawn()
            .unwrap();
        eprintln!("leaked to {}", child.id());
        child.wait().unwrap();
    }
    let _ = std::io::stdin().read(&mut [0]);
}

struct Joined {
    child: std::process::Child,
    leaked: Option<i32>,
    id: u64,
}

fn start(path: &Path, role: &str, leak: bool) -> Joined {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "process::a_process_that_joins",
            "--ignored",
            "--nocapture",
        ])
        .env("TEST_SOCKET", path)
        .env("TEST_ROLE", role)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if leak {
        command.env("TEST_LEAK", "1");
    }
    let mut child = command.spawn().unwrap();
    let mut log = child.stderr.take().unwrap();
    let mut read = |text: &str| {
        let mut line = String::new();
        while !(line.contains(text) && line.ends_with('\n')) {
            let mut byte = [0];
            assert_eq!(log.read(&mut byte).unwrap(), 1, "ended early: {line}");
            line.push(char::from(byte[0]));
        }
        line.rsplit(' ').next().unwrap().trim().to_owned()
    };
    let id = read("joined as").parse().unwrap();
    let leaked = leak.then(|| read("leaked to").parse().unwrap());
    Joined { child, leaked, id }
}

/// The next change of a publisher's subscribers must be that one joins.
fn subscriber_joined(publisher: &Handle) -> u64 {
    match publisher.change() {
        Event::SubscriberJoined { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_killed_publisher_is_told_to_its_subscribers() {
    let host = Host::new();
    let subscriber = host.subscriber("t");
    let mut process = start(&host.path, "publisher", false);
    let event = subscriber.change();
    assert!(matches!(event, Event::PublisherJoined { .. }), "{event:?}");
    process.child.kill().unwrap();
    let (id, dropped) = (process.id, false);
    assert_eq!(subscriber.change(), Event::PublisherLeft { id, dropped });
    process.child.wait().unwrap();
}

/// The connection stays open in a child, so that it is the pidfd that tells.
#[test]
fn a_killed_subscriber_is_noticed_by_its_pidfd_though_its_connection_lives_on() {
    let host = Host::new();
    let publisher = host.publisher("t");
    let mut process = start(&host.path, "subscriber", true);
    subscriber_joined(&publisher);
    process.child.kill().unwrap();
    assert_eq!(publisher.change(), Event::SubscriberLeft { id: process.id });
    process.child.wait().unwrap();
    let leaked = nix::unistd::Pid::from_raw(process.leaked.unwrap());
    nix::sys::signal::kill(leaked, Signal::SIGKILL)
        .expect("the connection was held open until here");
}

/// Class 15 of the field notes: slow is not dead.
#[test]
fn a_stopped_process_is_not_dead() {
    let host = Host::new();
    let publisher = host.publisher("t");
    let mut process = start(&host.path, "subscriber", false);
    subscriber_joined(&publisher);
    let pid = nix::unistd::Pid::from_raw(process.child.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
    nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
    // Others come and go meanwhile, and it is still there.
    let other = host.subscriber("t");
    let id = other.id;
    assert_eq!(subscriber_joined(&publisher), id);
    drop(other);
    assert_eq!(publisher.change(), Event::SubscriberLeft { id });
    publisher.nothing();
    process.child.kill().unwrap();
    let id = process.id;
    assert_eq!(publisher.change(), Event::SubscriberLeft { id });
    process.child.wait().unwrap();
}

#[test]
fn sigterm_and_sigint_end_busd_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let mut busd = Busd::start(&path, "");
        let subscriber = Handle::open(&path, Role::Subscriber, "t").joined();
        busd.signal(signal);
        assert_eq!(busd.child.wait().unwrap().code(), Some(0));
        subscriber.session.ends();
        // The lock file tells the next broker whether members are left; nothing else stays.
        let left = std::fs::read_dir(dir.path()).unwrap();
        let left: Vec<_> = left.map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["bus.sock.lock"]);
    }
}

/// Class 20 of the field notes: what a kill leaves behind.
#[test]
fn what_a_killed_busd_left_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let mut busd = Busd::start(&path, "");
    busd.child.kill().unwrap();
    busd.child.wait().unwrap();
    assert!(path.exists());
    let error = Connection::connect(&path).unwrap_err();
    assert!(
        matches!(&error, bus_core::Error::Io { source, .. }
            if source.kind() == std::io::ErrorKind::ConnectionRefused),
        "{error}"
    );
    let _busd = Busd::start(&path, "");
    let _publisher = Handle::open(&path, Role::Publisher, "t").joined();
}

/// Class 17 of the field notes: the broker ends, or spins, because accept fails.
///
/// A connection takes two descriptors, so of two limits in a row one leaves none for accept, and the other
/// leaves one for accept and none for the pidfd.
#[test]
fn without_descriptors_busd_refuses_and_goes_on_without_spinning() {
    for limit in [24, 25] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let busd = Busd::start(&path, &format!("ulimit -n {limit}"));
        let publisher = Handle::open(&path, Role::Publisher, "t").joined();
        let connections: Vec<_> = (0..30)
            .map(|_| Connection::connect(&path).unwrap())
            .collect();
        for connection in &connections[limit / 2..] {
            let (kind, why) = refusal(connection);
            assert_eq!(kind, Refusal::Limit, "{why}");
        }
        // Idle, though nothing is left.
        let spent = spent_while_silent(&busd, &publisher.session, 500);
        assert!(spent < Duration::from_millis(10), "{spent:?}");
        // Connections that go make room for another.
        drop(connections);
        until(|| {
            let greeting = common::Greeting::new();
            Session::greet(&path, greeting).is_ok_and(|session| {
                let open = open_request(Role::Subscriber, "t");
                Handle::try_ask_on(&session, &open).is_ok()
            })
        });
    }
}

/// The processor time of busd while this session must be told nothing for so many milliseconds.
fn spent_while_silent(busd: &Busd, session: &Session, millis: u64) -> Duration {
    session.barrier();
    let (before, since) = (busd.cpu_time(), Instant::now());
    let until = since + Duration::from_millis(millis);
    let silent = session.connection.recv::<Event>(Some(until));
    assert!(
        matches!(silent, Err(bus_core::Error::Timeout)),
        "{silent:?}"
    );
    busd.cpu_time() - before
}

/// Without even the reserve there is no answer, but no spinning either, and it goes on when it can.
#[test]
fn when_even_the_reserve_is_gone_busd_waits_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let mut busd = Busd::start(&path, "ulimit -n 100");
    let pid = busd.child.id().to_string();
    let limit = |descriptors: u32| {
        let status = Command::new("prlimit")
            .args(["--pid", &pid])
            .arg(format!("--nofile={descriptors}:100"))
            .status();
        assert!(
            status
                .expect("this test needs prlimit of util-linux")
                .success()
        );
    };
    limit(3);
    let connection = Connection::connect(&path).unwrap();
    busd.wait_for("cannot accept");
    let (before, since) = (busd.cpu_time(), Instant::now());
    let silent = connection.recv::<Event>(Some(since + Duration::from_millis(500)));
    assert!(
        matches!(silent, Err(bus_core::Error::Timeout)),
        "{silent:?}"
    );
    let spent = busd.cpu_time() - before;
    assert!(spent < Duration::from_millis(50), "{spent:?}");
    limit(100);
    let session = Session::greet_over(connection, common::Greeting::new()).unwrap();
    let _served = Handle::open_on(&session, Role::Publisher, "t");
}

/// A member that cannot hand its segment over because the broker has no descriptor for it is told why.
#[test]
fn a_join_without_descriptors_left_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let _busd = Busd::start(&path, "ulimit -n 24");
    let first = Handle::open(&path, Role::Subscriber, "t");
    first.difference();
    let fill: Vec<_> = (0..30)
        .map(|_| Connection::connect(&path).unwrap())
        .collect();
    // Answered after all of those before it.
    refusal(fill.last().unwrap());
    let (reader, _mapping) = segment::create(Kind::Reader, PAGE as u64).unwrap();
    let crowd = [reader.as_fd(); 4];
    (first.session).send(first.number, &Request::Join {}, &crowd);
    let (kind, why) = first.session.refusal(bus_core::control::SESSION);
    assert_eq!(kind, Refusal::Limit, "{why}");
    assert!(why.contains("descriptors"), "{why}");
}

#[test]
fn an_idle_busd_takes_no_processor_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let busd = Busd::start(&path, "");
    // Sessions that stall, with no credit or with a full socket, are no reason to be busy either.
    let starved = Handle::open(&path, Role::Publisher, "t").joined();
    starved.session.stop_acknowledging();
    let _stalled = Handle::open(&path, Role::Publisher, "t").joined();
    let session = Session::connect(&path);
    for _ in 0..400 {
        drop(Handle::open_on(&session, Role::Subscriber, "t").joined());
    }
    let witness = Handle::open(&path, Role::Publisher, "t").joined();
    let spent = spent_while_silent(&busd, &witness.session, 500);
    assert!(spent < Duration::from_millis(2), "{spent:?}");
}

/// A pidfd is handed to peers, and any process that holds it keeps it ready for ever.
#[test]
fn a_killed_client_whose_pidfd_others_hold_takes_no_processor_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let busd = Busd::start(&path, "");
    let publisher = Handle::open(&path, Role::Publisher, "t").joined();
    let mut process = start(&path, "subscriber", false);
    subscriber_joined(&publisher);
    let held = publisher.session.processes();
    let (_, held) = held.first_key_value().unwrap();
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let event = publisher.change();
    assert!(matches!(event, Event::SubscriberLeft { .. }), "{event:?}");
    assert!(!bus_core::control::pidfd_alive(&*held.pidfd));
    publisher.difference();
    let spent = spent_while_silent(&busd, &publisher.session, 300);
    assert!(spent < Duration::from_millis(2), "{spent:?}");
}

/// Class 17 of the field notes: the broker ends because its log target went away.
#[test]
fn a_log_that_nobody_reads_or_that_is_gone_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let mut busd = Busd::start(&path, "");
    let join = |times| {
        for _ in 0..times {
            drop(Handle::open(&path, Role::Subscriber, "t").joined());
        }
    };
    // Nobody reads the pipe meanwhile, and this is more than it takes.
    join(1000);
    drop(busd.child.stderr.take());
    join(10);
    busd.signal(Signal::SIGTERM);
    assert_eq!(busd.child.wait().unwrap().code(), Some(0));
}

#[test]
fn busd_says_what_is_wrong_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let long = dir.path().join("x".repeat(120));
    let nowhere = dir.path().join("no/such/bus.sock");
    for (path, says) in [
        (&file, "not a socket"),
        (&long, "takes up to 107"),
        (&nowhere, "No such file"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_busd"))
            .arg("--socket")
            .arg(path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(says), "{said}");
    }
}

/// A backtrace is for faults of the program, and hides the sentence.
#[test]
fn an_ordinary_error_is_a_sentence_that_names_the_process_and_no_backtrace() {
    let dir = tempfile::tempdir().unwrap();
    let busd = Busd::start(&dir.path().join("bus.sock"), "");
    let second = Command::new(env!("CARGO_BIN_EXE_busd"))
        .arg("--socket")
        .arg(&busd.path)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    let named = format!("process {} (busd)", busd.child.id());
    assert!(said.contains(&named), "{said}");
}
