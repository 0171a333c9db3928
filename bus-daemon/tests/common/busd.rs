//! A `busd` as a process of its own, that tests start, stop, kill and replace.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

    /// Ends it in its own time, and starts another.
    pub fn restart(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success());
        let path = self.path.clone();
        *self = Self::start(&path, "");
    }

    /// What its lock file says.
    pub fn lock(&self) -> String {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".lock");
        std::fs::read_to_string(name).unwrap()
    }

    /// Reads the log up to a line that has this text.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.lines_to(text).pop().unwrap()
    }

    /// The lines of the log up to one that has this text.
    pub fn lines_to(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
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
            line.clear();
            lines.push(whole);
            if lines.last().is_some_and(|last| last.contains(text)) {
                return lines;
            }
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
