//! A reader segment that keeps a place for somebody who is still to come.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::layout::READER_MAGIC;
use super::reader_bytes;
use super::segment::{self, Kind};
use crate::backend::{MappedReader, ReaderMemory};
use crate::{Result, TopicSettings};

/// Makes a reader segment that nobody moves: its cursors stay 0, so that publishers that adopt it with their first message write over
/// none, and it never joins, so that they do not count it. Who takes its place starts at 0 before it is dropped.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory) where there is no page for it.
pub fn reserve(settings: &TopicSettings) -> Result<OwnedFd> {
    let (fd, mapping) = segment::create(Kind::Reader, reader_bytes(settings))?;
    let reader = MappedReader::new(Arc::new(mapping), settings);
    reader.header().identity.write(READER_MAGIC);
    Ok(fd)
}
