//! Processes of different users on one broker: who may what where, and whom nobody can be hurt by.
//!
//! Other users than root can only be had as root; elsewhere these tests are skipped.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use crate::common::actor::Actor;
use crate::common::{self, Busd, Greeting, Handle, Host, Session};
use bus_core::control::{Connection, Event, Refusal, Role};
use bus_testkit::needs;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

const ALICE: u32 = 12345;
const BOB: u32 = 65534;

fn mode(host: &Host) -> u32 {
    let meta = std::fs::metadata(&host.path).unwrap();
    meta.permissions().mode() & 0o777
}

#[test]
fn the_socket_is_open_to_others_only_where_the_policy_names_them() {
    let own = nix::unistd::geteuid();
    let others = "[[allow]]\ntopics = \"t\"\nusers = [12345]\nmay = \"publish\"\n";
    assert_eq!(mode(&Host::governed(others)), 0o666);
    assert_eq!(mode(&Host::governed("")), 0o600);
    let own = others.replace("12345", &own.to_string());
    assert_eq!(mode(&Host::governed(&own)), 0o600);
}

#[test]
fn who_is_not_named_is_turned_away_and_who_is_may_what_its_rule_says() {
    if !needs::root() {
        return;
    }
    let host = Host::governed(
        r#"
        [[allow]]
        topics = ["market/*"]
        users = [12345]
        may = ["publish"]

        [[allow]]
        topics = ["market/**"]
        groups = [777]
        may = ["subscribe"]
        "#,
    );
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    alice.ok("take publisher market/eu delivery=lossy");
    let why = alice.refused("take subscriber market/eu", "NotAllowed");
    assert!(
        why.contains("user 12345 may not subscribe on topic market/eu"),
        "{why}"
    );
    assert!(why.contains("bus policy explain 12345 market/eu"), "{why}");

    let mut bob = Actor::start(&host.path, BOB, &[]);
    let why = bob.refused("take subscriber market/eu", "NotAllowed");
    assert!(why.contains("client is user 65534"), "{why}");
    let mut bob = Actor::start(&host.path, BOB, &[3, 777]);
    bob.ok("take subscriber market/eu delivery=lossy");
    // Whether a topic is there, who is on it, what it carries: nothing of it is told.
    let _secret = host.publisher("secret");
    let there = bob.refused("take subscriber secret depth=64", "NotAllowed");
    let not_there = bob.refused("take subscriber absent depth=64", "NotAllowed");
    assert_eq!(there.replace("secret", "absent"), not_there);
}

#[test]
fn root_is_no_exception_for_the_broker_of_another_user() {
    if !needs::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let path = dir.path().join("bus.sock");
    let mut alice = Actor::start(&path, ALICE, &[]);
    alice.ok(&format!("serve {}", path.display()));
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_NONBLOCK,
        None,
    )
    .unwrap();
    connect(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    let connection = Connection::from_fd(fd).unwrap();
    let refused = Session::greet_over(connection, Greeting::new());
    let (kind, why) = refused.unwrap_err();
    assert_eq!(kind, Refusal::NotAllowed);
    assert!(why.contains("serves user 12345"), "{why}");
    alice.ok("take publisher t");
}

#[test]
fn a_broker_of_another_user_is_used_only_if_that_user_is_named() {
    if !needs::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (path, file) = (dir.path().join("bus.sock"), dir.path().join("bus.toml"));
    let rule = format!("[[allow]]\ntopics = \"t\"\nusers = [{BOB}]\nmay = \"publish\"\n");
    std::fs::write(&file, rule).unwrap();
    let mut alice = Actor::start(&path, ALICE, &[]);
    alice.ok(&format!("serve {} {}", path.display(), file.display()));
    let mut bob = Actor::start(&path, BOB, &[]);
    let why = bob.refused("reach", "Connection");
    assert!(
        why.contains("belongs to user 12345") && why.contains("BUS_BROKER_USER=12345"),
        "{why}"
    );
    let mut bob = Actor::start_with(&path, BOB, &[], &[("BUS_BROKER_USER", "12345")]);
    bob.ok("reach");
    bob.ok("take publisher t");
}

