//! Measures bus against the physical floor: what the same machine does in the
//! same minute with nothing but a cache line, a futex, or a minimal ring.
//!
//! - [`subject`]: what is measured, and where a transport is plugged in.
//! - [`bus`]: bus itself. [`floor`]: the floors. [`coalesced`], [`compressed`]: what could be put on top of bus.
//! - [`measure`]: the loops that every transport runs through.
//! - [`select`]: bus through a selector. [`tasks`]: bus in tasks of a tokio runtime.
//! - [`joins`]: the time and memory that joining takes. [`handoff`]: messages built in place.
//! - [`placed`]: where memory is and threads run.
//! - [`harness`], [`side`], [`job`], [`outcome`]: one process for each side.
//! - [`brackets`], [`turns`], [`stretches`], [`trips`], [`report`]: rounds, ratios, figures.
//! - [`payload`], [`content`]: what is sent.
//! - [`counters`]: what a message costs besides time.
//! - [`commands`], [`cli`]: the program.
//!
//! This library serves the program `bus-bench`; it promises nothing to others.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("bus-bench measures memfd, futex and ptrace: it needs Linux");

pub mod brackets;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod coalesced;
pub mod commands;
pub mod compressed;
pub mod content;
pub mod counters;
pub mod floor;
pub mod handoff;
pub mod harness;
pub mod job;
pub mod joins;
pub mod measure;
pub mod outcome;
pub mod patience;
pub mod payload;
pub mod placed;
pub mod report;
pub mod select;
pub mod side;
pub mod stretches;
pub mod subject;
pub mod tasks;
pub mod trips;
pub mod turns;
