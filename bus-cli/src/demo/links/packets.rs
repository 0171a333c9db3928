//! A `SOCK_SEQPACKET` socket as a link: it keeps messages apart, so one read is one message.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::marker::PhantomData;
use std::mem;

use anyhow::{Context as _, ensure};
use bus_client::rkyv::Archived;
use bus_client::rkyv::util::AlignedVec;

use super::serial::{self, LONGEST};
use super::{In, Out, Serial};

/// The sending end.
pub struct PacketsOut {
    socket: File,
    buffer: AlignedVec,
}

impl PacketsOut {
    /// Over a connected socket.
    pub fn new(socket: File) -> Self {
        Self {
            socket,
            buffer: AlignedVec::new(),
        }
    }
}

impl<T: Serial> Out<T> for PacketsOut {
    fn send(&mut self, message: &T) -> anyhow::Result<()> {
        self.buffer.clear();
        self.buffer = serial::write(message, mem::take(&mut self.buffer))?;
        let sent = self.socket.write(&self.buffer);
        let sent = sent.context("the next process of the pipeline is gone")?;
        ensure!(sent == self.buffer.len(), "a message was sent in part");
        Ok(())
    }
}

/// The receiving end.
pub struct PacketsIn<T> {
    socket: File,
    _receives: PhantomData<fn() -> T>,
}

impl<T> PacketsIn<T> {
    /// Over a connected socket.
    pub fn new(socket: File) -> Self {
        Self {
            socket,
            _receives: PhantomData,
        }
    }
}

impl<T: Serial> In<T> for PacketsIn<T> {
    fn each(
        mut self,
        mut take: impl FnMut(&Archived<T>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut buffer = AlignedVec::<16>::new();
        buffer.resize(LONGEST, 0);
        loop {
            match self.socket.read(&mut buffer).context("cannot receive")? {
                0 => return Ok(()),
                n => take(serial::read::<T>(&buffer[..n])?)?,
            }
        }
    }
}
