//! How a control message is packed.
//!
//! ```text
//! 0        4         6      8        12       16
//! +--------+---------+------+--------+--------+-----------------------+
//! | magic  | version | kind | length | handle | rkyv archive          |
//! +--------+---------+------+--------+--------+-----------------------+
//!   u32      u16       u16    u32      u32      `length` bytes
//! ```
//! All numbers are little-endian. `kind` numbers the message; each message has an archive of its own, so a new
//! message changes no other one. The top bit of `kind` says that a receiver may ignore the message if it does
//! not know it. `handle` names the handle of the session that the message is about; 0 is the session itself.
//!
//! Promises: the prefix never changes, so any two versions can tell each other what they are. An archive is
//! validated with a depth limit before anything of it is used. What is decoded takes at most a small multiple
//! of [`MAX_PACKET`] bytes.

use std::num::NonZeroUsize;

use rkyv::api::high::HighDeserializer;
use rkyv::api::low::{LowSerializer, to_bytes_in_with_alloc};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Strategy};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::util::AlignedVec;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Archive, Archived, Deserialize, Serialize};

use crate::{Error, Result};

/// The version of the prefix and of the greeting. It changes only if one of these does.
pub const WIRE_VERSION: u16 = 2;
/// The oldest and the newest version of the conversation that this code speaks. The greeting negotiates one.
pub const PROTOCOL_VERSIONS: (u16, u16) = (2, if cfg!(feature = "next-build") { 3 } else { 2 });
/// The features of sessions that this code knows: the low half are those that the other side must know as well.
pub const FEATURES: u64 = if cfg!(feature = "next-build") {
    1 << 32
} else {
    0
};
/// Longest packet, in bytes, with its prefix.
pub const MAX_PACKET: usize = 64 << 10;
/// Most descriptors that a packet carries.
pub const MAX_DESCRIPTORS: usize = 4;
/// Set in the kind of a message that a receiver may ignore if it does not know it.
pub const MAY_BE_IGNORED: u16 = 1 << 15;
/// The handle number of a message that is about the session itself.
pub const SESSION: u32 = 0;

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

    /// A packet of a message that this version does not know, for tests of what becomes of one.
    #[doc(hidden)]
    pub fn unknown(kind: u16, handle: u32) -> Self {
        let mut bytes = AlignedVec::new();
        bytes.extend_from_slice(&prefix(kind, 0, handle));
        Self(bytes)
    }
}

/// A message that was taken out of a packet, and the handle that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressed<M> {
    /// The handle's number in its session; [`SESSION`] for the session itself.
    pub handle: u32,
    /// The message; none where this version does not know it and may ignore it.
    pub message: Option<M>,
}

/// A control message: [`Request`](super::Request) or [`Event`](super::Event).
pub trait Message: Sized {
    /// Packs the message for a handle.
    ///
    /// # Errors
    /// [`Error::Control`] where it would be longer than [`MAX_PACKET`].
    fn pack(&self, handle: u32) -> Result<Packet>;

    /// Checks a packet that a peer sent and takes the message out of it. The bytes start at a multiple of 16.
    ///
    /// # Errors
    /// [`Error::Version`] for another version of the wire, [`Error::Control`] for everything else that is wrong.
    fn unpack(packet: &[u8]) -> Result<Addressed<Self>>;
}

/// Packs one message. The allocator is this call's own: a thread-local one may be gone when a handle is
/// dropped at the end of its thread.
pub(super) fn pack<M>(message: &M, kind: u16, handle: u32) -> Result<Packet>
where
    M: for<'a> Serialize<LowSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let mut scratch = Arena::new();
    let mut bytes = AlignedVec::new();
    bytes.extend_from_slice(&[0; PREFIX]);
    let mut bytes =
        to_bytes_in_with_alloc::<_, _, rancor::Error>(message, bytes, scratch.acquire())
            .map_err(|error| Error::Control(format!("cannot pack it: {error}")))?;
    debug_assert!(bytes.len() >= PREFIX, "the prefix is there");
    if bytes.len() > MAX_PACKET {
        return Err(Error::Control(format!(
            "it is {} bytes long, and the limit is {MAX_PACKET}; describe fewer fields",
            bytes.len()
        )));
    }
    let length = (bytes.len() - PREFIX) as u32;
    bytes[..PREFIX].copy_from_slice(&prefix(kind, length, handle));
    Ok(Packet(bytes))
}

