//! A pipe as a link: bytes without boundaries, so a length goes ahead of each message.
//!
//! ```text
//!  +0 length u32 | padding | +16 message | padding to 16
//! ```
//! One write is one message. A read takes as many as are there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::marker::PhantomData;
use std::mem;

use anyhow::{Context as _, ensure};
use bus_client::rkyv::Archived;
use bus_client::rkyv::util::AlignedVec;

use super::serial::{self, LONGEST};
use super::{In, Out, Serial};

/// Bytes ahead of a message; messages begin at multiples of it.
const HEAD: usize = 16;
/// Bytes of the reader's buffer: what a pipe holds.
const BUFFER: usize = 64 << 10;

/// The sending end.
pub struct StreamOut {
    pipe: File,
    buffer: AlignedVec,
}

impl StreamOut {
    /// Over a pipe.
    pub fn new(pipe: File) -> Self {
        Self {
            pipe,
            buffer: AlignedVec::new(),
        }
    }
}

impl<T: Serial> Out<T> for StreamOut {
    fn send(&mut self, message: &T) -> anyhow::Result<()> {
        self.buffer.clear();
        self.buffer.resize(HEAD, 0);
        self.buffer = serial::write(message, mem::take(&mut self.buffer))?;
        let length = u32::try_from(self.buffer.len() - HEAD)?;
        self.buffer[..4].copy_from_slice(&length.to_le_bytes());
        self.buffer
            .resize(self.buffer.len().next_multiple_of(HEAD), 0);
        let sent = self.pipe.write_all(&self.buffer);
        sent.context("the next process of the pipeline is gone")
    }
}

/// The receiving end.
pub struct StreamIn<T> {
    pipe: File,
    _receives: PhantomData<fn() -> T>,
}

impl<T> StreamIn<T> {
    /// Over a pipe.
    pub fn new(pipe: File) -> Self {
        Self {
            pipe,
            _receives: PhantomData,
        }
    }
}

impl<T: Serial> In<T> for StreamIn<T> {
    fn each(
        mut self,
        mut take: impl FnMut(&Archived<T>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut buffer = AlignedVec::<16>::new();
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        loop {
            let read = self.pipe.read(&mut buffer[filled..]);
            filled += match read.context("cannot receive")? {
                0 if filled == 0 => return Ok(()),
                0 => anyhow::bail!("the stream ended within a message"),
                n => n,
            };
            let mut at = 0;
            while let Some(message) = first(&buffer[at..filled])? {
                take(serial::read::<T>(message)?)?;
                at += HEAD + message.len().next_multiple_of(HEAD);
            }
            buffer.copy_within(at..filled, 0);
            filled -= at;
        }
    }
}

/// The first message, if it is there with its padding.
fn first(bytes: &[u8]) -> anyhow::Result<Option<&[u8]>> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    ensure!(
        length <= LONGEST,
        "a message of {length} bytes is none of the demo's"
    );
    let padded = rest.get(..length.next_multiple_of(HEAD));
    Ok(padded.map(|padded| &padded[..length]))
}
