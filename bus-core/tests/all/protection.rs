//! Only a ring's creator can write to it, shown with real processes: the kernel kills a subscriber that stores
//! through its mapping, and refuses every other way to a writable one.
//!
//! A child is this test program again, with the ring as its standard input and one ignored test to run.

use std::io::{pipe, stdin};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::ptr::null_mut;

use bus_core::TopicSettings;
use bus_core::memory::layout::PAGE;
use bus_core::memory::registry::Registry;
use bus_core::memory::ring_bytes;
use bus_core::memory::segment::{self, Kind};
use bus_core::publish::Publisher;
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::ftruncate;

use crate::common::{self, Topic, full_name, mapping};

fn settings() -> TopicSettings {
    common::settings(4, 64, 200, 1, 0)
}

/// Runs an ignored test of this file in a process of its own, which is handed `segment`.
fn child(test: &str, segment: BorrowedFd<'_>) -> Output {
    let segment: OwnedFd = segment.try_clone_to_owned().unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &full_name(module_path!(), test)])
        .args(["--ignored", "--nocapture"])
        .stdin(Stdio::from(segment))
        .output()
        .unwrap()
}

/// A segment's descriptor, as a child was handed it.
fn handed() -> OwnedFd {
    stdin().as_fd().try_clone_to_owned().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_store_through_a_subscribers_mapping_faults_and_harms_nobody() {
    let mut topic = Topic::new(settings());
    let reader = topic.joined(1);
    topic.publisher.try_send_bytes(b"whole").unwrap().unwrap();
    let output = child("store_at_a_ring", topic.publisher.fd());
    let shown = text(&output);
    assert!(shown.contains("read 1, will store"), "{shown}");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{shown}");
    assert_eq!(reader.poll().unwrap().unwrap().bytes(), b"whole");
    topic.publisher.try_send_bytes(b"more").unwrap().unwrap();
    assert_eq!(reader.poll().unwrap().unwrap().bytes(), b"more");
}

#[test]
#[ignore = "the child of a_store_through_a_subscribers_mapping_faults_and_harms_nobody"]
fn store_at_a_ring() {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
    let fd = handed();
    let _mapping = segment::open(&fd, Kind::Ring, ring_bytes(&settings())).unwrap();
    assert_eq!(mapping(&fd, "rw-s"), None);
    let (base, _) = mapping(&fd, "r--s").unwrap();
    let commit = (base + PAGE) as *mut u64;
    // SAFETY: the address is that of the first slot's stamp, mapped above and aligned.
    println!("read {}, will store", unsafe { commit.read_volatile() });
    // SAFETY: as above; that the kernel does not allow it is what this shows.
    unsafe { commit.write_volatile(77) };
    println!("stored");
}

#[test]
fn a_store_through_a_publishers_mapping_of_a_reader_faults() {
    let topic = Topic::new(settings());
    let reader = topic.subscriber(std::sync::Arc::new(()));
    let output = child("store_at_a_cursor", reader.fd());
    let shown = text(&output);
    assert!(shown.contains("adopted, will store"), "{shown}");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{shown}");
}

#[test]
#[ignore = "the child of a_store_through_a_publishers_mapping_of_a_reader_faults"]
fn store_at_a_cursor() {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
    let fd = handed();
    let registry = Registry::create().unwrap();
    let mut publisher = Publisher::create(&settings(), &registry.fd(), 0).unwrap();
    publisher.adopt(1, &fd).unwrap();
    let (base, end) = mapping(&fd, "r--s").unwrap();
    assert_eq!(end - base, PAGE);
    println!("adopted, will store");
    // SAFETY: the address is within the page mapped above; that the kernel does not allow it is what this shows.
    unsafe { ((base + common::cursor_offset(0)) as *mut u64).write_volatile(77) };
    println!("stored");
}

#[test]
fn every_way_to_a_writable_mapping_is_refused() {
    let topic = Topic::new(settings());
    let output = child("try_to_get_a_writable_mapping", topic.publisher.fd());
    let shown = text(&output);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("every way was refused"), "{shown}");
}

#[test]
#[ignore = "the child of every_way_to_a_writable_mapping_is_refused"]
fn try_to_get_a_writable_mapping() {
    let fd = handed();
    let bytes = ring_bytes(&settings());
    let _mapping = segment::open(&fd, Kind::Ring, bytes).unwrap();
    let (base, _) = mapping(&fd, "r--s").unwrap();
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the pages belong to the mapping above, which nothing else uses.
    let upgraded = unsafe { libc::mprotect(base as *mut _, PAGE, writable) };
    assert_eq!((upgraded, Errno::last()), (-1, Errno::EACCES));
    // A descriptor of one's own, as for a file, is no way round either.
    let reopened = std::fs::File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .unwrap();
    for fd in [fd.as_fd(), reopened.as_fd()] {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let new = unsafe {
            let length = bytes as usize;
            libc::mmap(
                null_mut(),
                length,
                writable,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        assert_eq!((new, Errno::last()), (libc::MAP_FAILED, Errno::EPERM));
        assert_eq!(nix::unistd::write(fd, b"x"), Err(Errno::EPERM));
        assert_eq!(ftruncate(fd, 0), Err(Errno::EPERM));
        assert_eq!(ftruncate(fd, 1 << 20), Err(Errno::EPERM));
    }
    println!("every way was refused");
}

#[test]
fn a_message_of_a_killed_publisher_stays_readable_and_half_a_message_is_not_seen() {
    let topic = Topic::new(settings());
    let reader = topic.subscriber(std::sync::Arc::new(()));
    // The child's ring comes back through its own standard input: it is read from its descriptors.
    let (ready, says_ready) = pipe().unwrap();
    let mut publisher = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &full_name(module_path!(), "publish_one_and_a_half"),
        ])
        .args(["--ignored", "--nocapture"])
        .stdin(Stdio::from(
            topic.registry.fd().try_clone_to_owned().unwrap(),
        ))
        .stderr(Stdio::from(OwnedFd::from(says_ready)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ring = common::told_descriptor(ready, publisher.id());
    reader
        .attach(
            9,
            3,
            &ring,
            bus_core::receive::Start::First,
            bus_core::control::Trust::InPlace,
        )
        .unwrap();
    publisher.kill().unwrap();
    let status = publisher.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    let message = reader.poll().unwrap().unwrap();
    assert_eq!(message.bytes(), common::payload(0, 150));
    assert!(reader.poll().unwrap().is_none());
    assert_eq!(reader.ends().count(), 0);
    reader.end(9);
    assert_eq!(reader.ends().collect::<Vec<_>>(), [9]);
}

#[test]
#[ignore = "the child of a_message_of_a_killed_publisher_stays_readable_and_half_a_message_is_not_seen"]
fn publish_one_and_a_half() {
    let mut publisher = Publisher::create(&settings(), &handed(), 3).unwrap();
    assert_eq!(publisher.stale(), None);
    let whole = common::payload(0, 150);
    publisher.try_send_bytes(&whole).unwrap().unwrap();
    let ring = publisher.fd().as_raw_fd();
    let mut half = publisher.try_loan(150).unwrap().unwrap();
    half.bytes()[..75].fill(1);
    eprintln!("ring {ring}");
    // Until it is killed.
    loop {
        std::thread::park();
    }
}
