//! Which process runs the broker at a path, for sentences about a broker that does not answer.
//!
//! Promises: it asks nobody, waits for nobody, and is for people only: nothing is decided by it. It
//! asks for the process that holds the lock beside the socket to have written its number there.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Connection;

/// More bytes than a lock file's line has.
const LONGEST: u64 = 256;
/// Words of that line ahead of the number of the process.
const BEFORE: usize = 5;

/// A process that runs a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number; 0 if it is in a process namespace that is not visible from here.
    pub pid: u32,
    /// The name of its program, up to 15 characters, where the kernel says.
    pub name: Option<String>,
}

impl Holder {
    /// The process at the other end of a connection to a broker's socket. Where a service manager
    /// has made the socket, that is the service manager; the lock file beside the socket at `path`
    /// then says which process the broker is, if it can be read.
    pub fn of_connection(connection: &Connection, path: &Path) -> Self {
        let peer = connection.credentials().ok();
        let pid = peer.map_or(0, |peer| peer.pid);
        match Self::of_lock(path) {
            Some(holder) if pid <= 1 && holder.is_there() => holder,
            _ => Self::of_process(pid),
        }
    }

    /// The process that wrote its number into the lock file beside the socket at `path`. It may
    /// have ended since.
    pub fn of_lock(path: &Path) -> Option<Self> {
        let mut options = OpenOptions::new();
        options.read(true);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(lock_path(path)).ok()?;
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).ok()?;
        let pid = text.split_ascii_whitespace().nth(BEFORE)?;
        Some(Self::of_process(pid.parse().ok()?))
    }

    fn of_process(pid: u32) -> Self {
        let name = fs::read(format!("/proc/{pid}/comm")).ok();
        let name = name.map(|name| {
            let name = String::from_utf8_lossy(&name);
            name.trim_end().escape_debug().to_string()
        });
        Self { pid, name }
    }

    fn is_there(&self) -> bool {
        self.name.is_some()
    }

    /// Whether a signal or a debugger has stopped it.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name before it may hold any character.
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('T' | 't'))
    }

    /// Why a client got no answer, to stand behind the path of the socket.
    pub fn does_not_answer(&self) -> String {
        let stopped = match self.is_stopped() {
            true => "it is stopped: continue or end it",
            false => "it may be stopped, or be no broker",
        };
        format!("{self} hosts the broker there and did not answer in 5 seconds; {stopped}")
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.name) {
            (0, _) => f.write_str("a process that is not visible from here"),
            (pid, Some(name)) => write!(f, "process {pid} ({name})"),
            (pid, None) => write!(f, "process {pid}"),
        }
    }
}

/// The file beside the socket at `path` that the broker's process locks.
pub fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_process_that_signed_a_lock_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        assert_eq!(Holder::of_lock(&path), None);
        File::create(lock_path(&path)).unwrap();
        assert_eq!(Holder::of_lock(&path), None, "nobody has signed it");
        let line = format!("bus 1 boot 7 open {}\n", std::process::id());
        fs::write(lock_path(&path), line).unwrap();
        let holder = Holder::of_lock(&path).unwrap();
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        let own = format!("process {} ({})", std::process::id(), comm.trim());
        assert_eq!(holder.to_string(), own);
        assert!(!holder.is_stopped());
        let sentence = holder.does_not_answer();
        assert!(sentence.starts_with(&own), "{sentence}");
        assert!(
            sentence.ends_with("it may be stopped, or be no broker"),
            "{sentence}"
        );
    }

    #[test]
    fn a_peer_is_named_by_its_connection() {
        let (a, _b) = Connection::pair().unwrap();
        let holder = Holder::of_connection(&a, Path::new("/nowhere"));
        assert_eq!(holder.pid, std::process::id());
    }

    #[test]
    fn a_stopped_process_is_said_to_be_stopped() {
        use nix::sys::signal::{Signal, kill};
        use nix::sys::wait::{WaitPidFlag, waitpid};
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        let holder = Holder::of_process(child.id());
        let sentence = holder.does_not_answer();
        assert!(
            sentence.contains("(cat) hosts the broker there and did not answer"),
            "{sentence}"
        );
        assert!(
            sentence.ends_with("it is stopped: continue or end it"),
            "{sentence}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
