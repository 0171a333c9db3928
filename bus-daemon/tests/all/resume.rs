//! A broker is killed, another comes: who is taken back, who is not, who waits for whom, and what the others hear of it.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, Busd, Handle, next, open_request, refusal};
use bus_core::control::{Connection, Event, Refusal, Request, Role};
use bus_core::schema::Schema;

/// How long newcomers wait for those who are away.
const GRACE: Duration = Duration::from_secs(2);

struct Bus {
    busd: Busd,
    dir: tempfile::TempDir,
}

impl Bus {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let busd = Busd::start(&dir.path().join("bus.sock"), "");
        Self { busd, dir }
    }

    fn path(&self) -> &Path {
        &self.busd.path
    }

    fn publisher(&self, topic: &str) -> Handle {
        Handle::open(self.path(), Role::Publisher, topic).joined()
    }

    fn subscriber(&self, topic: &str) -> Handle {
        Handle::open(self.path(), Role::Subscriber, topic).joined()
    }

    /// The names of the files that are there.
    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        let mut files: Vec<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        files
    }

    fn census(&self) -> std::path::PathBuf {
        self.dir.path().join("bus.sock.members")
    }

    /// The refusal of a request on a connection of its own.
    fn refuses(&self, handle: &mut Handle, request: &Request) -> (Refusal, String) {
        handle.ask_back(self.path(), request);
        refusal(&handle.connection)
    }

    /// Asks to open a topic, and is not answered yet.
    fn ask(&self, role: Role, topic: &str) -> Connection {
        let connection = Connection::connect(self.path()).unwrap();
        connection.send(&open_request(role, topic), &[]).unwrap();
        connection
    }
}

/// Not a test of its own: a process that joins, and waits for ever.
#[test]
#[ignore = "is started by other tests as a process of its own"]
fn a_process_that_joins() {
    let (Ok(path), Ok(role)) = (std::env::var("TEST_SOCKET"), std::env::var("TEST_ROLE")) else {
        return;
    };
    let role = match role.as_str() {
        "publisher" => Role::Publisher,
        _ => Role::Subscriber,
    };
    let handle = Handle::open(Path::new(&path), role, "t").joined();
    eprintln!("joined as {} {}", handle.id, handle.index);
    let _ = std::io::stdin().read(&mut [0]);
}

struct Joined {
    child: std::process::Child,
    id: u64,
    index: u16,
}

impl Joined {
    fn start(path: &Path, role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "resume::a_process_that_joins",
                "--ignored",
                "--nocapture",
            ])
            .env("TEST_SOCKET", path)
            .env("TEST_ROLE", role)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = child.stderr.take().unwrap();
        let mut line = String::new();
        while !(line.contains("joined as") && line.ends_with('\n')) {
            let mut byte = [0];
            assert_eq!(log.read(&mut byte).unwrap(), 1, "ended early: {line}");
            line.push(char::from(byte[0]));
        }
        let mut words = line.trim().rsplit(' ');
        let index = words.next().unwrap().parse().unwrap();
        let id = words.next().unwrap().parse().unwrap();
        Self { child, id, index }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Class 17 of the field notes: the broker's restart drops every client.
