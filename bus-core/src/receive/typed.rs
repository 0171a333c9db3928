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
use rkyv::rancor::Failure;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;

use super::{Held, Message};
use crate::publish::Payload;
use crate::{Error, Result};

/// Containers inside containers that a message may have, itself included: bounds the validator's stack.
/// A publisher sends no message that is deeper.
pub const MAX_LEVELS: usize = 255;
/// The validator counts one more.
const MAX_NESTING: NonZeroUsize = NonZeroUsize::new(MAX_LEVELS + 1).unwrap();

/// Checks that the bytes are one `T`, and gives it in place.
///
/// # Errors
/// [`Error::Corrupt`].
#[inline(always)]
pub fn access<T: Payload>(bytes: &[u8], sequence: u64) -> Result<&T::Archived> {
    match check::<T>(bytes) {
        Ok(value) => Ok(value),
        Err(_) => Err(corrupt::<T>(bytes.len(), sequence)),
    }
}

/// Checks that the bytes are one `T` of at most [`MAX_LEVELS`] levels.
#[inline(always)]
pub(crate) fn check<T: Payload>(bytes: &[u8]) -> Result<&T::Archived, Failure> {
    let archive = ArchiveValidator::with_max_depth(bytes, Some(MAX_NESTING));
    access_with_context::<T::Archived, _, Failure>(bytes, &mut Validator::new(archive, ()))
}

#[cold]
fn corrupt<T: Payload>(len: usize, sequence: u64) -> Error {
    Error::Corrupt {
        sequence,
        why: format!("its {len} bytes are no value of type {}", T::kind()),
    }
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