fn prefix(kind: u16, length: u32, handle: u32) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    prefix[4..6].copy_from_slice(&WIRE_VERSION.to_le_bytes());
    prefix[6..8].copy_from_slice(&kind.to_le_bytes());
    prefix[8..12].copy_from_slice(&length.to_le_bytes());
    prefix[12..16].copy_from_slice(&handle.to_le_bytes());
    prefix
}

/// Takes a message out of its archive.
pub(super) fn unpack<M>(archive: &[u8]) -> Result<M>
where
    M: Archive,
    M::Archived: for<'a> CheckBytes<Strategy<ArchiveValidator<'a>, rancor::Error>>
        + Deserialize<M, HighDeserializer<rancor::Error>>,
{
    let broken = |error: rancor::Error| Error::Control(format!("its content is broken: {error}"));
    let mut validator = ArchiveValidator::with_max_depth(archive, Some(MAX_DEPTH));
    let archived: &Archived<M> =
        rkyv::api::access_with_context::<_, _, rancor::Error>(archive, &mut validator)
            .map_err(broken)?;
    rkyv::api::high::deserialize::<M, rancor::Error>(archived).map_err(broken)
}

/// A packet whose prefix is right.
pub(super) struct Opened<'a> {
    pub(super) kind: u16,
    pub(super) handle: u32,
    pub(super) archive: &'a [u8],
}

/// Which handle a packet is about, as far as that can be told from bytes that may be cut short.
pub(super) fn handle_of(packet: &[u8]) -> Option<u32> {
    let handle = packet.get(12..16)?;
    Some(u32::from_le_bytes(handle.try_into().ok()?))
}

/// Checks the prefix.
pub(super) fn open(packet: &[u8]) -> Result<Opened<'_>> {
    let wrong = |why: String| Err(Error::Control(why));
    let Some((prefix, archive)) = packet.split_first_chunk::<PREFIX>() else {
        return wrong(format!(
            "it is {} bytes long, shorter than a prefix",
            packet.len()
        ));
    };
    let word = |at: usize| {
        u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
    };
    let half = |at: usize| u16::from_le_bytes([prefix[at], prefix[at + 1]]);
    if word(0) != MAGIC {
        return wrong("it does not start as one; the other side is no part of bus".into());
    }
    let theirs = half(4);
    if theirs != WIRE_VERSION {
        return Err(Error::Version {
            theirs,
            ours: WIRE_VERSION,
        });
    }
    let length = word(8);
    if usize::try_from(length) != Ok(archive.len()) {
        return wrong(format!("it says {length} bytes and has {}", archive.len()));
    }
    Ok(Opened {
        kind: half(6),
        handle: word(12),
        archive,
    })
}

/// The versions of the conversation that this process speaks: [`PROTOCOL_VERSIONS`].
pub fn versions() -> (u16, u16) {
    #[cfg(feature = "next-build")]
    if let Some(versions) = super::next::versions() {
        return versions;
    }
    PROTOCOL_VERSIONS
}

/// What becomes of a message that this version does not know.
pub(super) fn unknown<M>(kind: u16, handle: u32) -> Result<Addressed<M>> {
    if kind & MAY_BE_IGNORED != 0 {
        return Ok(Addressed {
            handle,
            message: None,
        });
    }
    Err(Error::UnknownMessage {
        kind,
        ours: versions(),
    })
}