#[test]
fn members_keep_their_numbers_and_rings_and_are_told_of_each_other() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    for round in 0..3 {
        bus.busd.replace();
        let before = publisher.registry().subscribers();
        publisher.resume(bus.path(), "t", 0);
        publisher.back();
        let (version, rings) = subscriber.resume(bus.path(), "t", 1);
        assert_eq!(rings, 1);
        // The versions of what follows lead up to the registry's, which is none that the old one had.
        let Event::PublisherJoined {
            version: told,
            id,
            index: 0,
            ..
        } = subscriber.next()
        else {
            panic!("not told of the publisher");
        };
        assert_eq!((told, id), (version + 1, publisher.id));
        assert_eq!(told, subscriber.registry().publishers());
        subscriber.back();
        assert!(
            matches!(publisher.next(), Event::SubscriberJoined { id, .. } if id == subscriber.id)
        );
        let now = publisher.registry().subscribers();
        assert!(
            now.wrapping_sub(before) > 1000,
            "round {round}: {before} {now}"
        );
        // Now that all are back, nobody waits.
        let since = Instant::now();
        let newcomer = bus.publisher("t");
        assert_eq!(newcomer.index, 1);
        assert!(newcomer.id > subscriber.id);
        assert!(since.elapsed() < GRACE / 2, "{:?}", since.elapsed());
        assert!(
            matches!(subscriber.next(), Event::PublisherJoined { id, .. } if id == newcomer.id)
        );
        drop(newcomer);
        assert!(matches!(
            subscriber.next(),
            Event::PublisherLeft { index: 1, .. }
        ));
        subscriber.release(1);
        // Struck out when everybody was told: the broker has done that when it answers the next one.
        drop(Handle::open(bus.path(), Role::Subscriber, "another"));
    }
}

#[test]
fn who_is_not_who_it_says_is_refused_and_the_right_one_is_not_hurt() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut other = Joined::start(bus.path(), "publisher");
    bus.busd.replace();
    let honest = publisher.resume_request("t", 0);
    let lie = |change: &dyn Fn(&mut Request)| {
        let mut request = honest.clone();
        change(&mut request);
        request
    };
    let unknown = [
        // A number that nobody has, and one that another process has.
        lie(&|r| set(r, |id, _, _| *id += 1000)),
        lie(&|r| set(r, |id, _, _| *id = other.id)),
    ];
    for request in unknown {
        assert_eq!(bus.refuses(&mut publisher, &request).0, Refusal::Unknown);
    }
    let different = [
        lie(&|r| set(r, |_, index, _| *index += 1)),
        lie(&|r| set(r, |_, _, topic| *topic = "u".into())),
        lie(&|r| {
            if let Request::Resume { schema, .. } = r {
                *schema = Schema::of::<u64>();
            }
        }),
        lie(&|r| {
            if let Request::Resume { settings, .. } = r {
                settings.keep = 0;
            }
        }),
        lie(&|r| {
            if let Request::Resume { settings, .. } = r {
                settings.retain = 3;
            }
        }),
        lie(&|r| {
            if let Request::Resume { role, .. } = r {
                *role = Role::Subscriber;
            }
        }),
    ];
    for request in different {
        let (kind, why) = bus.refuses(&mut publisher, &request);
        assert!(
            matches!(kind, Refusal::Protocol | Refusal::BadSetting),
            "{kind:?}: {why}"
        );
    }
    // No segment, and one of another kind.
    let connection = Connection::connect(bus.path()).unwrap();
    connection.send(&honest, &[]).unwrap();
    assert_eq!(refusal(&connection).0, Refusal::Protocol);
    let connection = Connection::connect(bus.path()).unwrap();
    connection.send(&honest, &[connection.as_fd()]).unwrap();
    assert_eq!(refusal(&connection).0, Refusal::Segment);

    publisher.resume(bus.path(), "t", 0);
    publisher.back();
    // Twice: the second finds nobody who is waited for.
    let connection = Connection::connect(bus.path()).unwrap();
    connection.send(&honest, &[]).unwrap();
    assert_eq!(refusal(&connection).0, Refusal::Unknown);
    publisher.nothing();
    other.kill();
}

fn set(request: &mut Request, change: impl FnOnce(&mut u64, &mut u16, &mut String)) {
    if let Request::Resume {
        id, index, topic, ..
    } = request
    {
        change(id, index, topic);
    }
}

