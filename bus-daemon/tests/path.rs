//! The files at a broker's path are removed, moved or replaced while it runs: clients that come
//! find a broker all the same, and one only.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bus_core::control::{Connection, Event};
use common::{Busd, Handle, until};
use nix::sys::signal::Signal;

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Waits until a broker is at the path, and joins there.
fn join(path: &Path, role: bus_core::control::Role) -> Handle {
    until(|| Connection::connect(path).is_ok());
    Handle::open(path, role, "t").joined()
}

#[test]
fn whatever_is_removed_the_same_broker_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let mut busd = Busd::start(&path, "");
    let files = [path.clone(), beside(&path, ".lock")];
    let publisher = Handle::open(&path, bus_core::control::Role::Publisher, "t").joined();
    for removed in [&files[..1], &files[1..], &files[..]] {
        let inode = fs::metadata(&path).unwrap().ino();
        // In this order another broker could come between.
        for file in removed {
            fs::remove_file(file).unwrap();
        }
        let subscriber = join(&path, bus_core::control::Role::Subscriber);
        if removed.contains(&path) {
            assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
        }
        // They meet, so it is the same broker.
        let event = publisher.change();
        assert!(
            matches!(event, Event::SubscriberJoined { id, .. } if id == subscriber.id),
            "{event:?}"
        );
        let id = subscriber.id;
        drop(subscriber);
        assert_eq!(publisher.change(), Event::SubscriberLeft { id });
        busd.wait_for("listening there again");
        // The next broker is told by the new lock that members may be left.
        let lock = || fs::read_to_string(&files[1]).unwrap_or_default();
        until(|| lock().contains(" open "));
    }
    assert!(busd.child.try_wait().unwrap().is_none());
}

#[test]
fn a_socket_that_was_renamed_or_written_over_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let mut busd = Busd::start(&path, "");
    fs::rename(&path, beside(&path, ".old")).unwrap();
    busd.wait_for("listening there again");
    assert!(Connection::connect(&path).is_ok());
    // A file that is no socket is somebody's: it stays, and the broker takes the path when it is
    // free.
    fs::write(beside(&path, ".file"), "precious").unwrap();
    fs::rename(beside(&path, ".file"), &path).unwrap();
    busd.wait_for("until it can listen again");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    busd.wait_for("listening there again");
    assert!(Connection::connect(&path).is_ok());
}

#[test]
fn a_directory_that_goes_and_comes_again_has_its_broker_again() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = dir.path().join("runtime");
    fs::create_dir(&runtime).unwrap();
    let path = runtime.join("bus.sock");
    let mut busd = Busd::start(&path, "");
    fs::rename(&runtime, dir.path().join("away")).unwrap();
    busd.wait_for("until it can listen again");
    fs::create_dir(&runtime).unwrap();
    busd.wait_for("listening there again");
    assert!(Connection::connect(&path).is_ok());
}

#[test]
fn a_broker_whose_path_another_one_has_taken_ends_and_leaves_that_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let mut first = Busd::start(&path, "");
    first.signal(Signal::SIGSTOP);
    until(|| first.state() == 'T');
    fs::remove_file(&path).unwrap();
    fs::remove_file(beside(&path, ".lock")).unwrap();
    let mut second = Busd::start(&path, "");
    first.signal(Signal::SIGCONT);
    first.wait_for("another broker has come");
    assert!(first.child.wait().unwrap().success());
    assert!(Connection::connect(&path).is_ok());
    assert!(beside(&path, ".lock").exists());
    assert!(second.child.try_wait().unwrap().is_none());
}
