//! Standard input, read where it is wanted, with an ear for signals.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::interrupt::Interrupt;

/// Standard input without a buffer of its own.
pub struct Input<'a> {
    file: File,
    interrupt: &'a Interrupt,
}

/// What a read brought.
pub enum Read {
    /// So many bytes, at least one.
    Bytes(usize),
    /// There is no more.
    End,
    /// A signal came first; with the exit code.
    Interrupted(u8),
}

impl<'a> Input<'a> {
    /// Standard input.
    pub fn standard(interrupt: &'a Interrupt) -> anyhow::Result<Self> {
        let fd = io::stdin().as_fd().try_clone_to_owned();
        let file = File::from(fd.context("cannot use standard input")?);
        Ok(Self { file, interrupt })
    }

    /// Waits for input or a signal, for so long; whether one came.
    pub fn wait(&self, time: PollTimeout) -> anyhow::Result<bool> {
        let mut both = [
            PollFd::new(self.file.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.interrupt.descriptor(), PollFlags::POLLIN),
        ];
        match poll(&mut both, time) {
            Ok(came) => Ok(came > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(e) => Err(e).context("cannot wait for standard input"),
        }
    }

    /// Waits for input or a signal, then reads what is there.
    pub fn read(&mut self, room: &mut [u8]) -> anyhow::Result<Read> {
        loop {
            self.wait(PollTimeout::NONE)?;
            if let Some(code) = self.interrupt.came() {
                return Ok(Read::Interrupted(code));
            }
            match self.file.read(room) {
                Ok(0) => return Ok(Read::End),
                Ok(n) => return Ok(Read::Bytes(n)),
                // Somebody made it non-blocking, or was faster: wait again.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(e).context("cannot read standard input"),
            }
        }
    }
}