#[test]
fn a_connection_that_ends_before_its_handle_is_back_ends_nothing() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    subscriber.resume(bus.path(), "t", 1);
    subscriber.back();
    for _ in 0..3 {
        publisher.resume(bus.path(), "t", 0);
    }
    publisher.back();
    // Told of again and again, and never that it left.
    for _ in 0..3 {
        assert!(
            matches!(subscriber.next(), Event::PublisherJoined { id, .. } if id == publisher.id)
        );
    }
    drop(publisher);
    assert!(matches!(subscriber.next(), Event::PublisherLeft { .. }));
}

/// The index of a publisher that is away belongs to it until its process has ended; then those are told who may know it, also who comes
/// back later.
#[test]
fn a_ring_index_is_reserved_until_its_publisher_has_ended() {
    let mut bus = Bus::new();
    let mut dies = Joined::start(bus.path(), "publisher");
    let mut subscriber = bus.subscriber("t");
    let mut second = bus.subscriber("t");
    assert_eq!(dies.index, 0);
    bus.busd.replace();
    let (_, rings) = subscriber.resume(bus.path(), "t", 1);
    assert_eq!(rings, 1);
    subscriber.back();
    second.resume(bus.path(), "t", 1);
    second.back();
    // After the grace it is still away, and a newcomer gets another index.
    let since = Instant::now();
    let newcomer = bus.publisher("t");
    assert_eq!(newcomer.index, 1);
    assert!(since.elapsed() > GRACE / 2, "it did not wait");
    assert!(matches!(
        subscriber.next(),
        Event::PublisherJoined { index: 1, .. }
    ));
    dies.kill();
    for subscriber in [&subscriber, &second] {
        loop {
            match subscriber.next() {
                Event::PublisherLeft { id, index, .. } => {
                    assert_eq!((id, index), (dies.id, 0));
                    break;
                }
                Event::PublisherJoined { id, .. } => assert_eq!(id, newcomer.id),
                other => panic!("{other:?}"),
            }
        }
    }
    // Its readers have not released it.
    assert_eq!(bus.publisher("t").index, 2);
    for subscriber in [&subscriber, &second] {
        subscriber.release(0);
    }
    // Served in order with the releases, for they went over other connections.
    common::until(|| bus.publisher("t").index == 0);
}

/// Nobody reads its ring, so that nothing but the census keeps its index.
#[test]
fn the_index_of_a_publisher_that_nobody_reads_is_its_own_as_well() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    bus.busd.replace();
    let newcomer = bus.publisher("t");
    assert_eq!((publisher.index, newcomer.index), (0, 1));
    publisher.resume(bus.path(), "t", 0);
    publisher.back();
    drop(publisher);
    common::until(|| bus.publisher("t").index == 0);
}

#[test]
fn newcomers_wait_for_those_who_are_away_and_go_on_when_they_die() {
    let mut bus = Bus::new();
    let mut dies = Joined::start(bus.path(), "publisher");
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    let waits = bus.ask(Role::Subscriber, "t");
    // Another topic is nobody's business.
    let since = Instant::now();
    let _elsewhere = bus.publisher("elsewhere");
    assert!(since.elapsed() < GRACE / 2);
    assert!(waits.try_recv::<Event>().unwrap().is_none());
    // One hangs up meanwhile.
    drop(bus.ask(Role::Publisher, "t"));
    dies.kill();
    assert!(waits.try_recv::<Event>().unwrap().is_none());
    subscriber.resume(bus.path(), "t", 1);
    // It is told of the dead one, whether that died before or after it came back.
    assert!(matches!(subscriber.next(), Event::PublisherLeft { id, .. } if id == dies.id));
    subscriber.back();
    assert!(matches!(next(&waits).0, Event::Opened { .. }));
    assert!(since.elapsed() < GRACE, "it was the time that let it go on");
}

#[test]
fn a_newcomer_does_not_join_beside_who_is_not_back_yet() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    bus.busd.replace();
    publisher.resume(bus.path(), "t", 0);
    let waits = bus.ask(Role::Subscriber, "t");
    // The broker has heard of both.
    drop(bus.publisher("elsewhere"));
    assert!(waits.try_recv::<Event>().unwrap().is_none());
    publisher.back();
    assert!(matches!(next(&waits).0, Event::Opened { .. }));
}

