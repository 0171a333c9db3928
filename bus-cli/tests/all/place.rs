//! Which bus a command uses, and what it says of that.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Place, Running, state, until};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

/// `bus` with nothing in its environment that says where the bus is, but a temporary directory.
fn bare(tmp: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bus"));
    command.args(arguments);
    command
        .env_remove("BUS_SOCKET")
        .env_remove("XDG_RUNTIME_DIR");
    command.env("TMPDIR", tmp).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn directory(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    path
}

/// What a command writes, and its exit code.
fn said(command: &mut Command) -> (Option<i32>, String, String) {
    let ended = Running::new(command).end();
    (
        ended.code,
        String::from_utf8(ended.stdout).unwrap(),
        ended.stderr,
    )
}

#[test]
fn where_names_the_path_the_reason_and_the_process() {
    let place = Place::new();
    let look = || {
        let ended = place.start(&["where"]).end();
        assert_eq!(ended.stderr, "");
        (ended.code, String::from_utf8(ended.stdout).unwrap())
    };
    let path = format!(
        "path    {}\nwhy     BUS_SOCKET names it\n",
        place.socket().display()
    );
    let (code, text) = look();
    assert_eq!(code, Some(1));
    assert!(text.starts_with(&path) && text.contains("none: "), "{text}");
    assert_eq!(
        fs::read_dir(place.dir.path()).unwrap().count(),
        0,
        "it starts nothing"
    );

    let host = place.start(&["sub", "raw"]);
    until("it hosts the broker", || place.socket().exists());
    let (code, text) = look();
    assert_eq!(code, Some(0), "{text}");
    let process = format!("broker  process {} (bus), user ", host.id());
    assert!(text.starts_with(&path) && text.contains(&process), "{text}");

    host.signal(Signal::SIGSTOP);
    until("it is stopped", || state(host.id()) == 'T');
    let (code, text) = look();
    assert_eq!(code, Some(1));
    let process = format!("none: process {} (bus) hosts the broker there", host.id());
    assert!(
        text.contains(&process) && text.contains("it is stopped"),
        "{text}"
    );
}

#[test]
fn a_command_says_that_this_user_has_another_bus() {
    let place = Place::new();
    let tmp = directory(place.dir.path(), "tmp");
    let runtime = directory(place.dir.path(), "runtime");
    let other = directory(&tmp, &format!("bus-{}", geteuid())).join("bus.sock");
    let mut host = bare(&tmp, &["sub", "raw"]);
    let _host = Running::new(host.env("BUS_SOCKET", &other));
    until("it hosts the broker", || other.exists());

    let own = runtime.join("bus.sock");
    let mut sub = bare(&tmp, &["sub", "--count", "0", "raw"]);
    let (code, _, warned) = said(sub.env("XDG_RUNTIME_DIR", &runtime));
    assert_eq!(code, Some(0), "{warned}");
    for part in [&other, &own] {
        assert!(warned.contains(part.to_str().unwrap()), "{warned}");
    }
    let mut found = bare(&tmp, &["where"]);
    let (_, found, _) = said(found.env("XDG_RUNTIME_DIR", &runtime));
    assert!(
        found.contains(&format!("other   {}", other.display())),
        "{found}"
    );
    // A path that was named is what was wanted.
    let mut sub = bare(&tmp, &["sub", "--count", "0", "raw"]);
    let (_, _, warned) = said(sub.env("BUS_SOCKET", &own));
    assert_eq!(warned, "");
}

#[test]
fn the_runtime_directory_of_another_user_is_not_used() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: this test needs root, to give a directory away");
        return;
    }
    let place = Place::new();
    let tmp = directory(place.dir.path(), "tmp");
    let runtime = directory(place.dir.path(), "runtime");
    chown(&runtime, Some(65534), None).unwrap();
    for arguments in [&["where"][..], &["sub", "--count", "0", "raw"]] {
        let mut command = bare(&tmp, arguments);
        let (_, found, warned) = said(command.env("XDG_RUNTIME_DIR", &runtime));
        let why = "is not used: it belongs to user 65534, and this is user 0";
        assert!(
            found.contains(why) || warned.contains(why),
            "{found}{warned}"
        );
    }
    assert_eq!(fs::read_dir(&runtime).unwrap().count(), 0);
}
