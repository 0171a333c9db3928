//! `bus demo`: it ends by itself, with figures; and when a part dies or Ctrl-C comes, with nothing left behind.

use std::fs;
use std::process::Stdio;

use crate::common::{Place, Running, children, state, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The demo, with its directory inside the place.
fn demo(place: &Place, arguments: &[&str]) -> Running {
    let mut command = place.command(&[&["demo"], arguments].concat());
    command.env("TMPDIR", place.dir.path());
    Running::new(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

fn is_empty(place: &Place) -> bool {
    fs::read_dir(place.dir.path()).unwrap().count() == 0
}

/// Whether a process is gone, or is only still there to be asked how it ended.
fn gone(process: u32) -> bool {
    !fs::exists(format!("/proc/{process}/stat")).unwrap() || state(process) == 'Z'
}

#[test]
fn it_measures_all_links_and_ends_in_its_time() {
    let place = Place::new();
    let ended = demo(&place, &["--seconds", "2", "--json"]).end_well();
    let figures: serde_json::Value = serde_json::from_slice(&ended).unwrap();
    for link in ["bus", "unix_sockets", "pipes"] {
        for run in ["paced", "flat_out"] {
            let one = &figures[link][run];
            let figure = |key: &str| one[key].as_f64().unwrap();
            assert!(figure("messages") > 0.0, "{link} {run}: {one}");
            assert!(figure("msgs_per_s") > 0.0, "{link} {run}: {one}");
            assert!(figure("p50_ns") > 0.0, "{link} {run}: {one}");
            assert!(figure("p50_ns") <= figure("p999_ns"), "{link} {run}: {one}");
        }
    }
    assert!(figures["machine"]["cpus"].as_u64().unwrap() > 0);
    assert!(is_empty(&place));
}

#[test]
fn the_table_names_every_link_and_the_machine() {
    let place = Place::new();
    let ended = demo(&place, &["--seconds", "1"]).end_well();
    let text = String::from_utf8(ended).unwrap();
    for part in ["bus", "Unix sockets", "pipes", "p99.9", "CPUs", "queueing"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_part_that_dies_is_named_and_takes_the_others_along() {
    for (at, name) in ["source", "stage", "sink"].into_iter().enumerate() {
        let place = Place::new();
        let demo = demo(&place, &["--seconds", "30"]);
        until("all run", || children(demo.id()).len() == 3);
        let parts = children(demo.id());
        kill(Pid::from_raw(parts[at] as i32), Signal::SIGKILL).unwrap();
        demo.end_badly(1, &format!("the demo's {name}"));
        assert!(parts.into_iter().all(gone));
        assert!(is_empty(&place));
    }
}

#[test]
fn ctrl_c_ends_all_of_it() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let place = Place::new();
        let demo = demo(&place, &["--seconds", "30"]);
        until("all run", || children(demo.id()).len() == 3);
        let parts = children(demo.id());
        demo.signal(signal);
        let ended = demo.end();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""));
        assert!(parts.into_iter().all(gone));
        assert!(is_empty(&place));
    }
}

#[test]
fn parts_die_with_a_demo_that_is_killed() {
    let place = Place::new();
    let demo = demo(&place, &["--seconds", "30"]);
    until("all run", || children(demo.id()).len() == 3);
    let parts = children(demo.id());
    // A part binds its life to the demo's first of all; before that it finds that the demo is gone.
    demo.signal(Signal::SIGKILL);
    demo.end();
    until("they are gone", || parts.iter().copied().all(gone));
}