#[test]
fn who_comes_back_late_is_taken_where_nobody_of_the_other_role_has_joined() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    subscriber.resume(bus.path(), "t", 1);
    subscriber.back();
    let second = bus.publisher("t");
    assert_eq!(second.index, 1, "the first one's is its own");
    publisher.resume(bus.path(), "t", 0);
    publisher.back();

    bus.busd.replace();
    subscriber.resume(bus.path(), "t", 3);
    subscriber.back();
    let third = bus.subscriber("t");
    let request = publisher.resume_request("t", 0);
    let (kind, why) = bus.refuses(&mut publisher, &request);
    assert_eq!(kind, Refusal::Late, "{why}");
    assert!(why.contains("topic t"), "{why}");
    drop((second, third));
    // The next broker knows it as well, and lets nobody wait for it.
    bus.busd.replace();
    subscriber.resume(bus.path(), "t", 3);
    subscriber.back();
    assert_eq!(bus.refuses(&mut publisher, &request).0, Refusal::Late);
}

/// Class 8 of the field notes: a member that is gone and holds others up. That it has gone is found out by telling it something, before its last words are read.
#[test]
fn who_is_back_and_leaves_at_once_is_gone() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    subscriber.resume(bus.path(), "t", 1);
    subscriber.back();
    publisher.resume(bus.path(), "t", 0);
    bus.busd.signal(nix::sys::signal::Signal::SIGSTOP);
    common::until(|| bus.busd.state() == 'T');
    drop(subscriber);
    publisher.back();
    drop(publisher);
    bus.busd.signal(nix::sys::signal::Signal::SIGCONT);
    let since = Instant::now();
    drop(bus.publisher("t"));
    assert!(since.elapsed() < GRACE / 2, "somebody is waited for");
    bus.busd.signal(nix::sys::signal::Signal::SIGTERM);
    bus.busd.child.wait().unwrap();
    assert_eq!(bus.files(), Vec::<String>::new());
}

/// Class 8 of the field notes, the other way round: who lives is taken for gone, because it was its broker that stood still.
#[test]
fn who_came_while_the_broker_stood_still_is_not_late() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    bus.busd.replace();
    bus.busd.signal(nix::sys::signal::Signal::SIGSTOP);
    common::until(|| bus.busd.state() == 'T');
    // Ahead of who comes back.
    let waits = bus.ask(Role::Subscriber, "t");
    let request = publisher.resume_request("t", 0);
    publisher.ask_back(bus.path(), &request);
    // What is tested is that this time is over.
    std::thread::sleep(GRACE + GRACE / 8);
    bus.busd.signal(nix::sys::signal::Signal::SIGCONT);
    let resumed = publisher.next();
    assert!(matches!(resumed, Event::Resumed { .. }), "{resumed:?}");
    assert!(waits.try_recv::<Event>().unwrap().is_none());
    publisher.back();
    assert!(matches!(next(&waits).0, Event::Opened { .. }));
}

/// Who resumed and was not back in time is not a member any more when a newcomer joins, so that it cannot miss it.
#[test]
fn who_resumes_and_stands_still_does_not_hold_up_newcomers_for_ever() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    bus.busd.replace();
    publisher.resume(bus.path(), "t", 0);
    let newcomer = bus.subscriber("t");
    assert!(newcomer.early.is_empty(), "{:?}", newcomer.early);
    let end = publisher.connection.recv::<Event>(common::deadline());
    assert!(matches!(end, Err(bus_core::Error::Closed)), "{end:?}");
    let request = publisher.resume_request("t", 0);
    assert_eq!(bus.refuses(&mut publisher, &request).0, Refusal::Late);
}

