//! `busd` under a service manager that binds its socket, hears what it says, and keeps its descriptors over restarts. The manager is this test: small, and real.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{Greeting, Handle, Session, small};
use bus_core::Settings;
use bus_core::control::{Connection, Event, Request, Role, SESSION};
use bus_core::schema::Schema;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind,
    listen, recvmsg, socket,
};

/// Longest notification.
const LONGEST: usize = 4096;

struct Manager {
    dir: tempfile::TempDir,
    path: PathBuf,
    listener: Option<OwnedFd>,
    notify: OwnedFd,
    /// What it keeps, by name.
    store: HashMap<String, OwnedFd>,
    busd: Child,
}

fn bound(path: &Path, kind: SockType) -> OwnedFd {
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    fd
}

impl Manager {
    fn new(activate: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let notify = bound(&dir.path().join("notify"), SockType::Datagram);
        let listener = activate.then(|| {
            let listener = bound(&path, SockType::SeqPacket);
            listen(&listener, Backlog::new(16).unwrap()).unwrap();
            listener
        });
        let busd = spawn(&path, &dir, listener.as_ref(), &HashMap::new());
        let mut manager = Self {
            dir,
            path,
            listener,
            notify,
            store: HashMap::new(),
            busd,
        };
        manager.hear_until("READY=1");
        manager
    }

    /// Takes what busd says, up to something that has this line.
    fn hear_until(&mut self, line: &str) {
        while !self.hear().lines().any(|said| said == line) {}
    }

    fn hear(&mut self) -> String {
        let mut fds = [PollFd::new(self.notify.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::from(20_000_u16);
        assert_eq!(poll(&mut fds, patience).unwrap(), 1, "busd says nothing");
        let mut bytes = [0; LONGEST];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(
            self.notify.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            flags,
        );
        let message = message.unwrap();
        let mut descriptors = Vec::new();
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: the kernel has just made them for this process.
                let owned = numbers.iter().map(|n| unsafe { OwnedFd::from_raw_fd(*n) });
                descriptors.extend(owned);
            }
        }
        let length = message.bytes;
        let said = String::from_utf8(bytes[..length].to_vec()).unwrap();
        let name = said.lines().find_map(|line| line.strip_prefix("FDNAME="));
        if said.lines().any(|line| line == "FDSTORE=1") {
            // Or one whose process has ended would be dropped.
            assert!(said.contains("FDPOLL=0"), "{said}");
            self.store
                .insert(name.unwrap().to_owned(), descriptors.remove(0));
        }
        if said.lines().any(|line| line == "FDSTOREREMOVE=1") {
            self.store.remove(name.unwrap());
        }
        said
    }

    /// Kills busd, and starts another, with what it keeps.
    fn restart(&mut self) {
        self.busd.kill().unwrap();
        self.busd.wait().unwrap();
        self.start();
    }

    fn start(&mut self) {
        self.busd = spawn(&self.path, &self.dir, self.listener.as_ref(), &self.store);
        self.hear_until("READY=1");
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.store.keys().cloned().collect();
        names.sort();
        names
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.busd.kill();
        let _ = self.busd.wait();
    }
}

