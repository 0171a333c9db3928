//! The floors: what the machine can do at best, without a bus.
//!
//! - [`mod@line`]: two processes bounce a cache line in each direction.
//! - [`futex`]: two processes put each other to sleep and wake each other.
//! - [`stamped`] and [`packed`]: the two minimal single-producer rings.
//! - [`copy`]: how fast one processor copies memory.
//!
//! They trust each other and check only what keeps memory safe. They share
//! nothing with the bus, neither code nor layout, so that a mistake in one does
//! not hide in the other.
// The ban keeps shared words of the bus behind its model-checked backend. The
// floors must not use that backend: they are what it is measured against.
#![allow(clippy::disallowed_types)]

pub mod copy;
pub mod epoll;
pub mod futex;
pub mod layout;
pub mod line;
pub mod memory;
pub mod packed;
pub mod stamped;
