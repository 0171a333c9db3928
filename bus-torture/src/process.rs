//! Processes of a run: this program again, in a role.
//!
//! Promises: a process is killed and reaped when its [`Worker`] is dropped, and killed when the run dies. What it says to the run are lines;
//! what the run says to it are lines on its standard input. Nothing is waited for without a bound.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The hidden command of `bus-torture` that plays a role.
pub const SUBCOMMAND: &str = "worker";

/// How long a process may take to say what it is asked for, before that is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A role: its name, and what plays it with the settings that the run gave.
pub type Role = (&'static str, fn(Value) -> Result<()>);

/// Plays a role in this process, which was started for it.
///
/// # Errors
/// There is no such role, or it failed.
pub fn work(roles: &[Role], role: &str, settings: &str) -> Result<()> {
    // Nothing of a run that ends early stays behind.
    set_pdeathsig(Signal::SIGKILL).context("asking to end with the run")?;
    let (_, play) = roles
        .iter()
        .find(|(name, _)| *name == role)
        .ok_or_else(|| anyhow!("no role {role:?}; bus-torture starts its workers itself"))?;
    play(serde_json::from_str(settings).context("reading the settings of a role")?)
}

/// Settings of a role, as what it takes them for.
///
/// # Errors
/// They are something else.
pub fn settings<T: DeserializeOwned>(settings: Value) -> Result<T> {
    serde_json::from_value(settings).context("reading the settings of a role")
}

/// Says a line to the run.
///
/// # Errors
/// Nobody listens.
pub fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("the run is gone")
}

/// A process of this run.
#[derive(Debug)]
pub struct Worker {
    role: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Worker {
    /// Starts this program in a role.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(role: &'static str, settings: &impl Serialize) -> Result<Self> {
        let program = env::current_exe().context("finding bus-torture itself")?;
        let mut command = Command::new(program);
        command
            .args([SUBCOMMAND, role])
            .arg(serde_json::to_string(settings)?);
        Self::of(role, command)
    }

    /// Starts a program as a process of this run.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn of(role: &'static str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {role}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("it has no output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            role,
            child,
            stdin,
            lines,
        })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says a line to it. One that is gone does not hear it.
    pub fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        }
    }

    /// Closes its standard input: it is to come to an end.
    pub fn release(&mut self) {
        self.stdin = None;
    }

    /// The next line that it says, within `patience`; none when it has ended.
    ///
    /// # Errors
    /// It says nothing.
    pub fn hear(&mut self, patience: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!(
                "{} (process {}) says nothing for {patience:?}",
                self.role,
                self.pid()
            ),
        }
    }

    /// The next line, which has to begin with `word`; what follows that.
    ///
    /// # Errors
    /// It says something else, or nothing in time, or has ended.
    pub fn expect(&mut self, word: &str) -> Result<String> {
        let pid = self.pid();
        let line = self.hear(PATIENCE)?;
        let line =
            line.ok_or_else(|| anyhow!("{} (process {pid}) ended before {word:?}", self.role))?;
        match line.strip_prefix(word) {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => bail!(
                "{} (process {pid}): expected {word:?}, it said {line:?}",
                self.role
            ),
        }
    }

    /// What it has said and nobody heard yet, if anything.
    pub fn overhear(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The next line of one that has ended or is about to; none where that was all.
    pub fn last_words(&mut self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    /// Sends it a signal. One that is gone is not hit.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid().cast_signed()), signal);
    }

    /// Kills it, whatever it does, and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its end, which has to come within `patience`.
    ///
    /// # Errors
    /// It goes on.
    pub fn end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for a process")? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} (process {}) does not end within {patience:?}",
                    self.role,
                    self.pid()
                );
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
