//! The gate itself: it notices a weak ordering, a missing fence and a missing wake-up, and counts nothing else as a kill.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loom-tests"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

#[test]
fn a_model_passes_as_it_is() {
    let output = run(&["check", "end.close-after-batch"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_weak_ordering_fails_a_model() {
    for site in [
        "close.state",
        "receive.state",
        "publish.commit",
        "receive.commit",
    ] {
        let output = run(&["check", "end.close-after-batch", "--mutant", site]);
        assert_eq!(output.status.code(), Some(1), "{site}: {output:?}");
    }
}

#[test]
fn a_missing_fence_loses_a_wake_up() {
    for site in ["publish.fence", "sleep.reader.fence"] {
        let output = run(&["check", "end.wakes-sleeper", "--mutant", site]);
        assert_eq!(output.status.code(), Some(1), "{site}: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("deadlock"), "{site}: {said}");
    }
}

#[test]
fn a_missing_wake_up_is_a_deadlock() {
    for (model, wake_up) in [
        ("end.wakes-sleeper", "close.wakes"),
        ("join.wakes-parked-for-room", "join.wakes"),
        ("evict.wakes-for-window", "slide.wakes"),
    ] {
        let output = run(&["check", model, "--mutant", wake_up]);
        assert_eq!(output.status.code(), Some(1), "{wake_up}: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("deadlock"), "{wake_up}: {said}");
    }
}

#[test]
fn a_model_without_time_is_neither_passed_nor_failed() {
    let output = run(&["check", "publish.content", "--limit", "0"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn an_unknown_mutant_is_an_error_that_names_the_mutants() {
    let output = run(&["mutants", "--mutant", "no.such.mutant"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("publish.commit"), "{said}");
    assert!(said.contains("leave.bell"), "{said}");
}
