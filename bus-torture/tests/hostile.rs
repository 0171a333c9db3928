//! `bus-torture hostile` holds, and it can fail: an honest side that is broken on purpose is noticed.
//!
//! It is a program of its own, because it takes all the descriptors that its user may have in flight.

use std::process::Command;

use serde_json::Value;

/// Runs it; whether it held, and what it says.
fn hostile(arguments: &[&str]) -> (bool, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_bus-torture"))
        .args(["hostile", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    (output.status.success(), said)
}

/// Class 16 of the field notes: a value from shared memory used as divisor, index, length or allocation size.
#[test]
fn words_that_a_peer_writes_harm_nobody() {
    let (held, said) = hostile(&["--lane", "fast", "--mutations", "1000000"]);
    assert!(held, "{said:#}");
    let count = |key: &str| said[key].as_u64().unwrap();
    assert!(count("fast.mutations") >= 1_000_000 && count("fast.looks") > 50_000);
    assert!(count("fast.honest_right") > 10_000 && count("fast.hostile_messages") > 10_000);
    assert!(count("fast.hostile_values_valid") > 100 && count("fast.rests") > 100);
}

/// What it says of an honest side that is broken.
fn broken(how: &str) -> String {
    let plan = ["--lane", "fast", "--mutations", "2000000", "--seed", "1"];
    let mut plan = plan.to_vec();
    plan.extend(["--patience", "5", "--broken", how]);
    let (held, said) = hostile(&plan);
    assert!(!held, "{how} is not noticed: {said:#}");
    said["violations"].to_string()
}

#[test]
fn a_message_that_holds_something_else_is_noticed_and_said_how_to_see_again() {
    let why = broken("content");
    assert!(why.contains("something else than was sent"), "{why}");
    assert!(why.contains("--seed 1 --episode"), "{why}");
}

#[test]
fn a_message_out_of_order_is_noticed() {
    let why = broken("order");
    assert!(why.contains("expected"), "{why}");
}

/// Class 3 of the field notes: one subscriber stops every publisher.
#[test]
fn a_publisher_that_stops_is_noticed() {
    let why = broken("stall");
    assert!(why.contains("room") || why.contains("not evicted"), "{why}");
}

#[test]
fn a_crash_is_noticed() {
    let why = broken("crash");
    assert!(why.contains("crashed") && why.contains("SIGABRT"), "{why}");
}

#[test]
fn a_hang_is_noticed() {
    let why = broken("hang");
    assert!(why.contains("hangs"), "{why}");
}

#[test]
fn a_process_that_grows_is_noticed() {
    let why = broken("growth");
    assert!(why.contains("grew from"), "{why}");
}

/// Class 17 of the field notes: the daemon exits, or stops, because of what one client does.
#[test]
fn clients_that_say_what_they_like_stop_nobody() {
    let (held, said) = hostile(&["--lane", "control", "--seconds", "9"]);
    assert!(held, "{said:#}");
    assert!(said["control.messages"].as_u64().unwrap() > 500, "{said:#}");
    assert!(
        said["control.lingering.messages"].as_u64().unwrap() > 0,
        "{said:#}"
    );
}

/// Classes 3, 10, 16 and 21 of the field notes, with real processes: who lies stops nobody, misleads nobody, and keeps nobody busy.
#[test]
fn a_process_that_lies_among_honest_ones_harms_nobody() {
    let (held, said) = hostile(&["--lane", "live", "--seconds", "10"]);
    assert!(held, "{said:#}");
    for key in [
        "live.mutations",
        "live.lossy.honest_messages",
        "live.wait.honest_messages",
    ] {
        assert!(said[key].as_u64().unwrap() > 1000, "{key}: {said:#}");
    }
}

#[test]
fn a_wrong_message_between_processes_is_noticed() {
    let (held, said) = hostile(&["--lane", "live", "--seconds", "4", "--broken", "content"]);
    assert!(!held, "{said:#}");
    let why = said["violations"].to_string();
    assert!(why.contains("something else than was sent"), "{why}");
}

/// The kernel keeps other users out, and everybody from the segments of others. Run as root, it asks with a real other user.
#[test]
fn another_user_reaches_nothing() {
    let (held, said) = hostile(&["--lane", "users"]);
    assert!(held, "{said:#}");
    assert!(said["users.tried"].as_u64().unwrap() > 60, "{said:#}");
}
