//! The integration tests of the core in one program, a module for each subject.
//!
//! They run at once, on threads of one process: a test here changes nothing that a whole process has. A test that needs such a
//! change makes it in a child process, which is this program again with one ignored test to run. `zero_alloc` has a
//! program of its own, because an allocator belongs to a whole program.

#[path = "../common/mod.rs"]
mod common;

mod arena;
mod borrow;
mod cells;
mod copies;
mod decided;
mod evict;
mod heap;
mod holding;
mod hostile;
mod hostile_overrun;
mod interleave;
mod join;
mod many;
mod model;
mod offered;
mod overrun;
mod placement;
mod protection;
mod race;
mod sandbox;
mod sequence;
mod typed;
mod wake;