/// Class 8 of the field notes, a member that is gone and gates for ever: one that comes back without end.
#[test]
fn who_resumes_again_and_again_does_not_hold_up_newcomers_for_ever() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    bus.busd.replace();
    let newcomer = bus.ask(Role::Subscriber, "t");
    let request = publisher.resume_request("t", 0);
    let began = Instant::now();
    loop {
        // Its connection before this one is closed by that.
        publisher.ask_back(bus.path(), &request);
        match next(&publisher.connection).0 {
            Event::Resumed { .. } => {}
            Event::Refused { kind, .. } => {
                assert_eq!(kind, Refusal::Late);
                break;
            }
            event => panic!("{event:?}"),
        }
        assert!(began.elapsed() < common::LONG, "it waits for ever");
    }
    let waited = began.elapsed();
    assert!(matches!(next(&newcomer).0, Event::Opened { .. }));
    assert!(waited >= GRACE, "it was not waited for: {waited:?}");
    assert!(waited < 4 * GRACE, "{waited:?}");
}

/// Who waits is not listened to: what it asks for meanwhile is heard when it was answered.
#[test]
fn a_newcomer_that_waits_is_answered_in_the_order_in_which_it_asks() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    bus.busd.replace();
    let waits = bus.ask(Role::Subscriber, "t");
    waits
        .send(&open_request(Role::Subscriber, "other"), &[])
        .unwrap();
    publisher.resume(bus.path(), "t", 0);
    publisher.back();
    assert!(matches!(next(&waits).0, Event::Opened { .. }));
    assert!(matches!(next(&waits).0, Event::PublisherJoined { .. }));
    let (kind, why) = refusal(&waits);
    assert_eq!(kind, Refusal::Protocol);
    assert!(why.contains("has topic t open"), "{why}");
}

/// Somebody who is away, for as long as it likes, knows nobody of those who came and went meanwhile: they are not remembered for it.
#[test]
fn the_census_does_not_grow_while_somebody_is_away() {
    let mut bus = Bus::new();
    let away = bus.subscriber("t");
    bus.busd.replace();
    for _ in 0..60 {
        drop(bus.subscriber("t"));
    }
    let records = std::fs::metadata(bus.census()).unwrap().len() / 256;
    assert!(records < 20, "{records}");
    drop(away);
}

#[test]
fn a_handle_that_ended_while_no_broker_was_there_is_waited_for_no_longer() {
    let mut bus = Bus::new();
    let publisher = bus.publisher("t");
    let mut subscriber = bus.subscriber("t");
    bus.busd.replace();
    subscriber.resume(bus.path(), "t", 1);
    subscriber.back();
    let waits = bus.ask(Role::Publisher, "t");
    let says = Connection::connect(bus.path()).unwrap();
    for id in [0, 7, subscriber.id, publisher.id, publisher.id] {
        says.send(&Request::Ended { id }, &[]).unwrap();
    }
    assert!(matches!(
        subscriber.next(),
        Event::PublisherLeft { id, index: 0, exited: false, .. } if id == publisher.id
    ));
    assert!(matches!(next(&waits).0, Event::Opened { index: 1, .. }));
    subscriber.release(0);
    common::until(|| bus.publisher("t").index == 0);
}

/// A subscriber may hear of a ring in what its broker said last, and not know it yet when it resumes; or have done with one.
#[test]
fn rings_of_those_who_ended_are_held_until_they_are_released() {
    let mut bus = Bus::new();
    let mut dies = Joined::start(bus.path(), "publisher");
    let mut subscriber = bus.subscriber("t");
    bus.busd.child.kill().unwrap();
    bus.busd.child.wait().unwrap();
    dies.kill();
    let path = bus.path().to_owned();
    bus.busd = Busd::start(&path, "");
    // It says that it reads none, and is asked all the same.
    let (_, rings) = subscriber.resume(bus.path(), "t", 0);
    assert_eq!(rings, 1);
    assert!(matches!(
        subscriber.next(),
        Event::PublisherLeft { id, index: 0, .. } if id == dies.id
    ));
    subscriber.back();
    assert_eq!(bus.publisher("t").index, 1);
    subscriber.release(0);
    common::until(|| bus.publisher("t").index == 0);
}

