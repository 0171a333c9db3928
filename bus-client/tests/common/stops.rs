//! Stopping a process and letting it go on.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use nix::libc::SYS_futex_waitv;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process::{Process, WATCHDOG};

/// Stops it wherever it is; returns when it stands.
pub fn stop(process: &Process) {
    signal(process, Signal::SIGSTOP);
    await_thread(process, "stat", |stat| stat.contains(") T "));
}

/// Stops it in its sleep; which of its threads sleeps there.
pub fn stop_asleep(process: &Process) -> PathBuf {
    let thread = await_asleep(process);
    stop(process);
    thread
}

/// Lets it go on.
pub fn go_on(process: &Process) {
    signal(process, Signal::SIGCONT);
}

/// Lets it go on, and waits until its thread has looked around in its handle and sleeps again.
pub fn go_on_to_sleep(process: &Process, thread: &Path) {
    let before = sleeps(thread);
    go_on(process);
    let deadline = Instant::now() + WATCHDOG;
    // It may first go back to the sleep that it was in.
    while sleeps(thread) < before + 2 {
        assert!(Instant::now() < deadline, "it never sleeps again");
        thread::yield_now();
    }
}

/// How often a thread has gone to sleep.
fn sleeps(thread: &Path) -> u64 {
    let status = fs::read_to_string(thread.join("status")).unwrap();
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

/// Waits until it sleeps in a handle; which of its threads does.
pub fn await_asleep(process: &Process) -> PathBuf {
    let number = format!("{SYS_futex_waitv} ");
    await_thread(process, "syscall", |call| call.starts_with(&number))
}

fn signal(process: &Process, signal: Signal) {
    kill(Pid::from_raw(process.pid() as i32), signal).unwrap();
}

/// Waits until the kernel says so of a thread of the process; which.
fn await_thread(process: &Process, file: &str, says: impl Fn(&str) -> bool) -> PathBuf {
    let tasks = format!("/proc/{}/task", process.pid());
    let deadline = Instant::now() + WATCHDOG;
    while Instant::now() < deadline {
        let mut threads = fs::read_dir(&tasks).unwrap().map(|t| t.unwrap().path());
        let found =
            threads.find(|t| fs::read_to_string(t.join(file)).is_ok_and(|text| says(&text)));
        if let Some(thread) = found {
            return thread;
        }
        thread::yield_now();
    }
    panic!(
        "process {}: {file} never says what it should",
        process.pid()
    );
}