/// A name would have to be asked of a service that may be slow, and the broker's only thread would wait for it.
#[test]
fn a_refusal_names_users_by_their_numbers() {
    if !needs::root() {
        return;
    }
    let host = Host::governed(
        r#"
        [[allow]]
        topics = "t"
        users = [12345, 65534]
        may = ["publish", "subscribe"]
        "#,
    );
    let mut bob = Actor::start(&host.path, BOB, &[]);
    bob.ok("take subscriber t");
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let why = alice.refused("take publisher t", "NotAllowed");
    assert!(
        why.contains("subscribers of user 65534 that could"),
        "{why}"
    );
}

/// In a user namespace all users that have no number there look alike.
#[test]
fn a_client_whose_user_has_no_number_is_nobody_that_a_policy_names() {
    if !needs::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let policy = dir.path().join("bus.toml");
    let rule = "[[allow]]\ntopics = \"t\"\nusers = [65534]\nmay = \"publish\"\n";
    std::fs::write(&policy, rule).unwrap();
    let setup = format!(
        "export BUS_POLICY={}; exec unshare --user --map-root-user \"$0\" --socket \"$1\"",
        policy.display()
    );
    let busd = Busd::start(&dir.path().join("bus.sock"), &setup);
    let mut alice = Actor::start(&busd.path, ALICE, &[]);
    let why = alice.refused("take publisher t", "NotAllowed");
    assert!(
        why.contains("no number in the broker's user namespace"),
        "{why}"
    );
}

const MARKET: &str = r#"
    [[allow]]
    topics = ["market/**"]
    users = [12345]
    may = ["publish"]

    [[allow]]
    topics = ["quotes/**"]
    users = [12345]
    may = ["publish"]
    trust = "in-place"

    [[allow]]
    topics = ["held/**"]
    users = [65534]
    may = ["subscribe"]
    stall = true

    [[allow]]
    topics = ["**"]
    users = [12345]
    may = ["publish", "subscribe"]

    [[allow]]
    topics = ["market/**", "quotes/**"]
    users = [65534]
    may = ["subscribe"]
    "#;

#[test]
fn how_a_publisher_is_read_depends_on_both_users_and_on_its_rule() {
    if !needs::root() {
        return;
    }
    let host = Host::governed(MARKET);
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let mut bob = Actor::start(&host.path, BOB, &[]);
    for (topic, trust) in [("market/eu", "Copy"), ("quotes/eu", "InPlace")] {
        let early = bob.ok(&format!("take subscriber {topic} delivery=lossy"));
        let same = alice.ok(&format!("take subscriber {topic} delivery=lossy"));
        alice.ok(&format!("take publisher {topic} delivery=lossy"));
        let told = bob.tell(&format!("next {early}"));
        assert!(told.starts_with("PublisherJoined"), "{told}");
        assert!(told.contains(&format!("trust: {trust}")), "{told}");
        let told = alice.tell(&format!("next {same}"));
        assert!(told.contains("trust: InPlace"), "{told}");
    }
}

/// Who has a button can break the doorbell.
#[test]
fn a_button_goes_to_processes_of_its_own_user_and_to_no_others() {
    if !needs::root() {
        return;
    }
    let host = Host::governed(&format!(
        "[[allow]]\ntopics = \"t\"\nusers = [{ALICE}, {BOB}]\nmay = [\"publish\", \"subscribe\"]\nstall = true\n"
    ));
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let mut bob = Actor::start(&host.path, BOB, &[]);
    let sides = [
        ("subscriber", "publisher", Role::Publisher),
        ("publisher", "subscriber", Role::Subscriber),
    ];
    for (parks, hears, role) in sides {
        let own = alice.ok(&format!("take {hears} t"));
        let others = bob.ok(&format!("take {hears} t"));
        let brokers = Handle::open(&host.path, role, "t").joined();
        let parked = alice.ok(&format!("take {parks} t"));
        alice.ok(&format!("notify {parked}"));
        // Who has no button asks the broker, who rings.
        bob.ok(&format!("wake {others}"));
        alice.ok(&format!("rung {parked}"));
        // Those who are there, the broker's user among them, hear of it.
        let told_of = |told: String, descriptors: usize| {
            let end = format!("with {descriptors} descriptors");
            assert!(
                told.contains("PeerDoorbell {") && told.ends_with(&end),
                "{told}"
            );
        };
        for (actor, handle, buttons) in [(&mut alice, &own, 1), (&mut bob, &others, 0)] {
            let joined = actor.tell(&format!("next {handle}"));
            assert!(joined.ends_with("with 1 descriptors"), "{joined}");
            told_of(actor.tell(&format!("next {handle}")), buttons);
        }
        brokers.change();
        let (event, descriptors) = brokers.change_told();
        told_of(
            format!("{event:?} with {} descriptors", descriptors.len()),
            0,
        );
        // Those who come later hear of it with its joining.
        for (actor, descriptors) in [(&mut alice, 2), (&mut bob, 1)] {
            let late = actor.ok(&format!("take {hears} t"));
            let early = actor.tell(&format!("early {late}"));
            let end = format!("with {descriptors} descriptors");
            assert!(early.contains("Joined") && early.ends_with(&end), "{early}");
            actor.ok(&format!("give {late}"));
        }
        for handle in [own, parked] {
            alice.ok(&format!("give {handle}"));
        }
        bob.ok(&format!("give {others}"));
    }
}

