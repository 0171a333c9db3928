//! Shared memory: what lies where, how a segment comes to be, and how a peer's is checked before use.
//!
//! Every segment has one writer. Its creator maps it read-write, seals it, and hands out the descriptor;
//! everybody else can map it read-only and nothing more.

pub mod layout;
mod pages;
mod place;
pub mod placement;
pub mod registry;
mod room;
pub mod segment;
mod told;

pub use place::reserve;

use crate::TopicSettings;

/// Bytes of a registry segment.
pub const REGISTRY_BYTES: u64 = layout::PAGE as u64;

/// Bytes of a reader segment with these settings: header and cursors, pins.
pub fn reader_bytes(settings: &TopicSettings) -> u64 {
    let pins = settings.overrun().map_or(0, |rules| rules.pins);
    let words = pins as u64 * layout::MAX_PUBLISHERS as u64;
    let page = layout::PAGE as u64;
    page + (words * size_of::<u64>() as u64).next_multiple_of(page)
}

/// Bytes of a ring segment with these settings: header, slots, arena.
pub fn ring_bytes(settings: &TopicSettings) -> u64 {
    layout::PAGE as u64 + slot_bytes(settings) + settings.arena
}

/// Bytes of all slots of a ring.
pub(crate) fn slot_bytes(settings: &TopicSettings) -> u64 {
    u64::from(settings.depth) * u64::from(settings.stride)
}