/// Starts busd as a service manager does: what it passes has the numbers from 3 on.
fn spawn(
    path: &Path,
    dir: &tempfile::TempDir,
    listener: Option<&OwnedFd>,
    store: &HashMap<String, OwnedFd>,
) -> Child {
    let listener = listener.map(|fd| ("busd.socket".to_owned(), fd));
    let stored = store.iter().map(|(name, fd)| (name.clone(), fd));
    let passed: Vec<_> = listener.into_iter().chain(stored).collect();
    let names: Vec<_> = passed.iter().map(|(name, _)| name.as_str()).collect();
    // Above where they go, so that none is overwritten before it is there.
    let high: Vec<_> = passed
        .iter()
        .map(|(_, fd)| {
            let high = nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(200);
            let number = nix::fcntl::fcntl(fd, high).unwrap();
            // SAFETY: the kernel has just made it.
            unsafe { OwnedFd::from_raw_fd(number) }
        })
        .collect();
    let numbers: Vec<_> = high.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new("sh");
    let script = "exec env LISTEN_PID=$$ \"$0\" --socket \"$1\"";
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_busd")])
        .arg(path)
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("LISTEN_FDS", passed.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let put = move || {
        for (number, to) in numbers.iter().zip(3..) {
            // SAFETY: two integers go in.
            nix::errno::Errno::result(unsafe { libc::dup2(*number, to) })?;
        }
        Ok::<(), std::io::Error>(())
    };
    // SAFETY: between fork and exec only `dup2` is called.
    unsafe { command.pre_exec(put) };
    command.spawn().unwrap()
}

fn retaining(role: Role, retain: u32) -> Request {
    Request::Open {
        role,
        topic: "t".into(),
        schema: Schema::bytes(),
        settings: Settings {
            retain: Some(retain),
            ..small()
        },
        history: u32::from(role == Role::Subscriber),
        watched: None,
    }
}

#[test]
fn it_listens_at_the_socket_that_it_is_passed_and_leaves_it() {
    let mut manager = Manager::new(true);
    drop(Handle::open(&manager.path, Role::Publisher, "t").joined());
    let pid = nix::unistd::Pid::from_raw(manager.busd.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    manager.hear_until("STOPPING=1");
    assert_eq!(manager.busd.wait().unwrap().code(), Some(0));
    // A client that connects while there is none waits for the next.
    let connection = Connection::connect(&manager.path).unwrap();
    let greeting = Greeting::new();
    connection.send(SESSION, &greeting.hello(), &[]).unwrap();
    manager.start();
    let welcome = connection.recv::<Event>(crate::common::deadline()).unwrap();
    assert!(
        matches!(welcome.message, Event::Welcome { .. }),
        "{welcome:?}"
    );
}

#[test]
fn members_come_back_over_the_socket_that_stays() {
    let mut manager = Manager::new(true);
    let mut publisher = Handle::open(&manager.path, Role::Publisher, "t").joined();
    manager.busd.kill().unwrap();
    manager.busd.wait().unwrap();
    // Connected before there is anybody to answer.
    let connection = Connection::connect(&manager.path).unwrap();
    manager.start();
    let greeting = publisher.session.returns(1);
    let session = Session::greet_over(connection, greeting).unwrap();
    publisher.present_on(&session);
    publisher.await_reclaimed().unwrap();
}

/// What nobody but the broker has.
#[test]
fn rings_of_ended_publishers_outlive_it_with_the_store_and_go_when_they_are_not_retained() {
    let mut manager = Manager::new(false);
    let path = manager.path.clone();
    let first = Handle::ask(&path, &retaining(Role::Publisher, 1)).joined();
    let (first_id, settings) = (first.id, first.settings);
    drop(first);
    manager.hear_until(&format!("FDNAME=about-{first_id}"));
    assert_eq!(manager.store.len(), 3, "{:?}", manager.names());
    for _ in 0..2 {
        manager.restart();
        let request = retaining(Role::Subscriber, 1);
        let late = Handle::ask(&path, &request);
        let (event, descriptors) = late.next_told();
        assert!(
            matches!(event, Event::PublisherJoined { id, index: 0, ended: true, .. } if id == first_id),
            "{event:?}"
        );
        let bytes = bus_core::memory::ring_bytes(&settings);
        let ring = bus_core::memory::segment::Kind::Ring;
        bus_core::memory::segment::open(&descriptors[0], ring, bytes).unwrap();
    }
    // Another ends, and one is retained.
    let second = Handle::ask(&path, &retaining(Role::Publisher, 1)).joined();
    assert_ne!(second.id, first_id, "a number comes twice");
    let second_id = second.id;
    assert_eq!(second.index, 1);
    drop(second);
    manager.hear_until(&format!("FDNAME=process-{first_id}"));
    manager.hear_until(&format!("FDNAME=about-{second_id}"));
    let names = ["about", "process", "ring"].map(|kind| format!("{kind}-{second_id}"));
    assert_eq!(manager.names(), names);
}

#[test]
fn what_is_stored_and_makes_no_sense_is_removed_and_does_no_harm() {
    let mut manager = Manager::new(false);
    let path = manager.path.clone();
    let first = Handle::ask(&path, &retaining(Role::Publisher, 2)).joined();
    let id = first.id;
    drop(first);
    manager.hear_until(&format!("FDNAME=about-{id}"));
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    manager.store.insert("ring-77".into(), null());
    manager.store.insert("about-78".into(), null());
    manager.store.insert(format!("ring-{id}"), null());
    manager.restart();
    manager.hear_until("FDNAME=process-77");
    manager.hear_until("FDNAME=process-78");
    manager.hear_until(&format!("FDNAME=process-{id}"));
    assert_eq!(manager.names(), Vec::<String>::new());
    let late = Handle::ask(&path, &retaining(Role::Subscriber, 2)).joined();
    assert!(late.early.is_empty());
}

#[test]
fn a_socket_of_another_kind_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let stream = bound(&path, SockType::Stream);
    let mut busd = spawn(&path, &dir, Some(&stream), &HashMap::new());
    assert_eq!(busd.wait().unwrap().code(), Some(1));
    // Of the right kind, and not listening.
    let other = dir.path().join("other.sock");
    let silent = bound(&other, SockType::SeqPacket);
    let mut busd = spawn(&other, &dir, Some(&silent), &HashMap::new());
    assert_eq!(busd.wait().unwrap().code(), Some(1));
}
