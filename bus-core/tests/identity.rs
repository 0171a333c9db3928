//! Which broker a process trusts where it runs with another identity than usual: with more rights
//! than its caller, or in a user namespace in which not everybody has a number.

use std::env;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bus_core::control::{Connection, SocketPlace, variable};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::unistd::{geteuid, getuid};

const CALLER: u32 = 65534;

/// Not a test of its own: the program that the test makes set-user-id root. It says where it looks
/// for its broker.
#[test]
#[ignore = "is started by the test as a program of its own"]
fn says_its_place() {
    assert_ne!(getuid(), geteuid(), "it is not privileged");
    let place = SocketPlace::find().unwrap();
    println!("\n@place {}", place.path.display());
    println!("@ignored {}", place.ignored.unwrap_or_default());
    println!("@policy {:?}", variable("BUS_POLICY"));
    if let Ok(path) = env::var("TEST_SOCKET") {
        let connected = Connection::connect(path.as_ref()).map(drop);
        println!("@connected {connected:?}");
    }
}

/// Not a test of its own: a false broker, which the test starts as the caller.
#[test]
#[ignore = "is started by the test as a process of its own"]
fn listens() {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::empty(),
        None,
    )
    .unwrap();
    let path = PathBuf::from(env::var_os("TEST_SOCKET").unwrap());
    bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&fd, Backlog::new(8).unwrap()).unwrap();
    println!("\n@listens");
    // Until the test has what it wants to know.
    let _ = std::io::stdin().read(&mut [0]);
}

/// Not a test of its own: connects, and says what came of it.
#[test]
#[ignore = "is started by the test as a process of its own"]
fn connects() {
    let path = PathBuf::from(env::var_os("TEST_SOCKET").unwrap());
    let connected = Connection::connect(&path).map(drop);
    println!("\n@connected {} {connected:?}", geteuid());
}

#[test]
fn where_users_lack_numbers_no_broker_is_taken_for_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    let fd = fd.unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&fd, Backlog::new(8).unwrap()).unwrap();
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["connects", "--exact", "--ignored", "--nocapture"]);
    child.env("TEST_SOCKET", &path);
    // SAFETY: one system call between fork and exec.
    unsafe {
        child.pre_exec(|| Ok(unshare(CloneFlags::CLONE_NEWUSER)?));
    }
    let said = match child.output() {
        Ok(said) => String::from_utf8(said.stdout).unwrap(),
        Err(error) => {
            println!("skipped: this user can have no user namespace: {error}");
            return;
        }
    };
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("@connected "));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(line.starts_with("65534 "), "{line}");
    assert!(
        line.contains("has no number in this user namespace"),
        "{line}"
    );
}

/// A part of this program, played by the caller.
fn as_caller(program: &Path, part: &str) -> Command {
    let mut command = Command::new(program);
    command.args([part, "--exact", "--ignored", "--nocapture"]);
    command.uid(CALLER).gid(CALLER);
    command
}

#[test]
fn a_set_user_id_program_reads_neither_place_nor_broker_from_its_callers_environment() {
    if !geteuid().is_root() {
        println!("skipped: only root can make a program set-user-id root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    // The caller's own broker, and a directory of its own.
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let socket = theirs.join("bus.sock");
    chown(&theirs, Some(CALLER), None).unwrap();
    let plain = dir.path().join("plain");
    fs::copy(env::current_exe().unwrap(), &plain).unwrap();
    fs::set_permissions(&plain, Permissions::from_mode(0o755)).unwrap();
    let mut listener = as_caller(&plain, "listens")
        .env("TEST_SOCKET", &socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let heard = BufReader::new(listener.stdout.take().unwrap()).lines();
    assert!(heard.map_while(Result::ok).any(|line| line == "@listens"));

    let program = dir.path().join("program");
    fs::copy(&plain, &program).unwrap();
    chown(&program, Some(0), Some(0)).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    let said = as_caller(&program, "says_its_place")
        .env("BUS_SOCKET", &socket)
        .env("XDG_RUNTIME_DIR", &theirs)
        .env("TMPDIR", &theirs)
        .env("BUS_BROKER_USER", CALLER.to_string())
        .env("BUS_POLICY", theirs.join("bus.toml"))
        .env("TEST_SOCKET", &socket)
        .output()
        .unwrap();
    listener.kill().unwrap();
    listener.wait().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    let part = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name:?} in: {said}"))
    };
    assert!(
        !part("@place ").starts_with(theirs.to_str().unwrap()),
        "{said}"
    );
    assert!(
        part("@ignored ").contains("more rights than its caller"),
        "{said}"
    );
    assert_eq!(part("@policy "), "None");
    assert!(
        part("@connected ").contains("belongs to user 65534"),
        "{said}"
    );
}
