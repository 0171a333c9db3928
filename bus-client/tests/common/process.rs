//! A process that plays a role of this test binary.
//!
//! Promises: it is killed and reaped when its [`Process`] is dropped, and when the test's thread dies. It asks the test
//! binary for the ignored test `role` of the module that starts it, which calls [`play`](super::role::play). The module is
//! known by the file of the call, so that functions of this folder that start a process have `#[track_caller]`.

use std::env;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::panic::Location;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before the test fails.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// The variable that names the role, and what the names of its settings begin with.
pub const ROLE: &str = "BUS_TEST_ROLE";

/// A started process.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// Starts a role of the caller's module with its settings.
    #[track_caller]
    pub fn start(role: &str, settings: &[(&str, &dyn Display)]) -> Self {
        Self::start_by(
            &mut Command::new(env::current_exe().unwrap()),
            role,
            settings,
        )
    }

    /// The same by a command of the test's own, which starts a program that has the caller's module.
    #[track_caller]
    pub fn start_by(command: &mut Command, role: &str, settings: &[(&str, &dyn Display)]) -> Self {
        command
            .args([entry(Location::caller().file()).as_str(), "--exact"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for (key, value) in settings {
            command.env(format!("{ROLE}_{key}"), value.to_string());
        }
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            // The other lines are the test harness's.
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix('@')
                    && sender.send(line.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self {
            name: role.to_owned(),
            child,
            stdin,
            lines,
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next thing that it says; what follows `word` there. Anything else fails the test.
    pub fn expect(&mut self, word: &str) -> String {
        let line = self.hear(word);
        match line.strip_prefix(word) {
            Some(rest) => rest.trim().to_owned(),
            None => panic!("process {}: expected {word:?}, it said {line:?}", self.name),
        }
    }

    /// What follows `word` in the first line that begins so; passes over others.
    pub fn await_word(&mut self, word: &str) -> String {
        loop {
            if let Some(rest) = self.hear(word).strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// [`expect`](Self::expect), as a number.
    pub fn number(&mut self, word: &str) -> u64 {
        self.expect(word).parse().unwrap()
    }

    fn hear(&mut self, word: &str) -> String {
        match self.lines.recv_timeout(WATCHDOG) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                panic!("process {}: waited {WATCHDOG:?} for {word:?}", self.name)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().unwrap();
                panic!("process {}: {status} before it said {word:?}", self.name)
            }
        }
    }

    /// All that it said and nobody asked for yet, up to its end. For a process that has ended.
    pub fn last_words(&mut self) -> Vec<String> {
        self.lines.iter().collect()
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap_or_else(|e| panic!("process {}: {e}", self.name));
    }

    /// `kill -9`; returns when that was.
    pub fn kill(&mut self) -> Instant {
        let now = Instant::now();
        self.child.kill().unwrap();
        now
    }

    /// Waits for the end of a process that was killed. All that it said can be heard then.
    pub fn reap(&mut self) {
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "process {}", self.name);
    }

    /// Lets it end: it hears no more lines. It must end well.
    pub fn finish(mut self) {
        let status = self.end();
        assert!(status.success(), "process {}: {status}", self.name);
    }

    fn end(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        // Its output ends when it does.
        let deadline = Instant::now() + WATCHDOG;
        while !matches!(
            self.lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now())),
            Err(RecvTimeoutError::Disconnected)
        ) {
            assert!(
                Instant::now() < deadline,
                "process {} does not end",
                self.name
            );
        }
        self.child.wait().unwrap()
    }
}

/// The test that plays the roles which this source file starts. A file of `tests` is a program; one of a folder there is a module of one.
fn entry(file: &str) -> String {
    let path = Path::new(file);
    let folder = path.parent().and_then(Path::file_name);
    let module = path.file_stem().unwrap().display();
    match folder.and_then(|folder| folder.to_str()) {
        Some("tests") => "role".into(),
        Some("common") => panic!("{file} starts a role in a function without #[track_caller]"),
        _ => format!("{module}::role"),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
