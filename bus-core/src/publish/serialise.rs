//! A value becomes bytes, straight in its slot or arena span: no buffer between, no allocation once warm.
//!
//! The value's root stands last and the length is exact, as rkyv wants it. What outgrows the room it was given is
//! reported as such, so that more room can be claimed; where that is asked for, with the bytes that it needs.

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;

use rkyv::api::low::{LowSerializer, LowValidator, to_bytes_in_with_alloc};
use rkyv::boxed::ArchivedBox;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{BoxedError, Failure, Source};
use rkyv::ser::allocator::{Allocator, Arena, ArenaHandle};
use rkyv::ser::{Positional, Writer};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Serialize};

use crate::receive::{MAX_LEVELS, check};
use crate::schema::{Describe, Nesting};
use crate::{Error, Result};

/// Writes into a span of shared memory that this process owns.
#[derive(Debug)]
pub struct SlotWriter<'a> {
    span: &'a mut [u8],
    pos: usize,
    outgrown: &'a Cell<bool>,
    beyond: Beyond,
}

/// What to do about bytes beyond the end of the span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beyond {
    /// Stop there.
    Stop,
    /// Count them.
    Count,
}

/// How a value fits its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It takes so many bytes of it.
    Takes(u32),
    /// It needs more: so many bytes.
    Needs(usize),
}

impl Positional for SlotWriter<'_> {
    #[inline(always)]
    fn pos(&self) -> usize {
        self.pos
    }
}

impl<E: Source> Writer<E> for SlotWriter<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        let end = self.pos + bytes.len();
        let Some(span) = self.span.get_mut(self.pos..end) else {
            self.outgrown.set(true);
            if self.beyond == Beyond::Count {
                self.pos = end;
                return Ok(());
            }
            return Err(E::new(Outgrown));
        };
        span.copy_from_slice(bytes);
        self.pos = end;
        Ok(())
    }
}

/// The value needs more room than it was given.
#[derive(Debug, thiserror::Error)]
#[error("the value needs more room")]
struct Outgrown;

/// Scratch memory for types that need some while they are serialised (a `Vec` of `String`s); kept from one
/// message to the next. Most types need none, so it is acquired at the first use.
pub struct Scratch<'a>(Acquired<'a>);

enum Acquired<'a> {
    Not(Option<&'a mut Arena>),
    Yes(ArenaHandle<'a>),
}

// SAFETY: every call goes to the one handle, which keeps the contract.
unsafe impl<E: Source> Allocator<E> for Scratch<'_> {
    unsafe fn push_alloc(&mut self, layout: Layout) -> Result<NonNull<[u8]>, E> {
        if let Acquired::Not(arena) = &mut self.0 {
            let Some(arena) = arena.take() else {
                return Err(E::new(Outgrown));
            };
            self.0 = Acquired::Yes(arena.acquire());
        }
        match &mut self.0 {
            // SAFETY: the caller's promise is passed on.
            Acquired::Yes(handle) => unsafe { handle.push_alloc(layout) },
            Acquired::Not(_) => Err(E::new(Outgrown)),
        }
    }

    unsafe fn pop_alloc(&mut self, ptr: NonNull<u8>, layout: Layout) -> Result<(), E> {
        match &mut self.0 {
            // SAFETY: the caller's promise is passed on; what is popped was pushed, so the handle is there.
            Acquired::Yes(handle) => unsafe { handle.pop_alloc(ptr, layout) },
            Acquired::Not(_) => Err(E::new(Outgrown)),
        }
    }
}

/// The serialiser that a message's type must support.
pub type SlotSerializer<'a, E = Failure> = LowSerializer<SlotWriter<'a>, Scratch<'a>, E>;

/// What can be sent and read in place: described, serialised by rkyv, validated by bytecheck.
///
/// `#[bus_client::message]` makes a type one. Shared pointers (`Rc`, `Arc`) inside a message are not supported.
///
/// # How deep a value may nest
/// A message has at most 255 levels. The value itself is the first one, and each container inside a
/// container (`Box`, `Vec`, `String`, maps) is one more. Only a type that holds itself, such as a list or
/// a tree, can exceed that. Sending such a value fails with [`Error::TooDeep`], and nothing is published.
///
/// A publisher serialises a value by recursion, before it can count the levels. A value of many thousand
/// levels can overflow the stack of its thread, which ends the process. Dropping such a value in Rust has
/// the same limit.
///
/// # While its publisher rewrites it
/// A message is validated once. A publisher of another user cannot change what was validated: its messages are
/// [copied](crate::control::Trust). One of the same user that breaks the protocol on purpose can. Where
/// [`TAMPER_PROOF`](Describe::TAMPER_PROOF) is true (numbers, and arrays, tuples and structs of numbers), its subscriber may then read other values
/// than were sent, also a different one at each look, and nothing worse. All other types can mislead it in any way: they have relative pointers
/// (`String`, `Vec`, maps) or bit patterns that are no value (`bool`, `char`, enums, `Option`), and what was valid when it was checked need not be so when
/// it is read.
pub trait Payload:
    'static
    + Describe
    + Archive<Archived: 'static + for<'a> CheckBytes<LowValidator<'a, Failure>>>
    + for<'a> Serialize<SlotSerializer<'a>>
    + for<'a> Serialize<SlotSerializer<'a, BoxedError>>
{
}