/// Class 3 of the field notes: a stalled or killed consumer stops every producer.
#[test]
fn a_subscriber_of_another_user_holds_nobody_up_unless_a_rule_says_so() {
    if !needs::root() {
        return;
    }
    let host = Host::governed(MARKET);
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let mut bob = Actor::start(&host.path, BOB, &[]);
    for delivery in ["wait", "fail"] {
        let topic = format!("market/{delivery}");
        let publisher = alice.ok(&format!("take publisher {topic} delivery={delivery}"));
        let why = bob.refused(
            &format!("take subscriber {topic} delivery={delivery}"),
            "NotAllowed",
        );
        assert!(why.contains("stall = true"), "{why}");
        alice.ok(&format!("take subscriber {topic}"));
        alice.ok(&format!("give {publisher}"));
    }
    for (topic, delivery) in [("market/l", "lossy"), ("market/e", "evict:50ms")] {
        alice.ok(&format!("take publisher {topic} delivery={delivery}"));
        bob.ok(&format!("take subscriber {topic} delivery={delivery}"));
    }
    alice.ok("take publisher held/x delivery=wait");
    bob.ok("take subscriber held/x delivery=wait");
    // The broker's own user may.
    let _own = Handle::open(&host.path, Role::Subscriber, "market/wait").joined();
}

#[test]
fn who_may_only_subscribe_gives_way_to_the_first_publisher() {
    if !needs::root() {
        return;
    }
    let host = Host::governed(MARKET);
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let mut bob = Actor::start(&host.path, BOB, &[]);
    // It could hold a publisher up, and may not.
    let stalls = bob.ok("take subscriber market/a delivery=wait");
    alice.ok("take publisher market/a delivery=wait");
    let told = bob.tell(&format!("next {stalls}"));
    assert!(
        told.contains("Refused") && told.contains("stall = true"),
        "{told}"
    );
    // It has opened the topic with other settings.
    let squats = bob.ok("take subscriber market/b depth=64 delivery=lossy");
    alice.ok("take publisher market/b depth=128 delivery=lossy");
    let told = bob.tell(&format!("next {squats}"));
    assert!(
        told.contains("Refused")
            && told.contains("has decided that topic market/b has depth 128")
            && told.contains("this subscriber asked 64"),
        "{told}"
    );
    bob.ok("take subscriber market/b depth=128 delivery=lossy");
    // Who may publish gives way to nobody.
    let _first = host.publisher("market/c");
    let why = alice.refused("take publisher market/c depth=64", "Settings");
    assert!(why.contains("depth"), "{why}");
}

#[test]
fn users_that_publish_side_by_side_hold_each_other_up_only_if_rules_say_so() {
    if !needs::root() {
        return;
    }
    let rule = |topic: &str, stall: bool| {
        format!(
            "[[allow]]\ntopics = \"{topic}\"\nusers = [{ALICE}, {BOB}]\nmay = [\"publish\", \"subscribe\"]\nstall = {stall}\n"
        )
    };
    let host = Host::governed(&(rule("apart", false) + &rule("together", true)));
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    let mut bob = Actor::start(&host.path, BOB, &[]);
    for topic in ["apart", "together"] {
        alice.ok(&format!("take subscriber {topic}"));
        alice.ok(&format!("take publisher {topic}"));
    }
    for role in ["publisher", "subscriber"] {
        let why = bob.refused(&format!("take {role} apart"), "NotAllowed");
        assert!(why.contains("stall = true"), "{why}");
        bob.ok(&format!("take {role} together"));
    }
}

