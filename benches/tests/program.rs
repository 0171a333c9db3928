//! The program as a user runs it: real processes, real pipes, real kills.

use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_bus-bench"))
}

fn figures(arguments: &[&str]) -> Value {
    let output = program()
        .args(arguments)
        .arg("--json")
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", errors(&output));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn number(figures: &Value, key: &str) -> f64 {
    figures[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no {key} in {figures}"))
}

#[test]
fn latency_compares_with_a_bounced_line() {
    let figures = figures(&[
        "latency",
        "--seconds",
        "0.2",
        "--rounds",
        "1",
        "--subject",
        "stamped",
    ]);
    for key in [
        "floor.p50_ns",
        "floor.p99_ns",
        "floor.p999_ns",
        "stamped.p50_ns",
        "ratio.p50",
    ] {
        assert!(number(&figures, key) > 0.0, "{key}");
    }
}

#[test]
fn throughput_has_a_floor_for_every_shape() {
    for shape in [
        &["--payload", "0"][..],
        &["--payload", "1000", "--batch", "7"],
        &["--subscribers", "2", "--depth", "16"],
        &["--publishers", "2", "--depth", "2"],
        &["--payload", "5000", "--subject", "packed"],
    ] {
        let run = [
            &["throughput", "--seconds", "0.1", "--rounds", "1"][..],
            shape,
        ]
        .concat();
        let figures = figures(&run);
        assert!(number(&figures, "floor.stamped.msgs_per_s") > 0.0);
        assert!(number(&figures, "floor.packed.msgs_per_s") > 0.0);
        if shape.contains(&"5000") {
            assert!(number(&figures, "floor.memcpy_bytes_per_s") > 0.0);
            assert!(number(&figures, "ratio") > 0.0);
        }
    }
}

#[test]
fn every_wake_of_the_bare_futex_is_counted() {
    let figures = figures(&[
        "wake",
        "--seconds",
        "0.2",
        "--rounds",
        "1",
        "--subject",
        "stamped",
    ]);
    // 500 messages: a wake for each, and a sleep before each unless the machine was late.
    assert_eq!(number(&figures, "floor.wake_calls"), 500.0);
    let sleeps = number(&figures, "floor.sleep_calls");
    assert!((100.0..=510.0).contains(&sleeps), "{sleeps} sleeps");
    assert!(number(&figures, "floor.every_500us.p50_ns") > 0.0);
}

#[test]
fn the_minimal_ring_calls_nobody() {
    let figures = figures(&["cost", "--messages", "20000", "--subject", "stamped"]);
    for side in ["publisher", "subscriber"] {
        assert_eq!(
            number(&figures, &format!("floor.{side}.syscalls_per_msg")),
            0.0
        );
        assert_eq!(
            number(&figures, &format!("floor.{side}.allocations_per_msg")),
            0.0
        );
        assert!(number(&figures, &format!("floor.{side}.resident_kib")) > 0.0);
    }
}

#[test]
fn bus_is_measured_in_every_shape() {
    for shape in [
        &["--payload", "0"][..],
        &["--payload", "1000", "--batch", "7"],
        &["--subscribers", "2", "--depth", "16"],
        &["--publishers", "2", "--depth", "2", "--batch", "3"],
        &["--payload", "100000", "--batch", "2"],
    ] {
        let run = [
            &["throughput", "--seconds", "0.1", "--rounds", "1"][..],
            shape,
        ]
        .concat();
        let figures = figures(&run);
        assert!(number(&figures, "bus.msgs_per_s") > 0.0);
        assert!(number(&figures, "ratio") > 0.0);
    }
}

#[test]
fn batching_is_measured_with_and_without() {
    for shape in [
        &["--payload", "8"][..],
        &[
            "--payload",
            "40",
            "--pack",
            "112",
            "--in-slots",
            "--burst",
            "7",
        ],
    ] {
        let run = [
            &["batching", "--seconds", "0.4", "--rounds", "1"][..],
            shape,
        ]
        .concat();
        let figures = figures(&run);
        for key in ["", "single.", "burst."] {
            assert!(number(&figures, &format!("with.{key}p50_ns")) > 0.0);
            assert!(number(&figures, &format!("ratio.{key}p99")) > 0.0);
        }
        assert!(number(&figures, "with.msgs_per_s") > 0.0);
        assert!(number(&figures, "ratio") > 0.0);
        // Every pack is full but the last of the run, and who waits for packs to fill sends no single message.
        let least = if shape.contains(&"40") { 1.9 } else { 120.0 };
        let packed = number(&figures, "always.messages_per_slot");
        assert!(packed > least, "{packed} messages in a slot");
        assert!(number(&figures, "with.messages_per_slot") >= 1.0);
    }
}

#[test]
fn compression_is_measured_with_and_without() {
    // Short messages: unoptimised, long ones take minutes to compress.
    let figures = figures(&[
        "compression",
        "--seconds",
        "0.2",
        "--rounds",
        "1",
        "--payload",
        "64",
    ]);
    // As they are behind a length, or a little shorter.
    let longer = number(&figures, "size_ratio");
    assert!((1.0..=1.125).contains(&longer), "{longer}");
    for key in ["with.msgs_per_s", "without.bytes_per_s", "ratio.p50"] {
        assert!(number(&figures, key) > 0.0, "{key}");
    }
}

#[test]
fn bus_is_woken_at_most_once_a_message() {
    let figures = figures(&[
        "wake",
        "--seconds",
        "0.2",
        "--rounds",
        "1",
        "--spins",
        "0,20",
    ]);
    // 500 messages. A reader that finds one when it has said that it will sleep is woken and does not
    // sleep, so that wakes and sleeps may differ by any number on a busy machine.
    let (wakes, sleeps) = (
        number(&figures, "bus.wake_calls"),
        number(&figures, "bus.sleep_calls"),
    );
    assert!(sleeps > 0.0, "{sleeps} sleeps");
    assert!((1.0..=500.0).contains(&wakes), "{wakes} wakes");
    assert!(number(&figures, "bus.spin_20us.every_50us.p50_ns") > 0.0);
    assert!(number(&figures, "bus.spin_0us.every_5us.cpu") > 0.0);
}

#[test]
fn bus_allocates_nothing_for_a_message_and_joins_are_timed() {
    let figures = figures(&[
        "cost",
        "--messages",
        "20000",
        "--topics",
        "3",
        "--joins",
        "10",
    ]);
    for side in ["publisher", "subscriber"] {
        let key = format!("bus.{side}.allocations_per_msg");
        assert_eq!(number(&figures, &key), 0.0);
    }
    for topics in [1, 3] {
        for key in ["joins_per_s", "join_p99_us", "publisher_join_p50_us"] {
            assert!(number(&figures, &format!("bus.topics_{topics}.{key}")) > 0.0);
        }
        // A ring of 512 KiB at least, a reader, and a registry.
        let segments = number(
            &figures,
            &format!("bus.topics_{topics}.segment_kib_per_topic"),
        );
        assert!(segments >= 512.0, "{segments}");
    }
}

#[test]
fn hand_offs_and_placements_have_their_figures() {
    let run = ["handoff", "--pairs", "3", "--payload", "100000"];
    let handed = figures(&run);
    for key in ["short.p50_ns", "long.p50_ns", "ratio"] {
        assert!(number(&handed, key) > 0.0, "{key}");
    }
    let placed = figures(&["placement", "--rounds", "1", "--trips", "100"]);
    for wish in ["plain", "no_prefault", "huge_pages", "locked", "node_0"] {
        for key in ["publisher_open_us", "first_touch_us_per_mib"] {
            assert!(number(&placed, &format!("{wish}.{key}")) > 0.0, "{wish}");
        }
        assert!(placed[format!("{wish}.report")].is_string(), "{wish}");
    }
    // Both ends of 64 MiB are touched for the first time, unless they were mapped.
    assert!(number(&placed, "no_prefault.first_touch_faults_per_mib") > 1.0);
    assert!(number(&placed, "plain.first_touch_faults_per_mib") < 1.0);
    assert!(number(&placed, "threads_apart.p50_ns") > 0.0);
}

#[test]
fn a_killed_side_fails_the_run_and_leaves_nobody() {
    let mut run = program()
        .args(["throughput", "--seconds", "600", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let children = PathBuf::from(format!("/proc/{0}/task/{0}/children", run.id()));
    // Whoever is first may have ended by itself; somebody is killed at work in the end.
    while let Ok(list) = std::fs::read_to_string(&children) {
        if let Some(victim) = list.split_whitespace().next() {
            let kill = Command::new("kill")
                .args(["-9", victim])
                .stderr(Stdio::null())
                .status();
            assert!(kill.is_ok());
        }
        if run.try_wait().expect("its state").is_some() {
            break;
        }
    }
    let mut text = String::new();
    let mut stderr = run.stderr.take().expect("piped");
    stderr.read_to_string(&mut text).expect("an end");
    assert!(!run.wait().expect("it ends").success());
    assert!(text.contains("signal: 9"), "{text}");
    assert!(!children.exists());
}

#[test]
fn bad_arguments_are_refused_with_a_reason() {
    for (arguments, reason) in [
        (&["throughput", "--depth", "3"][..], "power of two"),
        (
            &["throughput", "--payload", "1048576", "--depth", "4096"],
            "1 GiB",
        ),
        (&["latency", "--seconds", "0"], "more than 0"),
        (&["batching", "--subject", "stamped"], "leave out --subject"),
        (
            &["batching", "--payload", "65536", "--burst", "64"],
            "smaller --burst",
        ),
        (
            &["compression", "--subject", "packed"],
            "leave out --subject",
        ),
        (&["side", "{}"], "for bus-bench itself"),
    ] {
        let output = program()
            .args(arguments)
            .output()
            .expect("the program runs");
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            errors(&output).contains(reason),
            "{arguments:?}: {}",
            errors(&output)
        );
    }
}

#[test]
fn the_sides_die_with_their_parent() {
    let mut run = program()
        .args(["throughput", "--seconds", "600", "--json"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    let children = PathBuf::from(format!("/proc/{0}/task/{0}/children", run.id()));
    let sides: Vec<String> = loop {
        let list = std::fs::read_to_string(&children).expect("the run goes on");
        let sides: Vec<String> = list.split_whitespace().map(str::to_owned).collect();
        if sides.len() == 2 {
            break sides;
        }
    };
    run.kill().expect("killed");
    run.wait().expect("it ends");
    let deadline = Instant::now() + Duration::from_secs(20);
    for side in sides {
        // Gone, or a zombie that nobody has reaped yet.
        while std::fs::read_to_string(format!("/proc/{side}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            assert!(Instant::now() < deadline, "process {side} lives on");
            std::thread::yield_now();
        }
    }
}

#[test]
fn instructions_are_counted_and_a_call_over_its_limit_fails_the_check() {
    let limits = &["instructions", "--call", "nothing"];
    assert!(number(&figures(limits), "nothing") >= 1.0);
    // A debug build takes far more than the limit, which is for release builds.
    if cfg!(debug_assertions) {
        let output = program().args(limits).arg("--check").output();
        let output = output.expect("the program runs");
        assert!(!output.status.success(), "the limit holds nothing");
        let errors = errors(&output);
        assert!(errors.contains("more instructions a message"), "{errors}");
    }
    let output = program().args(["instructions", "--call", "nope"]).output();
    let errors = errors(&output.expect("the program runs"));
    assert!(errors.contains("there is no call nope"), "{errors}");
}
