//! What bounds a broker's work and memory, whatever its clients do.

use bus_core::memory::layout;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Connections at a time. Each is a publisher or a subscriber, and takes three descriptors, or four if it may park.
pub const MAX_CONNECTIONS: usize = 4096;
/// Topics at a time.
pub const MAX_TOPICS: usize = 4096;
/// Of them, topics that nobody has open and that keep rings of ended publishers; of the user who has most of them the
/// longest idle goes first.
pub const MAX_IDLE_TOPICS: usize = 256;
/// Events that wait for a watch that does not read; one that has more is cut off.
pub const MAX_QUEUED_OF_WATCH: usize = 4096;
/// Events that wait for a publisher or subscriber that does not read. As many there are not: of each whom it was told of it may have to hear that that
/// one left, of each who is there that it joined and that it may park, and of each member of earlier brokers that it is gone. One that has more is cut off.
pub const MAX_QUEUED: usize = 3 * MAX_CONNECTIONS + MAX_RECORDS as usize;

/// Publishers of a topic.
pub(crate) const MAX_PUBLISHERS: u16 = layout::MAX_PUBLISHERS as u16;
/// Members and watches of earlier brokers that are read from the census.
pub(crate) const MAX_RECORDS: u64 = 16_384;
/// Requests of one client that are looked at before others get their turn.
pub(crate) const REQUESTS_PER_TURN: usize = 16;
/// Connections that are accepted before others get their turn.
pub(crate) const ACCEPTS_PER_TURN: usize = 64;
/// Longest sentence in a refusal, in bytes.
pub(crate) const MAX_WHY: usize = 1024;

/// How many descriptors this process may have, if the kernel says.
pub(crate) fn descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE);
    limit.ok().map(|(soft, _)| soft)
}

/// Raises this process's soft limit of descriptors to its hard limit (`RLIMIT_NOFILE`). Failing is no error: the limit shows where it
/// is reached.
///
/// For a program that uses no `select()`, which cannot take descriptors from 1024 on. Programs that this process starts later inherit
/// the limit.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, soft, hard, "cannot raise the limit of descriptors");
    }
}
