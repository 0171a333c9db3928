//! Shared memory: what lies where, how a segment comes to be, and how a peer's is checked before use.
//!
//! Every segment has one writer. Its creator maps it read-write, seals it, and hands out the descriptor;
//! everybody else can map it read-only and nothing more.

pub mod layout;
pub mod registry;
mod room;
pub mod segment;

use crate::TopicSettings;

/// Bytes of a reader segment.
pub const READER_BYTES: u64 = layout::PAGE as u64;
/// Bytes of a registry segment.
pub const REGISTRY_BYTES: u64 = layout::PAGE as u64;

/// Bytes of a ring segment with these settings: header, slots, arena.
pub fn ring_bytes(settings: &TopicSettings) -> u64 {
    layout::PAGE as u64 + slot_bytes(settings) + settings.arena
}

/// Bytes of all slots of a ring.
pub(crate) fn slot_bytes(settings: &TopicSettings) -> u64 {
    u64::from(settings.depth) * u64::from(settings.stride)
}
