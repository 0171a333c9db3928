//! Messages as bytes, for the links that need them so.

use anyhow::Context as _;
use bus_client::Payload;
use bus_client::rkyv::api::high::{HighSerializer, HighValidator, access, to_bytes_in};
use bus_client::rkyv::bytecheck::CheckBytes;
use bus_client::rkyv::rancor::Error;
use bus_client::rkyv::ser::allocator::ArenaHandle;
use bus_client::rkyv::util::AlignedVec;
use bus_client::rkyv::{Archive, Archived, Serialize};

/// Longest message of the demo, in bytes.
pub const LONGEST: usize = 512;

/// What can be made bytes and read in place again.
pub trait Serial:
    Payload
    + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>
    + Archive<Archived: for<'a> CheckBytes<HighValidator<'a, Error>>>
{
}

impl<T> Serial for T where
    T: Payload
        + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>
        + Archive<Archived: for<'a> CheckBytes<HighValidator<'a, Error>>>
{
}

/// Appends a message to what is in the buffer.
pub fn write<T: Serial>(message: &T, buffer: AlignedVec) -> anyhow::Result<AlignedVec> {
    to_bytes_in::<_, Error>(message, buffer).context("cannot serialise a message")
}

/// The message in these bytes, which begin at a multiple of 16.
pub fn read<T: Serial>(bytes: &[u8]) -> anyhow::Result<&Archived<T>> {
    access::<Archived<T>, Error>(bytes).context("a message is not valid")
}
