//! The simulator of the control plane holds, repeats itself, and notices a fault of the engine.

use std::process::Command;

use serde_json::Value;

fn simulate(more: &[&str]) -> (bool, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_bus-torture"))
        .args(["simulate", "--json", "--seed", "7"])
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (output.status.success(), said)
}

#[test]
fn a_simulation_holds_and_repeats_itself() {
    let (held, mut said) = simulate(&["--steps", "40000"]);
    assert!(held, "{said:#}");
    assert!(said["simulate.reclaimed"].as_u64() > Some(100), "{said:#}");
    let (_, mut again) = simulate(&["--steps", "40000"]);
    for run in [&mut said, &mut again] {
        run["seconds"] = Value::Null;
    }
    assert_eq!(said, again);
}

#[test]
fn a_simulation_notices_that_a_newcomer_does_not_wait() {
    let (held, said) = simulate(&["--steps", "40000", "--lie", "GraceIgnored"]);
    let violation = said["violations"][0].as_str().unwrap_or_default();
    assert!(
        !held && violation.contains("before the grace ended"),
        "{said:#}"
    );
    assert!(violation.contains("StartBroker"), "no script: {said:#}");
}
