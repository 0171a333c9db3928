//! What a hostile peer writes: values at the edges of what is checked, and anything else.

use bus_core::memory::layout::{INLINE, NOWHERE, REPLACED};
use fastrand::Rng;

/// A word near `around`, at an edge of a number's range, `old` with a bit turned over, or anything.
pub fn wild(random: &mut Rng, around: u64, old: u64) -> u64 {
    match random.u8(..16) {
        0..=5 => around.wrapping_add(random.u64(..48)).wrapping_sub(24),
        6 => random.u64(..4),
        7 => 0_u64.wrapping_sub(random.u64(..4)),
        8 => REPLACED.wrapping_add(random.u64(..8)).wrapping_sub(4),
        9 => (1_u64 << 32).wrapping_add(random.u64(..8)).wrapping_sub(4),
        10 => (around.wrapping_add(random.u64(..8))) | REPLACED,
        11 => around.wrapping_add(1 << random.u8(32..63)),
        12 | 13 => old ^ 1 << random.u8(..64),
        _ => random.u64(..),
    }
}

/// Place and length of a message, packed as in a slot: on, just inside and just outside each bound, or anything.
pub fn place(random: &mut Rng, inline: u64, max_payload: u64, arena: u64) -> u64 {
    let units = arena / 64;
    let place = match random.u8(..10) {
        0..=3 => INLINE,
        4 => NOWHERE,
        5..=7 => random.u64(..units.max(1)) as u32,
        8 => (units.wrapping_add(random.u64(..4)).wrapping_sub(2)) as u32,
        _ => random.u32(..),
    };
    let limit = if place == INLINE { inline } else { max_payload };
    let len = match random.u8(..8) {
        0 => limit,
        1 => limit + 1,
        2 => 0,
        3 => {
            (arena.saturating_sub(u64::from(place).wrapping_mul(64))).wrapping_add(random.u64(..3))
        }
        4 => u64::from(u32::MAX) - random.u64(..2),
        5 => random.u64(..1 << 32),
        _ => random.u64(..=limit),
    };
    u64::from(place) << 32 | (len & u64::from(u32::MAX))
}