#[test]
fn a_watch_keeps_its_number_and_is_told_of_topics_again() {
    let mut bus = Bus::new();
    let watch = |resumes| Request::Watch {
        client: "watcher".into(),
        pattern: "a/**".into(),
        schema: Schema::bytes(),
        resumes,
    };
    let mut publisher = bus.publisher("a/b");
    let connection = Connection::connect(bus.path()).unwrap();
    connection.send(&watch(None), &[]).unwrap();
    let Event::TopicAppeared { id: topic, .. } = next(&connection).0 else {
        panic!("not told of the topic");
    };
    let Event::Watching { id } = next(&connection).0 else {
        panic!("does not watch");
    };
    bus.busd.replace();
    // A topic that the watch would follow waits for it; one that it would not does not.
    let waits = bus.ask(Role::Publisher, "a/c");
    drop(bus.publisher("b"));
    assert!(waits.try_recv::<Event>().unwrap().is_none());
    let connection = Connection::connect(bus.path()).unwrap();
    connection.send(&watch(Some(id + 1)), &[]).unwrap();
    assert_eq!(refusal(&connection).0, Refusal::Unknown);
    let connection = Connection::connect(bus.path()).unwrap();
    connection.send(&watch(Some(id)), &[]).unwrap();
    assert_eq!(next(&connection).0, Event::Watching { id });
    assert!(matches!(
        next(&connection).0,
        Event::TopicAppeared { kept: true, topic, .. } if topic == "a/c"
    ));
    assert!(matches!(next(&waits).0, Event::Opened { .. }));
    // One that was there before comes again, by another number and without a place.
    publisher.resume(bus.path(), "a/b", 0);
    let Event::TopicAppeared {
        id: again,
        topic: name,
        kept: false,
        ..
    } = next(&connection).0
    else {
        panic!("not told of the topic again");
    };
    assert_eq!(name, "a/b");
    assert_ne!(again, topic);
}

/// Class 20 of the field notes: what a kill leaves behind.
#[test]
fn nothing_is_left_when_the_last_member_has_gone() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    let mut dies = Joined::start(bus.path(), "subscriber");
    bus.busd.replace();
    dies.kill();
    publisher.resume(bus.path(), "t", 0);
    publisher.back();
    assert!(matches!(publisher.next(), Event::SubscriberLeft { id, .. } if id == dies.id));
    drop(publisher);
    bus.busd.signal(nix::sys::signal::Signal::SIGTERM);
    bus.busd.child.wait().unwrap();
    assert_eq!(bus.files(), Vec::<String>::new());
}

#[test]
fn a_broker_that_ends_cleanly_is_followed_as_well() {
    let mut bus = Bus::new();
    let mut publisher = bus.publisher("t");
    bus.busd.signal(nix::sys::signal::Signal::SIGTERM);
    bus.busd.child.wait().unwrap();
    assert_eq!(bus.files(), ["bus.sock.members"]);
    let path = bus.path().to_owned();
    bus.busd = Busd::start(&path, "");
    publisher.resume(bus.path(), "t", 0);
}

/// A process that has another one's number is not that one.
#[test]
fn a_record_of_another_start_time_or_torn_is_passed_over() {
    for at in [4, 8, 16, 40, 60, 255] {
        let mut bus = Bus::new();
        let mut publisher = bus.publisher("t");
        bus.busd.child.kill().unwrap();
        bus.busd.child.wait().unwrap();
        let census = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(bus.census());
        let census = census.unwrap();
        let mut byte = [0];
        census.read_exact_at(&mut byte, 256 + at).unwrap();
        census.write_all_at(&[byte[0] ^ 1], 256 + at).unwrap();
        let path = bus.path().to_owned();
        bus.busd = Busd::start(&path, "");
        let since = Instant::now();
        let newcomer = bus.publisher("t");
        assert!(since.elapsed() < GRACE / 2, "{at}: it waited");
        assert_eq!(newcomer.index, 0, "{at}");
        assert!(newcomer.id > publisher.id, "{at}");
        let request = publisher.resume_request("t", 0);
        assert_eq!(
            bus.refuses(&mut publisher, &request).0,
            Refusal::Unknown,
            "{at}"
        );
    }
}

