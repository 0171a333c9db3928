//! A place for one test's broker, and the check of what an error tells.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bus_client::{Bus, BusBuilder, Error};

use super::process::Process;

/// A place for a broker.
pub struct Stage {
    /// Where the socket is, and nothing else.
    pub dir: tempfile::TempDir,
    /// The socket's path.
    pub path: PathBuf,
}

impl Stage {
    /// An empty one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        Self { dir, path }
    }

    /// For processes of another user.
    pub fn open_to_all(&self) {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    }

    /// What is left there, but for the lock file: a broker writes down there how it ended.
    pub fn left(&self) -> Vec<String> {
        let left = fs::read_dir(self.dir.path()).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        left.filter(|name| name != "bus.sock.lock").collect()
    }

    /// Starts a role that connects here.
    #[track_caller]
    pub fn start(&self, role: &str) -> Process {
        Process::start(role, &[("socket", &self.path.display())])
    }
}

/// A way in at this path for the test's own process, which hosts the broker there if there is none.
pub fn hosting(name: impl Into<String>, path: impl Into<PathBuf>) -> BusBuilder {
    Bus::builder(name).socket(path).embedded(true)
}

/// Connects from the test's own process.
pub fn connect(path: &Path, embedded: bool) -> Result<Bus, Error> {
    Bus::builder("test")
        .socket(path)
        .embedded(embedded)
        .connect()
}

/// The text of an error, which must hold all of `parts`.
pub fn told<T>(result: Result<T, Error>, parts: &[&str]) -> String {
    let text = result.err().expect("it worked").to_string();
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
    text
}
