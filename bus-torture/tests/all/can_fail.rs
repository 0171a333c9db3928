//! Each command fails where a process of it plays what a broken bus would do, and holds where none does.
//!
//! Classes of bugs that this is to catch: a check that checks nothing.

use std::process::Command;

use serde_json::Value;

/// Runs a command for a while with a fixed seed; whether it held, and all that it printed.
fn torture(arguments: &[&str], lie: Option<&str>) -> (bool, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bus-torture"));
    command.args(arguments).args(["--json", "--seed", "7"]);
    if let Some(lie) = lie {
        command.args(["--lie", lie]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!(
            "{error}: {text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    assert_eq!(json["held"].as_bool(), Some(output.status.success()));
    (output.status.success(), json)
}

fn holds(arguments: &[&str]) {
    let (held, json) = torture(arguments, None);
    assert!(held, "{json:#}");
}

/// Fails, and says so with these words.
fn notices(arguments: &[&str], lie: &str, words: &str) {
    let (held, json) = torture(arguments, Some(lie));
    let violations = json["violations"].as_array().unwrap();
    let told = |violation: &Value| violation.as_str().unwrap().contains(words);
    assert!(
        !held && violations.iter().any(told),
        "{lie}: no {words:?} in {json:#}"
    );
}

const STOPS: [&str; 3] = ["stops", "--seconds", "4"];

#[test]
fn stops_hold() {
    holds(&STOPS);
}

#[test]
fn stops_notice_a_message_that_is_lost_doubled_or_changed() {
    notices(&STOPS, "drop", "was due: lost unsaid");
    notices(&STOPS, "double", "was due: lost unsaid, or doubled");
    notices(&STOPS, "corrupt", "checksum");
}

#[test]
fn stops_notice_that_the_last_message_is_lost() {
    notices(&STOPS, "tail", "end at");
}

#[test]
fn stops_notice_who_is_evicted_without_a_long_stop_or_never_goes_on() {
    notices(&STOPS, "evicted", "was evicted, though");
    notices(&STOPS, "hang", "does not go on");
}

const SOAK: [&str; 4] = ["soak", "--no-restarts", "--seconds", "12"];

#[test]
fn soak_holds() {
    holds(&SOAK);
}

#[test]
fn soak_notices_a_message_that_is_lost() {
    notices(&SOAK, "drop", "was due: lost unsaid");
}

#[test]
fn soak_notices_a_descriptor_that_leaks() {
    notices(&SOAK, "leak", "in a lull");
}

#[test]
fn soak_notices_memory_that_grows() {
    notices(&SOAK, "grow", "its memory grew");
}

#[test]
fn soak_notices_a_member_that_is_stale() {
    notices(&SOAK, "stale", "and nobody else");
}

const RESTARTS: [&str; 6] = [
    "restarts",
    "--kind",
    "busd",
    "--count",
    "30",
    "--seconds=60",
];

#[test]
fn restarts_notice_a_message_that_is_lost_or_doubled() {
    notices(&RESTARTS, "drop", "was due: lost unsaid");
    notices(&RESTARTS, "double", "was due: lost unsaid, or doubled");
}

#[test]
fn restarts_notice_a_member_that_is_stale() {
    notices(&RESTARTS, "stale", "and nobody else");
}
