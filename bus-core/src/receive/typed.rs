//! Bytes become `&Archived<T>`: validated once, then read in place.
//!
//! Promises: a value handed out was valid when it was checked, with its root at the end of the payload and its
//! nesting bounded. A publisher of the same user that rewrites a payload after that can mislead its reader, unless the type
//! has neither pointers nor invalid bit patterns.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;

use rkyv::Archive;
use rkyv::api::access_with_context;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Failure, Source};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;

use super::{Held, Message};
use crate::publish::Payload;
use crate::{Error, Result};

/// Pointers inside pointers that a message may have: bounds the validator's stack.
const MAX_NESTING: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Checks that the bytes are one `T`, and gives it in place.
///
/// # Errors
/// [`Error::Corrupt`] with the validator's words.
#[inline(always)]
pub fn access<T: Payload>(bytes: &[u8], sequence: u64) -> Result<&T::Archived> {
    match check::<T::Archived, Failure>(bytes) {
        Ok(value) => Ok(value),
        Err(_) => Err(explain::<T>(bytes, sequence)),
    }
}

#[inline(always)]
fn check<T, E: Source>(bytes: &[u8]) -> Result<&T, E>
where
    T: rkyv::Portable + for<'a> CheckBytes<LowValidator<'a, E>>,
{
    let archive = ArchiveValidator::with_max_depth(bytes, Some(MAX_NESTING));
    access_with_context::<T, _, E>(bytes, &mut Validator::new(archive, ()))
}

/// Does it again with an error type that keeps the reason.
#[cold]
fn explain<T: Payload>(bytes: &[u8], sequence: u64) -> Error {
    let why = match check::<T::Archived, rancor::Error>(bytes) {
        Ok(_) => "it changed while it was checked".into(),
        Err(why) => why.to_string(),
    };
    Error::Corrupt { sequence, why }
}

/// A message and the value in it.
pub struct Typed<M, T: Archive> {
    value: NonNull<T::Archived>,
    message: M,
}

/// A typed message, borrowed from its subscriber.
pub type Received<'a, T> = Typed<Message<'a>, T>;
/// A typed message of its own.
pub type HeldValue<T> = Typed<Held, T>;

// SAFETY: shared access to the value is all there is, as with a reference.
unsafe impl<T: Archive<Archived: Sync>> Send for HeldValue<T> {}
// SAFETY: as above.
unsafe impl<T: Archive<Archived: Sync>> Sync for HeldValue<T> {}

impl<'a, T: Payload> Received<'a, T> {
    /// Validates a message.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; the message is passed over.
    #[inline(always)]
    pub fn new(message: Message<'a>) -> Result<Self> {
        let value = NonNull::from(access::<T>(message.bytes(), message.sequence())?);
        Ok(Self { value, message })
    }

    /// The same message, independent of the subscriber's life and thread: see [`Message::hold`].
    pub fn hold(self) -> HeldValue<T> {
        Typed {
            value: self.value,
            message: self.message.hold(),
        }
    }

    /// Its sequence number in its publisher's ring: 0, 1, 2, …
    pub fn sequence(&self) -> u64 {
        self.message.sequence()
    }

    /// Its publisher: a number that no other publisher has or had.
    pub fn publisher(&self) -> u64 {
        self.message.publisher()
    }

    /// How many messages of its publisher were lost right before it; 0 but on a lossy topic.
    pub fn lost(&self) -> u64 {
        self.message.lost()
    }
}

impl<T: Payload> HeldValue<T> {
    /// Its sequence number in its publisher's ring.
    pub fn sequence(&self) -> u64 {
        self.message.sequence()
    }

    /// Its publisher.
    pub fn publisher(&self) -> u64 {
        self.message.publisher()
    }

    /// How many messages of its publisher were lost right before it.
    pub fn lost(&self) -> u64 {
        self.message.lost()
    }
}

impl<M, T: Archive> Deref for Typed<M, T> {
    type Target = T::Archived;

    #[inline(always)]
    fn deref(&self) -> &T::Archived {
        // SAFETY: the value was validated in the payload that `message` keeps in place until it is dropped.
        unsafe { self.value.as_ref() }
    }
}

impl<M, T: Archive<Archived: fmt::Debug>> fmt::Debug for Typed<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
