//! The ring protocol of bus under the loom model checker.
//!
//! Here is no copy of the protocol: [`Loom`] is a backend like the native one, and the models run the very code of
//! `bus-core` over it. A model is a small program with few threads, few messages and a small ring; loom runs it in every
//! order of its steps, up to a number of preemptions, and with every value that a load may return. Whatever goes
//! wrong in one of them is a panic: an assertion, a payload touched by two sides at once, or a deadlock.
//!
//! | module | what is there |
//! | --- | --- |
//! | [`models`] | the models, in one table |
//! | [`actors`] | who acts in them: broker, writer, subscriber |
//! | [`memory`], [`payload`] | segments made of modelled words |
//! | [`backend`], [`fence`], [`futex`], [`doorbell`], [`fuse`], [`kernel`] | what they stand on |
//! | [`mutant`] | one ordering or fence weakened, or one wake-up left out |
//!
//! It does not model the membarrier call, the death of a process or the mapping of memory: see `README.md`.

#![forbid(unsafe_code)]

pub mod actors;
pub mod backend;
pub mod doorbell;
pub mod fence;
pub mod fuse;
pub mod futex;
pub mod kernel;
pub mod memory;
pub mod models;
pub mod mutant;
pub mod payload;

pub use backend::Loom;
pub use models::{MODELS, Model};
