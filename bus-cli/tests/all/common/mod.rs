//! What the tests of the command share: a place with a socket of its own, and processes with a time limit.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything here takes, also on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A directory with a socket path that no other test uses.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The names of the files that are here.
    pub fn left(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("bus.sock")
    }

    /// `bus` with these arguments, in this place.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bus"));
        command.args(arguments).env("BUS_SOCKET", self.socket());
        command
    }

    /// Starts it, with pipes at both ends; what it writes waits there until it is asked for.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Running::new(command.stderr(Stdio::piped()))
    }
}

/// A process that is killed when it is dropped.
pub struct Running {
    pub child: Child,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Running {
    pub fn new(command: &mut Command) -> Self {
        Self {
            child: command.spawn().unwrap(),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    pub fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id() as i32), signal).unwrap();
    }

    /// Closes its input, reads what it writes, waits for its end.
    pub fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        let stdout = self.child.stdout.take().map(collect);
        let stderr = self.child.stderr.take().map(collect);
        let read = |from: Option<Receiver<Vec<u8>>>| {
            from.map(|from| from.recv_timeout(LIMIT).expect("it did not end"))
                .unwrap_or_default()
        };
        let (stdout, stderr) = (read(stdout), read(stderr));
        // Both its ends are closed, so it is over or just about to be.
        let status = self.child.wait().unwrap();
        Ended {
            code: status.code(),
            stdout,
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// As [`end`](Self::end), and it has to fail with this code and one sentence that says this.
    pub fn end_badly(self, code: i32, says: &str) {
        let ended = self.end();
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
        assert!(ended.stderr.starts_with("bus: "), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }

    /// As [`end`](Self::end), and it has to be a good one. Returns what it wrote.
    pub fn end_well(self) -> Vec<u8> {
        let ended = self.end();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        ended.stdout
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that comes out of a pipe, read on a thread.
pub fn collect(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        let _ = sender.send(all);
    });
    receiver
}

/// The lines that come out of a pipe, each as it comes.
pub fn heard(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Looks until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::yield_now();
    }
}

/// The state of a process, as the kernel has it: R, S, T and so on.
pub fn state(process: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, after) = stat.rsplit_once(") ").unwrap();
    after.chars().next().unwrap()
}

/// The processes that a process started and that are still there.
pub fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    children
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

/// How many segments of a kind (`ring`, `reader`) a process has mapped.
pub fn segments(process: u32, kind: &str) -> usize {
    let segment = format!("memfd:bus-{kind} ");
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    maps.lines().filter(|line| line.contains(&segment)).count()
}
