//! The log of `busd`: to standard error, and never in the way.
//!
//! Promises: a log that nobody reads, or whose reader is gone, costs lines and nothing else: the broker
//! neither waits for it nor ends because of it.

use std::io::{self, IsTerminal, Write};

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use tracing_subscriber::EnvFilter;

/// A pipe that polls writable takes this much without waiting (`PIPE_BUF`).
const LONGEST_LINE: usize = 4096;

/// Starts logging. `RUST_LOG` decides what, if it is set.
pub(crate) fn start(verbose: bool) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => {
            EnvFilter::try_new(filter).context("RUST_LOG is not a filter; try RUST_LOG=info")?
        }
        Err(_) => EnvFilter::new(if verbose { "debug" } else { "info" }),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(|| Lossy)
        // Its complaint about a log that is gone would go to that log, and panic.
        .log_internal_errors(false)
        .init();
    Ok(())
}

/// Standard error, as far as it takes a line at once.
struct Lossy;

impl Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let ready = matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
            && fds[0]
                .revents()
                .is_some_and(|flags| flags.contains(PollFlags::POLLOUT));
        if ready {
            // A line that is lost is lost.
            let _ = stderr.lock().write(&line[..line.len().min(LONGEST_LINE)]);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
