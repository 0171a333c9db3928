//! Stopping a process and letting it go on.

use std::fs;
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

/// Stops it in its sleep.
pub fn stop_asleep(process: &Process) {
    await_asleep(process);
    stop(process);
}

/// Lets it go on.
pub fn go_on(process: &Process) {
    signal(process, Signal::SIGCONT);
}

/// Waits until it sleeps in a handle.
pub fn await_asleep(process: &Process) {
    let number = format!("{SYS_futex_waitv} ");
    await_thread(process, "syscall", |call| call.starts_with(&number));
}

fn signal(process: &Process, signal: Signal) {
    kill(Pid::from_raw(process.pid() as i32), signal).unwrap();
}

/// Waits until the kernel says so of a thread of the process.
fn await_thread(process: &Process, file: &str, says: impl Fn(&str) -> bool) {
    let tasks = format!("/proc/{}/task", process.pid());
    let deadline = Instant::now() + WATCHDOG;
    while Instant::now() < deadline {
        let mut threads = fs::read_dir(&tasks).unwrap();
        if threads.any(|t| fs::read_to_string(t.unwrap().path().join(file)).is_ok_and(|t| says(&t)))
        {
            return;
        }
        thread::yield_now();
    }
    panic!(
        "process {}: {file} never says what it should",
        process.pid()
    );
}
