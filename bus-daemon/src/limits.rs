//! What bounds a broker's work and memory, whatever its clients do.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Sessions at a time: one for each process and `Bus`.
pub const MAX_SESSIONS: usize = 4096;
/// Publishers, and subscribers, of one user at a time where the policy does not say less.
pub const MAX_HANDLES: usize = 65_536;
/// Topics at a time.
pub const MAX_TOPICS: usize = 4096;
/// Of them, topics that nothing has open and that keep rings of ended publishers; of the user that has most of them
/// the longest idle goes first.
pub const MAX_IDLE_TOPICS: usize = 256;

/// Processes of an earlier broker that are awaited at a time.
pub(crate) const MAX_PRESENTED_PROCESSES: usize = 4096;
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
