//! A broker at a path of its own, and handles that speak the protocol by hand.
//!
//! Every wait has a deadline that is far longer than what is waited for; no test needs it to pass.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses its own part"
)]

pub mod actor;
mod busd;
pub mod fuse;
mod handle;
mod session;

pub use busd::Busd;
pub use handle::Handle;
pub use session::{Greeting, Introduced, Session, Told, ended};

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_core::Settings;
use bus_core::control::{Connection, Event, Refusal, Request, Role};
use bus_core::schema::Schema;
use bus_daemon::policy::Source;
use bus_daemon::{Broker, BrokerThread};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

pub const LONG: Duration = Duration::from_secs(20);

pub fn deadline() -> Option<Instant> {
    Some(Instant::now() + LONG)
}

/// Small rings, so that many of them cost little.
pub fn small() -> Settings {
    Settings {
        depth: Some(2),
        stride: Some(64),
        max_payload: Some(48),
        keep: Some(1),
        ..Settings::default()
    }
}

pub struct Host {
    pub path: PathBuf,
    pub broker: Option<BrokerThread>,
    _dir: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let broker = Broker::bind(&path).unwrap().spawn().unwrap();
        Self {
            path,
            broker: Some(broker),
            _dir: dir,
        }
    }

    /// With this policy, at a path that others may reach.
    pub fn governed(policy: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (path, file) = (dir.path().join("bus.sock"), dir.path().join("bus.toml"));
        std::fs::write(&file, policy).unwrap();
        let mut broker = Broker::bind(&path).unwrap();
        broker.govern(Source::file(file)).unwrap();
        let broker = broker.spawn().unwrap();
        Self {
            path,
            broker: Some(broker),
            _dir: dir,
        }
    }

    pub fn connect(&self) -> Arc<Session> {
        Session::connect(&self.path)
    }

    pub fn publisher(&self, topic: &str) -> Handle {
        Handle::open(&self.path, Role::Publisher, topic).joined()
    }

    pub fn subscriber(&self, topic: &str) -> Handle {
        Handle::open(&self.path, Role::Subscriber, topic).joined()
    }

    /// The refusal of a request on a session of its own.
    pub fn refused(&self, request: &Request) -> (Refusal, String) {
        self.connect().refused(request)
    }

    pub fn stop(&mut self) {
        self.broker.take().unwrap().stop().unwrap();
    }
}

pub fn open_request(role: Role, topic: &str) -> Request {
    Request::Open {
        role,
        topic: topic.into(),
        schema: Schema::bytes(),
        settings: small(),
        history: 0,
        watched: None,
    }
}

pub fn watch_request(pattern: &str) -> Request {
    Request::Watch {
        pattern: pattern.into(),
        schema: Schema::bytes(),
        reclaims: None,
    }
}

/// Looks until it is so; fails the test after its time.
pub fn until(mut so: impl FnMut() -> bool) {
    let deadline = deadline().unwrap();
    while !so() {
        assert!(Instant::now() < deadline, "it never is so");
        std::thread::yield_now();
    }
}

/// Sends a packet as it is, with these descriptors.
pub fn send_with(socket: &impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let parts = [std::io::IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &parts, &rights, flags, None).unwrap();
}

/// The refusal that a connection gets before it is a session, after which it must be closed.
pub fn refusal(connection: &Connection) -> (Refusal, String) {
    match connection.recv::<Event>(deadline()).unwrap().message {
        Event::Refused { kind, why } => {
            ended(connection);
            (kind, why)
        }
        other => panic!("not refused but {other:?}"),
    }
}
