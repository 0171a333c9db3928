//! Values copied out of shared memory: they outlive every ring, and nobody else can write there.
//!
//! Promises: a value was valid in the copy, so not even a publisher that breaks the protocol can change it afterwards.

use std::marker::PhantomData;
use std::ops::Deref;

use rkyv::util::AlignedVec;

use super::{Message, access};
use crate::Result;
use crate::publish::Payload;

/// One value, copied.
pub struct Copied<T: Payload> {
    bytes: AlignedVec,
    _holds: PhantomData<fn() -> T>,
}

impl<T: Payload> Copied<T> {
    /// Copies a message and validates the copy.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt).
    pub fn of(message: &Message<'_>) -> Result<Self> {
        Self::new(message.bytes(), message.sequence(), AlignedVec::new())
    }

    /// The same, in the memory of this copy. It keeps its value where the message is not valid.
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub fn update(&mut self, message: &Message<'_>, spare: &mut AlignedVec) -> Result<()> {
        let room = std::mem::take(spare);
        let new = Self::new(message.bytes(), message.sequence(), room)?;
        *spare = std::mem::replace(self, new).bytes;
        Ok(())
    }

    fn new(payload: &[u8], sequence: u64, mut bytes: AlignedVec) -> Result<Self> {
        bytes.clear();
        bytes.extend_from_slice(payload);
        access::<T>(&bytes, sequence)?;
        Ok(Self {
            bytes,
            _holds: PhantomData,
        })
    }

    /// The value as it was sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Payload> Deref for Copied<T> {
    type Target = T::Archived;

    #[inline(always)]
    fn deref(&self) -> &T::Archived {
        // SAFETY: the bytes are this value's own, were validated when it was made, and have not changed since.
        unsafe { rkyv::access_unchecked(&self.bytes) }
    }
}
