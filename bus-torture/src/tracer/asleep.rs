//! In which system call a thread sleeps, as the kernel says in `/proc/PID/task/TID/syscall`.

use std::fs;

/// The number of the system call in which this thread sleeps; none where it runs, or is not to be seen.
#[must_use]
pub fn call(process: u32, thread: u32) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall")).ok()?;
    let number = text.split_whitespace().next()?.parse().ok()?;
    // Of one that is stopped outside of a call it says -1.
    (number >= 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn who_reads_a_pipe_is_seen_in_that_call() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while call(child.id(), child.id()) != Some(libc::SYS_read) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