#[test]
fn a_watch_hears_only_of_topics_that_its_user_may_subscribe_to() {
    if !needs::root() {
        return;
    }
    let host = Host::governed(MARKET);
    let _before = host.publisher("secret/before");
    let mut bob = Actor::start(&host.path, BOB, &[]);
    let watch = bob.ok("watch **");
    let _secret = host.publisher("secret/after");
    let mut alice = Actor::start(&host.path, ALICE, &[]);
    alice.ok("take publisher market/eu delivery=wait");
    alice.ok("take publisher quotes/eu delivery=lossy");
    // The first that it hears of, and it holds nobody up there.
    for topic in ["market/eu", "quotes/eu"] {
        let told = bob.tell(&format!("next {watch}"));
        assert!(told.contains(&format!("topic: {topic:?}")), "{told}");
        assert!(told.contains("kept: false"), "{told}");
    }
    // Its own user's topics, and those where it may hold up others, keep a place for it.
    let watch = alice.ok("watch own/*");
    alice.ok("take publisher own/x delivery=wait");
    let told = alice.tell(&format!("next {watch}"));
    assert!(told.contains("kept: true"), "{told}");
    let watch = bob.ok("watch held/*");
    alice.ok("take publisher held/x delivery=wait");
    let told = bob.tell(&format!("next {watch}"));
    assert!(told.contains("kept: true"), "{told}");
}

#[test]
fn sighup_reads_the_policy_again_and_one_with_a_mistake_changes_nothing() {
    if !needs::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (path, file) = (dir.path().join("bus.sock"), dir.path().join("bus.toml"));
    let rule = |topics: &str| {
        format!("[[allow]]\ntopics = \"{topics}\"\nusers = [12345]\nmay = \"publish\"\n")
    };
    std::fs::write(&file, rule("old")).unwrap();
    let mut busd = Busd::start(&path, &format!("export BUS_POLICY='{}'", file.display()));
    let mut alice = Actor::start(&path, ALICE, &[]);
    let old = alice.ok("take publisher old");
    alice.refused("take publisher new", "NotAllowed");

    std::fs::write(&file, rule("new").replace("topics", "topcis")).unwrap();
    busd.signal(Signal::SIGHUP);
    let line = busd.wait_for("unknown key");
    assert!(
        line.contains(&format!("{}:2:1: ", file.display())),
        "{line}"
    );
    assert!(line.contains("did you mean `topics`?"), "{line}");
    busd.wait_for("stays as it was");
    alice.refused("take publisher new", "NotAllowed");

    std::fs::write(&file, rule("new")).unwrap();
    busd.signal(Signal::SIGHUP);
    busd.wait_for("following the policy");
    alice.ok("take publisher new");
    alice.refused("take publisher old", "NotAllowed");
    // Who is there stays.
    let subscriber = Handle::open(&path, Role::Subscriber, "old").joined();
    assert!(matches!(
        subscriber.early[..],
        [Event::PublisherJoined { .. }]
    ));
    let told = alice.tell(&format!("next {old}"));
    assert!(told.starts_with("SubscriberJoined"), "{told}");
}

#[test]
fn systemd_is_told_of_a_reload_and_of_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("bus.sock"), dir.path().join("bus.toml"));
    std::fs::write(&file, "").unwrap();
    let systemd = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    systemd.set_read_timeout(Some(common::LONG)).unwrap();
    let (policy, notify) = (file.display(), dir.path().join("notify"));
    let setup = format!(
        "export BUS_POLICY='{policy}' NOTIFY_SOCKET='{}'",
        notify.display()
    );
    let busd = Busd::start(&path, &setup);
    busd.signal(Signal::SIGHUP);
    let mut heard = String::new();
    while !heard.contains("RELOADING=1") || !heard.ends_with("READY=1\n") {
        let mut packet = [0; 1024];
        let length = systemd.recv(&mut packet).unwrap();
        heard.push_str(std::str::from_utf8(&packet[..length]).unwrap());
        heard.push('\n');
    }
    assert!(heard.contains("RELOADING=1\nMONOTONIC_USEC="), "{heard}");
}

#[test]
fn busd_does_not_start_with_a_policy_that_has_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bus.toml");
    std::fs::write(&file, "[limits]\ntopics = 1\nbyte = 5\n\n[topic]\n").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_busd"))
        .arg("--socket")
        .arg(dir.path().join("bus.sock"))
        .arg("--policy")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for place in [
        ":3:1: unknown key `byte`",
        ":5:1: `topic` is a list of tables",
    ] {
        assert!(said.contains(place), "{said}");
    }
    assert!(!dir.path().join("bus.sock").exists());
}
