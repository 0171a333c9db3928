//! A broker at a path of its own, and handles that speak the protocol by hand.
//!
//! Every wait has a deadline that is far longer than what is waited for; no test needs it to pass.

#![allow(dead_code, reason = "each test program uses its own part")]

pub mod actor;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bus_core::backend::{Backend, Native, Site};
use bus_core::control::{Connection, Event, Refusal, Request, Role};
use bus_core::memory::segment::{self, Kind, Mapping};
use bus_core::memory::{reader_bytes, ring_bytes};
use bus_core::schema::Schema;
use bus_core::{Settings, TopicSettings};
use bus_daemon::policy::Source;
use bus_daemon::{Broker, BrokerThread};

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

    pub fn connect(&self) -> Connection {
        Connection::connect(&self.path).unwrap()
    }

    pub fn publisher(&self, topic: &str) -> Handle {
        Handle::open(&self.path, Role::Publisher, topic).joined()
    }

    pub fn subscriber(&self, topic: &str) -> Handle {
        Handle::open(&self.path, Role::Subscriber, topic).joined()
    }

    pub fn stop(&mut self) {
        self.broker.take().unwrap().stop().unwrap();
    }
}

pub fn open_request(role: Role, topic: &str) -> Request {
    Request::Open {
        client: "test".into(),
        role,
        topic: topic.into(),
        schema: Schema::bytes(),
        settings: small(),
        history: 0,
        watched: None,
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

pub fn next(connection: &Connection) -> (Event, Vec<OwnedFd>) {
    connection.recv::<Event>(deadline()).unwrap()
}

/// The refusal that a connection gets, after which it must be closed.
pub fn refusal(connection: &Connection) -> (Refusal, String) {
    match next(connection).0 {
        Event::Refused { kind, why } => {
            let end = connection.recv::<Event>(deadline()).unwrap_err();
            assert!(matches!(end, bus_core::Error::Closed), "{end}");
            (kind, why)
        }
        other => panic!("not refused but {other:?}"),
    }
}

/// One publisher or subscriber.
pub struct Handle {
    pub connection: Connection,
    pub id: u64,
    pub index: u16,
    pub settings: TopicSettings,
    pub role: Role,
    /// Version at joining.
    pub version: u32,
    registry: OwnedFd,
    segment: Option<(OwnedFd, Mapping)>,
    /// Events that came between Opened and Joined.
    pub early: Vec<Event>,
}

impl Handle {
    pub fn open(path: &Path, role: Role, topic: &str) -> Self {
        Self::ask(path, role, &open_request(role, topic))
    }

    pub fn ask(path: &Path, role: Role, open: &Request) -> Self {
        let connection = Connection::connect(path).unwrap();
        connection.send(open, &[]).unwrap();
        let (event, mut descriptors) = next(&connection);
        let Event::Opened {
            settings,
            index,
            id,
        } = event
        else {
            panic!("not opened but {event:?}");
        };
        assert_eq!(descriptors.len(), 1);
        let registry = descriptors.remove(0);
        Self {
            connection,
            id,
            index,
            settings,
            role,
            version: 0,
            registry,
            segment: None,
            early: Vec::new(),
        }
    }

    pub fn joined(self) -> Self {
        self.try_joined().unwrap()
    }

    /// As [`joined`](Self::joined); the refusal, if there is one.
    pub fn try_joined(mut self) -> Result<Self, (Refusal, String)> {
        let segment = match self.role {
            Role::Publisher => segment::create(Kind::Ring, ring_bytes(&self.settings)),
            Role::Subscriber => segment::create(Kind::Reader, reader_bytes(&self.settings)),
        };
        let segment = segment.unwrap();
        self.connection
            .send(&Request::Join, &[segment.0.as_fd()])
            .unwrap();
        self.segment = Some(segment);
        loop {
            match next(&self.connection).0 {
                Event::Joined { version } => {
                    self.version = version;
                    return Ok(self);
                }
                Event::Refused { kind, why } => return Err((kind, why)),
                event => self.early.push(event),
            }
        }
    }

    /// What it says of itself to a broker that comes after its own.
    pub fn resume_request(&self, topic: &str, rings: u64) -> Request {
        Request::Resume {
            client: "test".into(),
            role: self.role,
            topic: topic.into(),
            schema: Schema::bytes(),
            settings: self.settings,
            id: self.id,
            index: self.index,
            rings,
        }
    }

    /// Asks the broker at `path` to take it back.
    pub fn ask_back(&mut self, path: &Path, request: &Request) {
        let connection = Connection::connect(path).unwrap();
        let segment = &self.segment.as_ref().unwrap().0;
        connection.send(request, &[segment.as_fd()]).unwrap();
        self.connection = connection;
    }

    /// Resumes at the broker at `path`, and is not back yet; the version and the rings that it was told.
    pub fn resume(&mut self, path: &Path, topic: &str, read: u64) -> (u32, u64) {
        self.ask_back(path, &self.resume_request(topic, read));
        let (event, mut descriptors) = next(&self.connection);
        let Event::Resumed { version, rings, .. } = event else {
            panic!("not resumed but {event:?}");
        };
        assert_eq!(descriptors.len(), 1);
        self.registry = descriptors.remove(0);
        self.version = version;
        (version, rings)
    }

    pub fn back(&self) {
        self.connection.send(&Request::Back, &[]).unwrap();
    }

    pub fn next(&self) -> Event {
        next(&self.connection).0
    }

    pub fn nothing(&self) {
        let event = self.connection.try_recv::<Event>().unwrap();
        assert!(event.is_none(), "{event:?}");
    }

    pub fn release(&self, index: u16) {
        self.connection
            .send(&Request::Released { index }, &[])
            .unwrap();
    }

    pub fn registry(&self) -> Watched {
        Watched(bus_core::memory::registry::open(&self.registry).unwrap())
    }
}

/// A registry, as a member sees it.
pub struct Watched(<Native as Backend>::Registry);

impl Watched {
    pub fn publishers(&self) -> u32 {
        // ORDERING: pairs with the broker's release when it moves the version.
        Native::load32(&self.0.publishers.0, ACQUIRE)
    }

    pub fn subscribers(&self) -> u32 {
        // ORDERING: pairs with the broker's release when it moves the version.
        Native::load32(&self.0.subscribers.0, ACQUIRE)
    }
}

const ACQUIRE: Site = Site {
    name: "test.version",
    ordering: std::sync::atomic::Ordering::Acquire,
};

/// A `busd` of its own.
pub struct Busd {
    pub child: Child,
    pub path: PathBuf,
}

impl Busd {
    /// Runs the shell's `setup`, then `busd`; returns when it listens.
    pub fn start(path: &Path, setup: &str) -> Self {
        let mut busd = Self::launch(path, setup);
        busd.wait_for("listening on");
        busd
    }

    /// As [`start`](Self::start); does not wait until it listens.
    pub fn launch(path: &Path, setup: &str) -> Self {
        let script = format!("{setup}\nexec \"$0\" --socket \"$1\"");
        let child = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_busd")])
            .arg(path)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            path: path.to_owned(),
        }
    }

    /// Kills it, and starts another.
    pub fn replace(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let path = self.path.clone();
        *self = Self::start(&path, "");
    }

    /// Reads the log up to a line that has this text.
    pub fn wait_for(&mut self, text: &str) -> String {
        use std::io::Read;
        let stderr = self.child.stderr.as_mut().unwrap();
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            assert_eq!(
                stderr.read(&mut byte).unwrap(),
                1,
                "busd ended before {text:?}"
            );
            if byte[0] != b'\n' {
                line.push(byte[0]);
                continue;
            }
            let whole = String::from_utf8_lossy(&line).into_owned();
            if whole.contains(text) {
                return whole;
            }
            line.clear();
        }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Its state, as the kernel has it: R, S, T and so on.
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, after) = stat.rsplit_once(") ").unwrap();
        after.chars().next().unwrap()
    }

    /// Processor time so far.
    pub fn cpu_time(&self) -> Duration {
        let path = format!("/proc/{}/schedstat", self.child.id());
        let stat = std::fs::read_to_string(path).unwrap();
        Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
    }
}

impl Drop for Busd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