/// Declares a set of numbered messages: an enum for people, and an archive of its own for each variant.
macro_rules! messages {
    (
        $(#[$meta:meta])*
        pub enum $name:ident in $archives:ident {
            $(
                $(#[doc = $doc:literal])*
                $(#[cfg($gate:meta)])?
                $kind:literal => $variant:ident {
                    $( $(#[$field_meta:meta])* $field:ident : $type:ty, )*
                },
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $( $(#[doc = $doc])* $(#[cfg($gate)])? $variant { $( $(#[$field_meta])* $field: $type, )* }, )*
        }

        #[allow(missing_docs, clippy::empty_structs_with_brackets)]
        mod $archives {
            use super::*;
            $(
                $(#[cfg($gate)])?
                #[derive(Archive, Serialize, Deserialize)]
                pub(super) struct $variant { $( pub(super) $field: $type, )* }
            )*
        }

        impl Message for $name {
            fn pack(&self, handle: u32) -> Result<Packet> {
                match self {
                    $(
                        $(#[cfg($gate)])?
                        Self::$variant { $( $field, )* } => {
                            let archive = $archives::$variant { $( $field: $field.clone(), )* };
                            wire::pack(&archive, $kind, handle)
                        }
                    )*
                }
            }

            fn unpack(packet: &[u8]) -> Result<Addressed<Self>> {
                let opened = wire::open(packet)?;
                let message = match opened.kind {
                    $(
                        $(#[cfg($gate)])?
                        $kind => {
                            let $archives::$variant { $( $field, )* } =
                                wire::unpack(opened.archive)?;
                            Self::$variant { $( $field, )* }
                        }
                    )*
                    kind => return wire::unknown(kind, opened.handle),
                };
                Ok(Addressed { handle: opened.handle, message: Some(message) })
            }
        }
    };
}

pub(super) use messages;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Event, Refusal, Request};

    fn packed() -> AlignedVec {
        let event = Event::Refused {
            kind: Refusal::Limit,
            why: "full".into(),
        };
        event.pack(7).unwrap().0
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let event = Event::PublisherLeft {
            id: 7,
            dropped: true,
        };
        let packet = event.pack(u32::MAX).unwrap();
        let back = Event::unpack(packet.as_bytes()).unwrap();
        assert_eq!((back.handle, back.message), (u32::MAX, Some(event)));
    }

    #[test]
    fn a_message_without_content_comes_out_as_it_went_in() {
        let packet = Request::Join {}.pack(3).unwrap();
        let back = Request::unpack(packet.as_bytes()).unwrap();
        assert_eq!((back.handle, back.message), (3, Some(Request::Join {})));
    }

    #[test]
    fn the_prefix_stays_as_it_is() {
        let packet = Request::Join {}.pack(0x0102_0304).unwrap();
        assert_eq!(packet.as_bytes()[..8], *b"BusC\x02\0\x03\0");
        assert_eq!(packet.as_bytes()[12..16], [4, 3, 2, 1]);
        assert_eq!(handle_of(packet.as_bytes()), Some(0x0102_0304));
    }

    #[test]
    fn another_version_is_told_apart() {
        let mut bytes = packed();
        bytes[4] = 9;
        let error = Event::unpack(&bytes).unwrap_err();
        assert!(
            matches!(error, Error::Version { theirs: 9, ours: 2 }),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_message_is_ignored_only_where_its_sender_says_so() {
        let ignorable = Packet::unknown(MAY_BE_IGNORED | 4711, 5);
        let back = Event::unpack(ignorable.as_bytes()).unwrap();
        assert_eq!((back.handle, back.message), (5, None));
        let needed = Packet::unknown(4711, 5);
        let error = Event::unpack(needed.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("message 4711"), "{error}");
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
            kind: Refusal::Limit,
            why,
        };
        assert!(event.pack(1).unwrap_err().to_string().contains("65536"));
    }

    proptest::proptest! {
        /// A length or an offset from a peer must not be used as it is.
        #[test]
        fn no_change_of_a_byte_does_harm(at in 0_usize..200, value: u8) {
            let mut bytes = packed();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(Addressed { handle, message: Some(event) }) = Event::unpack(&bytes) {
                // Whatever is accepted is a whole message.
                proptest::prop_assert!(event.pack(handle).is_ok());
            }
        }
    }
}
