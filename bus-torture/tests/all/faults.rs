//! `faults` finds what it is there to find, and nothing else: a few faults of a client, of its session and of a broker, a client that gives up, and one that
//! keeps messages back.
//!
//! Classes of bugs: the broker ends because a call is refused; somebody waits for ever for what was refused; a message is lost by it.

use std::process::{Command, Output};

use serde_json::Value;

fn faults(arguments: &[&str]) -> (Output, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_bus-torture"))
        .args(["faults", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output, json)
}

#[test]
fn a_client_whose_calls_are_refused_goes_on_and_loses_nothing() {
    let (output, json) = faults(&["--of", "publisher", "--of", "subscriber", "--seconds", "6"]);
    assert!(output.status.success(), "{json:#}");
    assert!(json["tried"].as_u64().unwrap() >= 2, "{json:#}");
    assert!(
        json["call_sites.may_fail"].as_u64().unwrap() > 30,
        "{json:#}"
    );
}

#[test]
fn a_broker_whose_calls_are_refused_serves_on() {
    let (output, json) = faults(&["--of", "broker", "--seconds", "6"]);
    assert!(output.status.success(), "{json:#}");
    assert!(json["tried"].as_u64().unwrap() >= 2, "{json:#}");
}

#[test]
fn a_client_that_gives_up_is_found() {
    let (output, json) = faults(&[
        "--of",
        "publisher",
        "--mutant",
        "--seconds",
        "8",
        "--seed",
        "1",
    ]);
    assert_eq!(output.status.code(), Some(1), "{json:#}");
    let found = json["violations"][0].as_str().unwrap();
    assert!(found.contains("done: false"), "{found}");
    assert!(found.contains("--fault"), "{found}");
}

/// Class 17 of the field notes, a restart that drops clients.
#[test]
fn a_client_whose_session_thread_is_refused_calls_goes_from_broker_to_broker() {
    let (output, json) = faults(&["--of", "session", "--seconds", "8"]);
    assert!(output.status.success(), "{json:#}");
    // One life with a fault may take all the time on a busy machine.
    assert!(json["tried"].as_u64().unwrap() >= 1, "{json:#}");
    assert!(
        json["call_sites.may_fail"].as_u64().unwrap() > 10,
        "{json:#}"
    );
}

#[test]
fn a_client_that_keeps_messages_back_is_found() {
    let (output, json) = faults(&["--of", "session", "--mutant", "--seconds", "8"]);
    assert_eq!(output.status.code(), Some(1), "{json:#}");
    let found = json["violations"][0].as_str().unwrap();
    assert!(found.contains("lost: "), "{found}");
}
