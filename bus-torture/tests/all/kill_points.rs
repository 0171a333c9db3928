//! `kill-points` finds what it is there to find, and nothing else: a few points of some operations, and a victim that breaks the protocol.
//!
//! Classes of bugs: a producer dies between claiming and publishing; a reader gets half a message; a member that is gone gates for ever.

use std::process::{Command, Output};

use serde_json::Value;

fn kill_points(arguments: &[&str]) -> (Output, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_bus-torture"))
        .args(["kill-points", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output, json)
}

#[test]
fn a_publisher_killed_at_any_instruction_leaves_a_whole_message_or_none() {
    let operations = ["--op", "publish-inline", "--op", "publish-batch"];
    let (output, json) = kill_points(&[&operations[..], &["--every", "200"]].concat());
    assert!(output.status.success(), "{json:#}");
    assert!(json["tried"].as_u64().unwrap() >= 4, "{json:#}");
    assert!(
        json["publish-batch.points"].as_u64().unwrap() > 1_000,
        "{json:#}"
    );
}

#[test]
fn a_subscriber_killed_at_any_instruction_gates_nobody() {
    let operations = ["--op", "hold", "--op", "leave-subscriber"];
    let (output, json) = kill_points(&[&operations[..], &["--every", "2000"]].concat());
    assert!(output.status.success(), "{json:#}");
    assert!(json["tried"].as_u64().unwrap() >= 4, "{json:#}");
}

/// The stamp stands before the payload, for a while.
#[test]
fn a_message_published_before_it_is_there_is_found() {
    let arguments = [
        "--op",
        "publish-inline",
        "--mutant",
        "--every",
        "40",
        "--seed",
        "1",
    ];
    let (output, json) = kill_points(&arguments);
    assert_eq!(output.status.code(), Some(1), "{json:#}");
    let found = json["violations"][0].as_str().unwrap();
    assert!(found.contains("is not whole"), "{found}");
    assert!(found.contains("--point"), "{found}");
}