#[test]
fn a_census_of_any_bytes_is_read_without_harm() {
    let mut bus = Bus::new();
    let _members: Vec<_> = (0..8).map(|_| bus.publisher("t")).collect();
    bus.busd.child.kill().unwrap();
    bus.busd.child.wait().unwrap();
    let whole = std::fs::read(bus.census()).unwrap();
    let mut random = 1_u64;
    for round in 0..24 {
        let mut bytes = whole.clone();
        for _ in 0..=round {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // The first eight say that it is a census at all.
            let at = 8 + (random >> 33) as usize % (bytes.len() - 8);
            bytes[at] = (random >> 25) as u8;
        }
        bytes.truncate(bytes.len() - round);
        std::fs::write(bus.census(), &bytes).unwrap();
        let path = bus.path().to_owned();
        bus.busd = Busd::start(&path, "");
        drop(bus.publisher("another"));
        bus.busd.child.kill().unwrap();
        bus.busd.child.wait().unwrap();
    }
    // An empty one is what a full disk leaves; one that is none is somebody else's.
    std::fs::write(bus.census(), "").unwrap();
    let path = bus.path().to_owned();
    bus.busd = Busd::start(&path, "");
    bus.busd.child.kill().unwrap();
    bus.busd.child.wait().unwrap();
    std::fs::write(bus.census(), "precious").unwrap();
    let mut busd = Busd::launch(&path, "");
    assert_eq!(busd.child.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    busd.child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(
        said.contains("bus.sock.members") && said.contains("remove it"),
        "{said}"
    );
    assert_eq!(std::fs::read(bus.census()).unwrap(), b"precious");
}

#[test]
fn a_census_that_is_a_link_or_a_pipe_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let census = dir.path().join("bus.sock.members");
    let target = dir.path().join("target");
    std::fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, &census).unwrap();
    let status = |path: &Path| Busd::launch(path, "").child.wait().unwrap().code();
    assert_eq!(status(&path), Some(1));
    assert_eq!(std::fs::read(&target).unwrap(), b"");
    std::fs::remove_file(&census).unwrap();
    nix::unistd::mkfifo(&census, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(status(&path), Some(1));
    std::fs::remove_file(&census).unwrap();
    std::fs::write(&census, "").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&census, open).unwrap();
    assert_eq!(status(&path), Some(1), "others may write it");
}

/// Who cannot be written down may not take part: the next broker would not know it, and give its ring's index away.
#[test]
fn a_full_disk_is_an_error_to_who_joins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    // Files of 8 KiB at most, where ulimit counts in half ones: a registry fits, and so do the header and 31 members.
    let mut busd = Busd::start(&path, "ulimit -f 16");
    let mut members = Vec::new();
    let refused = loop {
        assert!(members.len() < 64, "there is no end of room");
        match Handle::open(&path, Role::Subscriber, "t").try_joined() {
            Ok(handle) => members.push(handle),
            Err(refused) => break refused,
        }
    };
    assert!(members.len() >= 31, "{}", members.len());
    assert!(refused.1.contains("list of members"), "{refused:?}");
    // Who leaves makes room.
    drop(members.pop());
    common::until(|| {
        Handle::open(&path, Role::Subscriber, "t")
            .try_joined()
            .is_ok()
    });
    assert!(busd.child.try_wait().unwrap().is_none());
}
