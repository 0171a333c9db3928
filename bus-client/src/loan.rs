//! Messages built in place: room first, content after.

use std::any::type_name;
use std::ops::{Deref, DerefMut};

use bus_core::publish::{self, Payload, Slot};

use crate::outlet::Outlet;
use crate::{Error, Result};

/// A message of a fixed size under construction, in its slot. [`send`](Self::send) publishes it; dropping it does not.
pub struct Loan<'a, T: Payload> {
    loan: publish::Loan<'a, T>,
}

impl<'a, T: Payload<Archived: Unpin>> Loan<'a, T> {
    pub(crate) fn new(outlet: &'a mut Outlet) -> Result<Self> {
        let topic = outlet.topic();
        let slot = claim(outlet, publish::Loan::<T>::BYTES)?;
        let kind = type_name::<T>();
        let loan = publish::Loan::new(slot).ok_or(Error::NoLoan { topic, kind })?;
        Ok(Self { loan })
    }

    /// Publishes it; returns its sequence number.
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

/// Raw bytes under construction, in place. [`send`](Self::send) publishes them; dropping it does not.
pub struct BytesLoan<'a> {
    slot: Slot<'a>,
}

impl<'a> BytesLoan<'a> {
    pub(crate) fn new(outlet: &'a mut Outlet, len: usize) -> Result<Self> {
        let slot = claim(outlet, len)?;
        Ok(Self { slot })
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.slot.bytes()
    }

    /// Publishes the first `len` bytes, or all where that is more; returns the sequence number.
    pub fn send(self, len: usize) -> u64 {
        self.slot.commit(len)
    }
}

/// Claims `len` bytes, waiting for room.
///
/// A claim borrows the publisher for as long as it lives, so room is waited for first and claimed after: nobody takes it between.
fn claim(outlet: &mut Outlet, len: usize) -> Result<Slot<'_>> {
    outlet.until(None, |core| Ok(core.try_loan(len)?.map(drop)))?;
    outlet.loan(len)
}
