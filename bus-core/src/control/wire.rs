//! How a control message is packed.
//!
//! ```text
//! 0        4         6      8        12         16
//! +--------+---------+------+--------+----------+-----------------------+
//! | magic  | version | kind | length | reserved | rkyv archive          |
//! +--------+---------+------+--------+----------+-----------------------+
//!   u32      u16       u16    u32      u32 = 0    `length` bytes
//! ```
//! Little-endian. The prefix stays as it is in every version of the protocol, so that two versions can tell each other
//! what they are. The archive is validated with a depth limit, and nothing of it is used before.
//! What is decoded never takes more than a small multiple of [`MAX_PACKET`] bytes.

use std::num::NonZeroUsize;

use rkyv::api::high::HighDeserializer;
use rkyv::api::low::{LowSerializer, to_bytes_in_with_alloc};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Strategy};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::util::AlignedVec;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Archive, Archived, Deserialize, Serialize};

use super::messages::{Event, Request};
use crate::{Error, Result};

/// The version of the protocol that this code speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// Longest packet, in bytes, with its prefix.
pub const MAX_PACKET: usize = 64 << 10;
/// Most descriptors that a packet carries.
pub const MAX_DESCRIPTORS: usize = 4;

/// Bytes of the prefix; the archive behind it stays 16-aligned.
const PREFIX: usize = 16;
const MAGIC: u32 = u32::from_le_bytes(*b"BusC");
/// Nested lists and strings in the deepest message are four levels; the rest is reserve.
const MAX_DEPTH: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// A packed control message, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Packet(AlignedVec);

impl Packet {
    /// The bytes on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A control message: [`Request`] or [`Event`].
pub trait Message: Sized {
    /// Packs the message.
    ///
    /// # Errors
    /// [`Error::Control`] where it would be longer than [`MAX_PACKET`].
    fn pack(&self) -> Result<Packet>;

    /// Checks a packet that a peer sent and takes the message out of it. The bytes start at a multiple of 16.
    ///
    /// # Errors
    /// [`Error::Version`] for another version of the protocol, [`Error::Control`] for everything else that is wrong.
    fn unpack(packet: &[u8]) -> Result<Self>;
}

impl Message for Request {
    fn pack(&self) -> Result<Packet> {
        pack(self, 1)
    }

    fn unpack(packet: &[u8]) -> Result<Self> {
        unpack(packet, 1)
    }
}

impl Message for Event {
    fn pack(&self) -> Result<Packet> {
        pack(self, 2)
    }

    fn unpack(packet: &[u8]) -> Result<Self> {
        unpack(packet, 2)
    }
}

/// The scratch memory is this call's own. That of rkyv's `to_bytes` is a thread-local: a handle that
/// ends in a destructor of a thread-local would find it destroyed, and the process would abort.
fn pack<M>(message: &M, kind: u16) -> Result<Packet>
where
    M: for<'a> Serialize<LowSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let mut bytes = AlignedVec::new();
    bytes.extend_from_slice(&[0; PREFIX]);
    let mut scratch = Arena::new();
    let mut bytes =
        to_bytes_in_with_alloc::<_, _, rancor::Error>(message, bytes, scratch.acquire())
            .map_err(|error| Error::Control(format!("cannot pack it: {error}")))?;
    if bytes.len() > MAX_PACKET {
        return Err(Error::Control(format!(
            "it is {} bytes long, and the limit is {MAX_PACKET}; describe fewer fields",
            bytes.len()
        )));
    }
    let length = (bytes.len() - PREFIX) as u32;
    bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes[6..8].copy_from_slice(&kind.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    Ok(Packet(bytes))
}

fn unpack<M>(packet: &[u8], kind: u16) -> Result<M>
where
    M: Archive,
    M::Archived: for<'a> CheckBytes<Strategy<ArchiveValidator<'a>, rancor::Error>>
        + Deserialize<M, HighDeserializer<rancor::Error>>,
{
    let archive = check_prefix(packet, kind)?;
    let broken = |error: rancor::Error| Error::Control(format!("its content is broken: {error}"));
    let mut validator = ArchiveValidator::with_max_depth(archive, Some(MAX_DEPTH));
    let archived: &Archived<M> =
        rkyv::api::access_with_context::<_, _, rancor::Error>(archive, &mut validator)
            .map_err(broken)?;
    rkyv::api::high::deserialize::<M, rancor::Error>(archived).map_err(broken)
}

/// Checks the prefix; returns the archive.
fn check_prefix(packet: &[u8], kind: u16) -> Result<&[u8]> {
    let wrong = |why: String| Err(Error::Control(why));
    let Some((prefix, archive)) = packet.split_first_chunk::<PREFIX>() else {
        return wrong(format!(
            "it is {} bytes long, shorter than a prefix",
            packet.len()
        ));
    };
    let [
        m0,
        m1,
        m2,
        m3,
        v0,
        v1,
        k0,
        k1,
        l0,
        l1,
        l2,
        l3,
        reserved @ ..,
    ] = *prefix;
    if u32::from_le_bytes([m0, m1, m2, m3]) != MAGIC {
        return wrong("it does not start as one; the other side is no part of bus".into());
    }
    let theirs = u16::from_le_bytes([v0, v1]);
    if theirs != PROTOCOL_VERSION {
        return Err(Error::Version {
            theirs,
            ours: PROTOCOL_VERSION,
        });
    }
    let got = u16::from_le_bytes([k0, k1]);
    if got != kind {
        return wrong(format!("it is of kind {got}, and kind {kind} was expected"));
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if usize::try_from(length) != Ok(archive.len()) || reserved != [0; 4] {
        return wrong(format!("it says {length} bytes and has {}", archive.len()));
    }
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed() -> AlignedVec {
        let event = Event::Refused {
            kind: super::super::Refusal::Limit,
            why: "full".into(),
        };
        event.pack().unwrap().0
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let event = Event::PublisherLeft {
            version: u32::MAX,
            id: 7,
            index: 59,
            exited: true,
        };
        let packet = event.pack().unwrap();
        assert_eq!(Event::unpack(packet.as_bytes()).unwrap(), event);
    }

    #[test]
    fn the_prefix_stays_as_it_is() {
        let packet = Request::Join.pack().unwrap();
        assert_eq!(packet.as_bytes()[..8], *b"BusC\x01\0\x01\0");
    }

    #[test]
    fn another_version_is_told_apart() {
        let mut bytes = packed();
        bytes[4] = 9;
        let error = Event::unpack(&bytes).unwrap_err();
        assert!(
            matches!(error, Error::Version { theirs: 9, ours: 1 }),
            "{error}"
        );
    }

    #[test]
    fn a_request_is_no_event() {
        let packet = Request::Join.pack().unwrap();
        assert!(matches!(
            Event::unpack(packet.as_bytes()),
            Err(Error::Control(_))
        ));
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = packed();
        for end in 0..bytes.len() {
            assert!(Event::unpack(&bytes[..end]).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_by_its_sender() {
        let why = "x".repeat(MAX_PACKET);
        let event = Event::Refused {
            kind: super::super::Refusal::Limit,
            why,
        };
        assert!(event.pack().unwrap_err().to_string().contains("65536"));
    }

    proptest::proptest! {
        /// Class 16 of the field notes: a length or an offset from a peer is used as it is.
        #[test]
        fn no_change_of_a_byte_does_harm(at in 0_usize..200, value: u8) {
            let mut bytes = packed();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(event) = Event::unpack(&bytes) {
                // Whatever is accepted is a whole message.
                proptest::prop_assert!(event.pack().is_ok());
            }
        }
    }
}
