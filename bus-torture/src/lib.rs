//! Tries to break bus, with real processes, real memory, real kills.
//!
//! Each command is a folder of its own, and has the same shape: it takes a [`Budget`](budget::Budget), tries as much as fits, and
//! returns an [`Outcome`](outcome::Outcome): what was tried, and every promise that did not hold. A command that tried nothing has failed.
//! Whatever it chooses at random follows from the seed that it prints.

pub mod budget;
pub mod cli;
pub mod crowd;
pub mod faults;
pub mod fuzz;
pub mod hostile;
pub mod kill_points;
pub mod outcome;
pub mod pen;
pub mod process;
pub mod progress;
pub mod restarts;
pub mod simulate;
pub mod soak;
pub mod stops;
pub mod tracer;
