//! The policy as text: what it decides, and what is wrong with it, at which line and column.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bus_core::control::Trust;
use bus_core::{Delivery, Settings, TopicName};
use bus_daemon::policy::{Limits, Policy, Quota, Right, Source, Subject};

const OWN: u32 = 1000;

fn parse(text: &str) -> Policy {
    Policy::parse(Path::new("bus.toml"), text, OWN).unwrap_or_else(|e| panic!("{e}"))
}

/// All that is wrong with a text, one a line.
fn wrong(text: &str) -> Vec<String> {
    let problems = Policy::parse(Path::new("bus.toml"), text, OWN).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn user(uid: u32) -> Subject {
    Subject {
        uid,
        groups: vec![uid],
    }
}

#[test]
fn without_a_file_the_own_user_may_everything_and_root_nothing() {
    let policy = Policy::own(OWN);
    assert!(policy.knows(&user(OWN)));
    assert!(!policy.serves_others());
    let own = policy.decide(&user(OWN), &topic("t"));
    assert!(Right::ALL.into_iter().all(|right| own.may(right)));
    assert!(own.stall());
    for other in [0, 1001] {
        assert!(!policy.knows(&user(other)));
        let other = policy.decide(&user(other), &topic("t"));
        assert!(!Right::ALL.into_iter().any(|right| other.may(right)));
        assert!(!other.stall());
        assert_eq!(other.trust(), Trust::Copy);
    }
}

#[test]
fn users_groups_and_topics_are_matched_and_the_first_rule_decides() {
    let policy = parse(
        r#"
        [[allow]]
        topics = ["market/*", "logs"]
        users = [1001]
        may = ["publish"]
        trust = "in-place"

        [[allow]]
        topics = ["market/**"]
        users = [1001, "root"]
        groups = [77]
        may = ["publish", "subscribe"]
        stall = true

        [[allow]]
        topics = "**"
        groups = [88]
        may = "observe"
        "#,
    );
    assert!(policy.serves_others());
    let named = user(1001);
    let decision = policy.decide(&named, &topic("market/eu"));
    assert_eq!(decision.rule(Right::Publish).unwrap().line, 2);
    assert_eq!(decision.rule(Right::Subscribe).unwrap().line, 8);
    assert_eq!((decision.trust(), decision.stall()), (Trust::InPlace, true));
    assert!(!decision.may(Right::Observe));
    let deep = policy.decide(&named, &topic("market/eu/x"));
    assert_eq!(
        (deep.rule(Right::Publish).unwrap().line, deep.trust()),
        (8, Trust::Copy)
    );
    assert!(policy.decide(&named, &topic("logs")).may(Right::Publish));
    assert!(!policy.decide(&named, &topic("logs")).may(Right::Subscribe));

    let member = Subject {
        uid: 5,
        groups: vec![3, 77],
    };
    assert!(
        policy
            .decide(&member, &topic("market"))
            .may(Right::Subscribe)
    );
    assert!(!policy.decide(&member, &topic("logs")).may(Right::Publish));
    let observer = Subject {
        uid: 6,
        groups: vec![88],
    };
    let decision = policy.decide(&observer, &topic("any/thing"));
    assert!(decision.may(Right::Observe) && !decision.may(Right::Subscribe));
    assert!(policy.knows(&user(0)), "root is named");
    assert!(!policy.knows(&user(77)) || user(77).groups.contains(&77));
    assert!(
        !policy.knows(&Subject {
            uid: 77,
            groups: vec![]
        }),
        "a group is no user"
    );
}

#[test]
fn a_topic_rule_decides_settings_and_says_what_contradicts_it() {
    let policy = parse(
        r#"
        [[topic]]
        topics = ["market/*"]
        depth = 1024
        delivery = "evict:50ms"
        max_payload = "4K"

        [[topic]]
        topics = ["**"]
        depth = 64
        "#,
    );
    let rule = policy.topic(&topic("market/eu")).unwrap();
    let evict = Delivery::Evict { after_us: 50_000 };
    let asked = Settings {
        keep: Some(8),
        depth: Some(1024),
        ..Settings::default()
    };
    let settings = rule.decide(&asked).unwrap();
    let expected = Settings {
        delivery: Some(evict),
        max_payload: Some(4096),
        ..asked
    };
    assert_eq!(settings, expected);
    let asked = Settings {
        delivery: Some(Delivery::Wait),
        ..Settings::default()
    };
    let conflict = rule.decide(&asked).unwrap_err();
    assert_eq!(
        (conflict.setting, conflict.asked.as_str()),
        ("delivery", "wait")
    );
    assert_eq!(conflict.decided, evict.to_string());
    assert_eq!(
        policy.topic(&topic("other")).unwrap().settings.depth,
        Some(64)
    );
}

#[test]
fn limits_are_for_everybody_but_the_own_user_and_the_first_that_names_somebody_decides() {
    let policy = parse(
        r#"
        [limits]
        connections = 10
        bytes = "1M"

        [[limits.user]]
        users = [1001]
        connections = 20
        registrations = 5

        [[limits.user]]
        users = [77, 1001]
        topics = 0
        "#,
    );
    let other = policy.limits(5);
    assert_eq!(
        (other[Quota::Connections], other[Quota::Bytes]),
        (10, 1 << 20)
    );
    assert_eq!(other[Quota::Topics], Limits::DEFAULT[Quota::Topics]);
    let named = policy.limits(1001);
    assert_eq!(
        (named[Quota::Connections], named[Quota::Registrations]),
        (20, 5)
    );
    assert_eq!(
        named[Quota::Bytes],
        1 << 20,
        "what it leaves open is everybody's"
    );
    assert_eq!(policy.limits(77)[Quota::Topics], 0);
    assert_eq!(policy.limits(OWN), Limits::OWN);
    let all = policy.all_limits();
    assert_eq!(all.line(1001, Quota::Connections), Some(8));
    assert_eq!(all.line(1001, Quota::Bytes), Some(4));
    assert_eq!(all.line(5, Quota::Connections), Some(3));
    assert_eq!(all.line(5, Quota::Topics), None);
}

#[test]
fn every_mistake_is_told_with_line_column_and_what_is_allowed() {
    let problems = wrong(
        "[[allow]]\n\
         topic = [\"market/*\"]\n\
         users = [\"nobody-of-this-name\", -1, 1.5, 4294967295]\n\
         groups = [\"no-such-group\"]\n\
         may = [\"publish\", \"subscibe\"]\n\
         trust = \"inplace\"\n\
         stall = \"no\"\n\
         \n\
         [[topic]]\n\
         topics = [\"Market\", \"a*\", 7]\n\
         depth = 1000\n\
         stride = 65\n\
         max_payload = \"2G\"\n\
         delivery = \"evict\"\n\
         retain = 61\n\
         publishers = 0\n\
         arena = 65\n\
         keep = 0\n\
         \n\
         [limits]\n\
         conections = 5\n\
         bytes = \"lots\"\n\
         topics = -1\n\
         registrations = 0\n\
         \n\
         [[limits.user]]\n\
         segments = 3\n\
         \n\
         [other]\n",
    );
    let expected = [
        ("bus.toml:1:1: ", "[[allow]] has no `topics`"),
        (
            "bus.toml:2:1: ",
            "unknown key `topic` in [[allow]]; did you mean `topics`?; allowed here: topics, users, groups, may, trust, stall",
        ),
        ("bus.toml:3:10: ", "no user \"nobody-of-this-name\""),
        ("bus.toml:3:33: ", "-1 is no user"),
        ("bus.toml:3:37: ", "1.5 is no user"),
        ("bus.toml:3:42: ", "4294967295 is no user"),
        ("bus.toml:4:11: ", "no group \"no-such-group\""),
        (
            "bus.toml:5:19: ",
            "did you mean \"subscribe\"?; allowed here: \"publish\"",
        ),
        ("bus.toml:6:9: ", "\"copy\" or \"in-place\""),
        ("bus.toml:7:9: ", "true or false"),
        ("bus.toml:10:11: ", "Market"),
        ("bus.toml:10:21: ", "whole part"),
        ("bus.toml:10:27: ", "no pattern"),
        ("bus.toml:11:9: ", "power of two"),
        ("bus.toml:12:10: ", "multiple of 64"),
        ("bus.toml:13:15: ", "1 GiB"),
        ("bus.toml:14:12: ", "evict:50ms"),
        ("bus.toml:15:10: ", "0 to 60"),
        ("bus.toml:16:14: ", "1 to 1024"),
        ("bus.toml:17:9: ", "multiple of 64"),
        ("bus.toml:18:8: ", "`keep` is 0"),
        ("bus.toml:21:1: ", "did you mean `connections`?"),
        ("bus.toml:22:9: ", "a number of bytes"),
        ("bus.toml:23:10: ", "`topics` is -1"),
        ("bus.toml:24:17: ", "from 1 a second on"),
        ("bus.toml:26:1: ", "[[limits.user]] has no `users`"),
        ("bus.toml:29:2: ", "unknown key `other` in a policy"),
    ];
    for (at, (place, says)) in expected.iter().enumerate() {
        let told = problems.get(at).map_or("", String::as_str);
        assert!(
            told.starts_with(place) && told.contains(says),
            "{place}{says}, but\n{}",
            problems.join("\n")
        );
    }
    assert_eq!(problems.len(), expected.len(), "{}", problems.join("\n"));
}

#[test]
fn what_cannot_be_read_as_toml_has_a_place_as_well() {
    let problems = wrong("[[allow]]\ntopics = [\"a\"\nusers = 5\n");
    assert!(problems[0].starts_with("bus.toml:"), "{problems:?}");
    assert!(problems[0].contains("no TOML"), "{problems:?}");
    assert!(!problems[0].starts_with("bus.toml:1:1:"), "{problems:?}");
}

#[test]
fn a_rule_that_would_do_nothing_or_cannot_be_is_a_mistake() {
    for (text, says) in [
        (
            "[[allow]]\ntopics = [\"a\"]\nusers = [1]\nmay = [\"subscribe\"]\ntrust = \"in-place\"\n",
            ":5:9: `trust` is about who may publish",
        ),
        (
            "[[allow]]\ntopics = [\"a\"]\nusers = [1]\nmay = [\"publish\"]\nstall = true\n",
            ":5:9: `stall` is about who may subscribe",
        ),
        (
            "[[allow]]\ntopics = []\nusers = [1]\nmay = [\"publish\"]\n",
            ":2:10: `topics` is empty",
        ),
        (
            "[[allow]]\ntopics = [\"a\"]\nusers = [1]\n",
            ":1:1: [[allow]] has no `may`",
        ),
        (
            "[[topic]]\ntopics = [\"a\"]\n",
            ":1:1: [[topic]] has no setting",
        ),
        (
            "[[topic]]\ntopics = [\"a\"]\ndepth = 4\nkeep = 4\n",
            ":1:1: no topic can have all",
        ),
        (
            "[[topic]]\ntopics = [\"a\"]\ndelivery = \"evict:7200s\"\n",
            ":1:1: no topic can have all",
        ),
        ("[allow]\ntopics = [\"a\"]\n", "write [[allow]] above each"),
        ("limits = 5\n", ":1:10: `limits` is a table"),
    ] {
        let problems = wrong(text);
        assert!(
            problems.iter().any(|p| p.contains(says)),
            "{says}, but {problems:?}"
        );
    }
}

#[test]
fn a_file_that_others_may_write_is_no_policy_and_one_that_was_there_must_stay() {
    let own = nix::unistd::geteuid().as_raw();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.toml");
    let mut source = Source::file(&path);
    let error = source.read(own).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
    std::fs::write(&path, "[limits]\ntopics = 3\n").unwrap();
    assert_eq!(
        source.read(own).unwrap().all_limits().default[Quota::Topics],
        3
    );
    for (mode, good) in [(0o666, false), (0o664, true), (0o644, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let read = source.read(own);
        assert_eq!(read.is_ok(), good, "{mode:o}: {read:?}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(source.read(own).is_err());
}
