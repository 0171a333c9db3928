//! Where everything stands in the shared memory of a job.
//!
//! ```text
//! +0      board   a line for each subscriber: messages read, for the harness
//! +page   link 0: ring of publisher 0, ring of publisher 1, ...
//!         link 1: ...
//!
//! ring
//! +0      front   written by the publisher
//! +128    cursor  of subscriber 0, then of subscriber 1, ... 128 bytes apart
//! +page   data
//! ```
//!
//! Words of different writers stand 128 bytes apart: processors fetch lines in pairs.

use crate::job::Job;

/// Between words of different writers.
pub const APART: usize = 128;
const PAGE: usize = 4096;

/// A job's links: one there for a stream, one in each direction for a bounce.
pub const LINKS: usize = 2;

/// Bytes of a slot of the stamped ring: the stamp and the payload in whole lines.
#[must_use]
pub fn stride(payload: usize) -> usize {
    (8 + payload).next_multiple_of(64)
}

/// Bytes of a message of the packed ring: the header and the payload in whole words.
#[must_use]
pub fn packed(payload: usize) -> usize {
    8 + payload.next_multiple_of(8)
}

/// Bytes of the packed ring's data, a power of two: what the stamped ring has, and
/// room for four messages at least, so that a message cut off by the end always fits.
#[must_use]
pub fn packed_capacity(job: &Job) -> usize {
    (job.depth * stride(job.payload))
        .max(4 * packed(job.payload))
        .next_power_of_two()
}

/// Where subscriber `index` tells the harness how much it has read.
#[must_use]
pub fn board(index: usize) -> usize {
    index * APART
}

/// Where the ring of `publisher` on `link` starts.
#[must_use]
pub fn ring(job: &Job, link: usize, publisher: usize) -> usize {
    board(job.subscribers).next_multiple_of(PAGE)
        + (link * job.publishers + publisher) * ring_bytes(job)
}

/// Where the cursor of `subscriber` stands, from the start of a ring.
#[must_use]
pub fn cursor(subscriber: usize) -> usize {
    APART * (1 + subscriber)
}

/// Where the data stands, from the start of a ring.
#[must_use]
pub fn data(job: &Job) -> usize {
    cursor(job.subscribers).next_multiple_of(PAGE)
}

/// Bytes of the whole shared memory.
#[must_use]
pub fn total(job: &Job) -> usize {
    ring(job, LINKS, 0)
}

fn ring_bytes(job: &Job) -> usize {
    data(job) + packed_capacity(job).next_multiple_of(PAGE)
}
