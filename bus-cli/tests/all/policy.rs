//! `bus policy`, through the real binary.

use std::path::PathBuf;
use std::process::Stdio;

use crate::common::{Ended, Place, Running};

const POLICY: &str = r#"[[allow]]
topics = ["market/**"]
users = [1001]
may = ["publish"]
trust = "in-place"

[[allow]]
topics = ["market/**", "quotes/*"]
users = [1001, 1002]
may = ["subscribe", "observe"]
stall = true

[[topic]]
topics = ["market/*"]
depth = 1024
delivery = "evict:50ms"

[limits]
connections = 64
bytes = "256M"

[[limits.user]]
users = [1002]
topics = 3
"#;

struct Written {
    place: Place,
    file: PathBuf,
}

fn write(policy: &str) -> Written {
    let place = Place::new();
    let file = place.dir.path().join("bus.toml");
    std::fs::write(&file, policy).unwrap();
    Written { place, file }
}

impl Written {
    fn run(&self, arguments: &[&str]) -> Ended {
        self.place.start(arguments).end()
    }

    fn file(&self) -> &str {
        self.file.to_str().unwrap()
    }
}

/// The words of the line that starts with this one.
fn row<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found = lines.filter(|words| words.first() == Some(&first));
    found
        .next()
        .unwrap_or_else(|| panic!("no {first} in\n{text}"))
}

#[test]
fn check_says_what_a_good_policy_means() {
    let written = write(POLICY);
    let ended = written.run(&["policy", "check", written.file()]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let said = String::from_utf8(ended.stdout).unwrap();
    assert!(
        said.starts_with(&format!("{}: no mistakes\n", written.file())),
        "{said}"
    );
    assert_eq!(
        row(&said, "1"),
        ["1", "1001", "publish", "market/**", "in-place", "-"]
    );
    let second = [
        "7",
        "1001,",
        "1002",
        "subscribe,",
        "observe",
        "market/**,",
        "quotes/*",
        "-",
        "yes",
    ];
    assert_eq!(row(&said, "7"), second);
    let settings = [
        "13", "market/*", "depth", "1024,", "delivery", "evict", "after", "50000", "us",
    ];
    assert_eq!(row(&said, "13"), settings);
    assert_eq!(
        row(&said, "22"),
        [
            "22", "1002", "64", "512", "512", "3", "1024", "256M", "4096", "500/s"
        ]
    );
}

#[test]
fn check_tells_every_mistake_a_line_each_and_fails() {
    let written = write("[[allow]]\ntopic = [\"a\"]\nusers = [1]\nmay = [\"publish\"]\n[limit]\n");
    let ended = written.run(&["policy", "check", written.file()]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.is_empty());
    let lines: Vec<_> = ended.stderr.lines().collect();
    for (line, says) in lines.iter().zip([
        ":1:1: [[allow]] has no `topics`",
        ":2:1: unknown key `topic` in [[allow]]; did you mean `topics`?",
        ":5:2: unknown key `limit` in a policy; did you mean `limits`?",
    ]) {
        assert!(
            line.starts_with(&format!("{}{says}", written.file())),
            "{line}"
        );
    }
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[test]
fn a_file_that_is_not_there_is_an_error_that_names_it() {
    let place = Place::new();
    place
        .start(&["policy", "check", "/nowhere/bus.toml"])
        .end_badly(1, "/nowhere/bus.toml");
    // So is the one of the environment.
    for arguments in [&["policy", "check"][..], &["policy", "explain", "0", "t"]] {
        let mut command = place.command(arguments);
        command.env("BUS_POLICY", "/nowhere/else.toml");
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::new(command).end_badly(1, "/nowhere/else.toml");
    }
}

#[test]
fn explain_names_the_rule_that_decides_each_thing() {
    let written = write(POLICY);
    let explain = |user: &str, topic: &str| {
        let ended = written.run(&["policy", "explain", user, topic, "--policy", written.file()]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        String::from_utf8(ended.stdout).unwrap()
    };
    let at = |line: u32| format!("{}:{line}", written.file());
    let said = explain("1001", "market/eu");
    for (first, what, because) in [
        ("publish", "yes", at(1)),
        ("subscribe", "yes", at(7)),
        ("observe", "yes", at(7)),
        ("trust", "in-place", at(1)),
        ("stall", "yes", at(7)),
        ("depth", "1024", at(13)),
        ("connections", "64", at(19)),
    ] {
        assert_eq!(row(&said, first), [first, what, because.as_str()]);
    }
    let said = explain("1002", "quotes/eu");
    assert_eq!(row(&said, "publish")[..2], ["publish", "no"]);
    assert_eq!(row(&said, "subscribe")[..2], ["subscribe", "yes"]);
    assert!(
        !said.lines().any(|line| line.starts_with("trust")),
        "{said}"
    );
    assert!(
        !said.lines().any(|line| line.starts_with("depth")),
        "{said}"
    );
    assert_eq!(row(&said, "topics"), ["topics", "3", at(24).as_str()]);
    // Root runs this broker, and then it does not.
    assert_eq!(row(&explain("0", "x"), "publish")[..2], ["publish", "yes"]);
    let other = [
        "policy",
        "explain",
        "0",
        "x",
        "--broker",
        "1002",
        "--policy",
        written.file(),
    ];
    let said = String::from_utf8(written.run(&other).stdout).unwrap();
    assert_eq!(row(&said, "publish")[..2], ["publish", "no"]);
}

#[test]
fn explain_says_what_is_wrong_with_its_arguments() {
    let place = Place::new();
    place
        .start(&["policy", "explain", "no-such-user", "t"])
        .end_badly(1, "no user \"no-such-user\"");
    place
        .start(&["policy", "explain", "0", "Bad"])
        .end_badly(2, "[a-z0-9_.-]");
}

#[test]
fn help_has_examples() {
    let place = Place::new();
    for command in ["check", "explain"] {
        let ended = place.start(&["policy", command, "--help"]).end();
        let said = String::from_utf8(ended.stdout).unwrap();
        assert!(said.contains("Examples:\n  bus policy"), "{said}");
    }
}