impl<T> Payload for T where
    T: 'static
        + Describe
        + Archive<Archived: 'static + for<'a> CheckBytes<LowValidator<'a, Failure>>>
        + for<'a> Serialize<SlotSerializer<'a>>
        + for<'a> Serialize<SlotSerializer<'a, BoxedError>>
{
}

/// Serialises into `span`; the bytes used, or none where the value outgrows it.
///
/// # Errors
/// [`Error::Serialise`] for any other reason, in the words of the type's own serialiser.
#[inline(always)]
pub(super) fn into_span<T: Payload>(
    value: &T,
    span: &mut [u8],
    scratch: &mut Arena,
) -> Result<Option<u32>> {
    let outgrown = Cell::new(false);
    let writer = SlotWriter {
        span: &mut *span,
        pos: 0,
        outgrown: &outgrown,
        beyond: Beyond::Stop,
    };
    match to_bytes_in_with_alloc::<_, _, Failure>(
        value,
        writer,
        Scratch(Acquired::Not(Some(scratch))),
    ) {
        Ok(writer) => Ok(Some(writer.pos as u32)),
        Err(_) if outgrown.get() => Ok(None),
        Err(_) => Err(explain(value, span, scratch)),
    }
}

/// As [`into_span`]; where the value outgrows the span, what is beyond it is counted.
///
/// # Errors
/// As for [`into_span`].
pub(super) fn measure_into<T: Payload>(
    value: &T,
    span: &mut [u8],
    scratch: &mut Arena,
) -> Result<Fit> {
    let outgrown = Cell::new(false);
    let writer = SlotWriter {
        span: &mut *span,
        pos: 0,
        outgrown: &outgrown,
        beyond: Beyond::Count,
    };
    match to_bytes_in_with_alloc::<_, _, Failure>(
        value,
        writer,
        Scratch(Acquired::Not(Some(scratch))),
    ) {
        Ok(writer) if outgrown.get() => Ok(Fit::Needs(writer.pos)),
        Ok(writer) => Ok(Fit::Takes(writer.pos as u32)),
        Err(_) => Err(explain(value, span, scratch)),
    }
}

/// Longest payload that needs no look at its levels: each level has a relative pointer to the next one.
const SHALLOW: u32 = (MAX_LEVELS * size_of::<ArchivedBox<u8>>()) as u32;

/// Whether a serialised value may have too many levels, by its length alone.
#[inline(always)]
pub(super) fn may_be_deep(len: u32) -> bool {
    len > SHALLOW
}

/// Checks the levels of a serialised value: subscribers would refuse it.
///
/// # Errors
/// [`Error::TooDeep`].
pub(super) fn check_levels<T: Payload>(bytes: &[u8], nesting: Nesting) -> Result<()> {
    match nesting {
        Nesting::OfValue if check::<T>(bytes).is_err() => Err(Error::TooDeep { limit: MAX_LEVELS }),
        Nesting::OfValue | Nesting::OfType => Ok(()),
    }
}

/// Serialises into memory of this process, for who needs the bytes of a message beside the message.
///
/// # Errors
/// [`Error::TooLarge`] where it needs more than `limit` bytes; [`Error::TooDeep`]; [`Error::Serialise`].
pub fn to_bytes<T: Payload>(value: &T, limit: usize, nesting: Nesting) -> Result<AlignedVec> {
    let mut scratch = Arena::new();
    let mut bytes = AlignedVec::new();
    let mut room = size_of::<T::Archived>().max(64);
    loop {
        bytes.resize(room.min(limit), 0);
        match measure_into(value, &mut bytes, &mut scratch)? {
            Fit::Takes(len) => {
                bytes.resize(len as usize, 0);
                if may_be_deep(len) {
                    check_levels::<T>(&bytes, nesting)?;
                }
                return Ok(bytes);
            }
            Fit::Needs(len) if len > limit => return Err(Error::TooLarge { len, limit }),
            Fit::Needs(len) => room = len,
        }
    }
}

/// The bytes that a value needs.
///
/// # Errors
/// [`Error::Serialise`].
#[cold]
pub(super) fn measure<T: Payload>(value: &T, scratch: &mut Arena) -> Result<usize> {
    match measure_into(value, &mut [], scratch)? {
        Fit::Takes(len) => Ok(len as usize),
        Fit::Needs(len) => Ok(len),
    }
}

/// Does it again with an error type that keeps the reason.
#[cold]
fn explain<T: Payload>(value: &T, span: &mut [u8], scratch: &mut Arena) -> Error {
    let outgrown = Cell::new(false);
    let writer = SlotWriter {
        span,
        pos: 0,
        outgrown: &outgrown,
        beyond: Beyond::Count,
    };
    let result = to_bytes_in_with_alloc::<_, _, BoxedError>(
        value,
        writer,
        Scratch(Acquired::Not(Some(scratch))),
    );
    Error::Serialise(match result {
        Ok(_) => "it failed once and then succeeded".into(),
        Err(why) => why.to_string(),
    })
}
