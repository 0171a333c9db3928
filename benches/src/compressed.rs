//! Bus with compressed payloads, as a user could put it on top of the public handles.
//!
//! The publisher compresses straight into the ring's memory; the subscriber decompresses into a buffer of its own
//! and reads it there, where without compression it reads in place. What does not become shorter is sent as it is.
//!
//! ```text
//! message   +0  length of the payload, u64    +8  the payload, as it is if the rest is as long, else compressed
//! ```

use crate::bus::topic_for;
use crate::payload::{Payload, Tally};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Context, Result, ensure};
use bus_client::{BytesPublisher, BytesSubscriber, TopicBuilder};
use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

/// Bytes of the length in front.
const HEADER: usize = 8;

/// Compresses and decompresses single messages. Keeps its table, so that a message allocates nothing.
#[derive(Default)]
pub struct Codec {
    table: CompressTable,
}

impl Codec {
    /// Bytes that a message of `len` bytes may take while it is packed.
    #[must_use]
    pub fn room(len: usize) -> usize {
        HEADER + get_maximum_output_size(len)
    }

    /// Packs `message` into `to`, which has [`room`](Self::room); says how many bytes it took.
    pub fn pack(&mut self, message: &[u8], to: &mut [u8]) -> usize {
        let (header, body) = to.split_at_mut(HEADER);
        header.copy_from_slice(&(message.len() as u64).to_le_bytes());
        match compress_into_with_table(message, body, &mut self.table) {
            Ok(len) if len < message.len() => HEADER + len,
            _ => {
                body[..message.len()].copy_from_slice(message);
                HEADER + message.len()
            }
        }
    }

    /// The message that was packed: in place if it was sent as it is, else in `buffer`.
    ///
    /// # Errors
    /// It is none, or longer than `buffer`.
    pub fn unpack<'a>(packed: &'a [u8], buffer: &'a mut [u8]) -> Result<&'a [u8]> {
        let (header, body) = packed
            .split_first_chunk::<HEADER>()
            .context("a compressed message has no length in front")?;
        let len = u64::from_le_bytes(*header);
        if len == body.len() as u64 {
            return Ok(body);
        }
        let written = decompress_into(body, buffer).context("decompressing a message failed")?;
        ensure!(
            written as u64 == len,
            "a message of {len} bytes came out as {written}"
        );
        Ok(&buffer[..written])
    }
}

/// Compressed bus as a transport.
#[derive(Debug)]
pub enum Compressed {}

impl Transport for Compressed {
    type Publisher = Compressor;
    type Subscriber = Decompressor;

    fn publisher(place: &Place<'_>) -> Result<Compressor> {
        Ok(Compressor {
            out: link(place)?.bytes_publisher()?,
            codec: Codec::default(),
        })
    }

    fn subscriber(place: &Place<'_>) -> Result<Decompressor> {
        Ok(Decompressor {
            from: link(place)?.bytes_subscriber()?,
            buffer: vec![0; place.job.payload],
        })
    }
}

fn link(place: &Place<'_>) -> Result<TopicBuilder> {
    let payload = place.job.payload;
    topic_for(place, payload, Codec::room(payload))
}

/// A publisher's end.
pub struct Compressor {
    out: BytesPublisher,
    codec: Codec,
}

impl Publish for Compressor {
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        for _ in 0..batch {
            let message = payload.next_message();
            let mut loan = self.out.loan(Codec::room(message.len()))?;
            let len = self.codec.pack(message, loan.bytes());
            loan.send(len);
        }
        Ok(())
    }
}

/// A subscriber's end.
pub struct Decompressor {
    from: BytesSubscriber,
    buffer: Vec<u8>,
}

impl Receive for Decompressor {
    fn receive(&mut self, _limit: usize, tally: &mut Tally) -> Result<()> {
        let message = self.from.recv()?;
        tally.take(Codec::unpack(message.bytes(), &mut self.buffer)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_and_a_broken_one_does_not() {
        let mut buffer = vec![0; 64];
        for message in [&[7_u8; 64][..], b"ab", b"", &[1, 2, 3, 4, 5, 6, 7, 8, 9]] {
            let mut packed = vec![0; Codec::room(message.len())];
            let len = Codec::default().pack(message, &mut packed);
            assert_eq!(
                Codec::unpack(&packed[..len], &mut buffer).expect("whole"),
                message
            );
        }
        let mut packed = vec![0; Codec::room(65)];
        let len = Codec::default().pack(&[7; 65], &mut packed);
        assert!(Codec::unpack(&packed[..len], &mut buffer).is_err());
        assert!(Codec::unpack(&packed[..len - 1], &mut [0; 65]).is_err());
        assert!(Codec::unpack(&packed[..4], &mut buffer).is_err());
    }
}
