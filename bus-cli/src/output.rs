//! Standard output: few system calls, flushed when there is nothing to do, and able to tell that nobody reads it.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::fd::AsFd;

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that are gathered; messages of a quarter of that go straight out, from where the publisher wrote them.
const BUFFER: usize = 64 << 10;

/// Whether somebody still reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Yes, as far as is known.
    There,
    /// The other end of the pipe was closed.
    Gone,
}

/// Standard output.
pub struct Output {
    out: BufWriter<File>,
    /// What stands behind each message.
    end: &'static [u8],
}

impl Output {
    /// Standard output, with a line's end behind each message or with nothing.
    pub fn standard(lines: bool) -> anyhow::Result<Self> {
        let fd = io::stdout().as_fd().try_clone_to_owned();
        let file = File::from(fd.context("cannot use standard output")?);
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER, file),
            end: if lines { b"\n" } else { b"" },
        })
    }

    /// Whether it is a plain file, so that a terminal beside it is free for progress.
    pub fn is_file(&self) -> bool {
        self.out.get_ref().metadata().is_ok_and(|m| m.is_file())
    }

    /// Writes a message.
    pub fn write(&mut self, message: &[u8]) -> anyhow::Result<Reader> {
        let written = if message.len() >= BUFFER / 4 {
            let flushed = self.out.flush();
            flushed.and_then(|()| self.out.get_mut().write_all(message))
        } else {
            self.out.write_all(message)
        };
        reader(written.and_then(|()| self.out.write_all(self.end)))
    }

    /// Hands over what was gathered.
    pub fn flush(&mut self) -> anyhow::Result<Reader> {
        reader(self.out.flush())
    }

    /// Asks the kernel whether somebody still reads, without writing.
    pub fn reader(&self) -> Reader {
        let mut fds = [PollFd::new(self.out.get_ref().as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if polled.is_ok_and(|n| n > 0) && events.contains(PollFlags::POLLERR) {
            Reader::Gone
        } else {
            Reader::There
        }
    }
}

fn reader(written: io::Result<()>) -> anyhow::Result<Reader> {
    match written {
        Ok(()) => Ok(Reader::There),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(e) => Err(e).context("cannot write to standard output"),
    }
}
