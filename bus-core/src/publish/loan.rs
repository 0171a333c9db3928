//! A message of a fixed size, built in its slot.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rkyv::api::low;
use rkyv::rancor::Failure;

use super::{Payload, Slot};

/// A value under construction, in place: all zeroes at first. Dropping it publishes nothing.
pub struct Loan<'a, T: Payload> {
    value: NonNull<T::Archived>,
    slot: Slot<'a>,
}

impl<'a, T: Payload<Archived: Unpin>> Loan<'a, T> {
    /// Bytes that the slot must have.
    pub const BYTES: usize = size_of::<T::Archived>();

    /// Zeroes the slot's first [`BYTES`](Self::BYTES); none where zeroes are no value of the type, or the slot is shorter.
    ///
    /// Types with relative pointers are not `Unpin`, so that what is written through a plain reference stays valid. A type that its
    /// author made `Unpin` by hand all the same can only be given a value here whose pointers are empty: those of a value
    /// of zeroes, which is the only one that can be moved in.
    ///
    /// Whoever assigns a whole value copies its padding as well, which holds whatever was in that memory before: subscribers,
    /// also those of other users, can read that. Set the fields one by one where that matters.
    #[inline(always)]
    pub fn new(mut slot: Slot<'a>) -> Option<Self> {
        let bytes = slot.bytes().get_mut(..Self::BYTES)?;
        bytes.fill(0);
        let value = low::access_mut::<T::Archived, Failure>(bytes).ok()?;
        // SAFETY: an `Unpin` type may be moved; one that should not be `Unpin` has no pointer but empty ones, for it was
        // validated as zeroes. Its padding may become undefined, but the bytes of the slot are not looked at again in
        // this process.
        let value = NonNull::from(unsafe { value.unseal_unchecked() });
        Some(Self { value, slot })
    }

    /// Publishes the value; returns its sequence number.
    #[inline(always)]
    pub fn commit(self) -> u64 {
        self.slot.commit(Self::BYTES)
    }
}

impl<T: Payload> Deref for Loan<'_, T> {
    type Target = T::Archived;

    #[inline(always)]
    fn deref(&self) -> &T::Archived {
        // SAFETY: the value was validated in the slot that is kept here, and only safe code wrote to it since.
        unsafe { self.value.as_ref() }
    }
}

impl<T: Payload> DerefMut for Loan<'_, T>
where
    T::Archived: Unpin,
{
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T::Archived {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { self.value.as_mut() }
    }
}
