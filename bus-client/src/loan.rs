//! Messages built in place: room first, content after.

use std::any::type_name;
use std::ops::{Deref, DerefMut};

use bus_core::publish::{self, Payload, Slot};

use crate::{Error, Result};

/// A message of a fixed size under construction, in its slot. [`send`](Self::send) publishes it; dropping it does not.
///
/// Set its fields one by one. Assigning a whole value (`*loan = value`) also copies the padding between its fields,
/// which holds whatever was in that memory before, to every subscriber.
///
/// A forked child does not have the slot: there, writing to a loan of its parent, or sending it, is a fault
/// (`SIGSEGV`). Dropping it is not.
pub struct Loan<'a, T: Payload> {
    loan: publish::Loan<'a, T>,
}

impl<'a, T: Payload<Archived: Unpin>> Loan<'a, T> {
    /// Bytes that it takes.
    pub(crate) const BYTES: usize = publish::Loan::<T>::BYTES;

    #[inline(always)]
    pub(crate) fn new(slot: Slot<'a>) -> Result<Self> {
        match publish::Loan::new(slot) {
            Some(loan) => Ok(Self { loan }),
            None => Err(Error::NoLoan {
                kind: type_name::<T>(),
            }),
        }
    }

    /// Publishes it; returns its sequence number.
    #[inline]
    pub fn send(self) -> u64 {
        self.loan.commit()
    }
}

impl<T: Payload> Deref for Loan<'_, T> {
    type Target = T::Archived;

    fn deref(&self) -> &T::Archived {
        &self.loan
    }
}

impl<T: Payload<Archived: Unpin>> DerefMut for Loan<'_, T> {
    fn deref_mut(&mut self) -> &mut T::Archived {
        &mut self.loan
    }
}

/// Raw bytes under construction, in place. [`send`](Self::send) publishes them; dropping it does not. In a forked child a
/// loan of its parent must not be touched, as for [`Loan`].
pub struct BytesLoan<'a> {
    slot: Slot<'a>,
}

impl<'a> BytesLoan<'a> {
    #[inline(always)]
    pub(crate) fn new(slot: Slot<'a>) -> Self {
        Self { slot }
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        self.slot.bytes()
    }

    /// Publishes the first `len` bytes, or all where that is more; returns the sequence number.
    #[inline]
    pub fn send(self, len: usize) -> u64 {
        self.slot.commit(len)
    }
}
