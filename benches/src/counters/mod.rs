//! What a message costs its process besides time.
//!
//! - [`allocations`]: calls of the allocator.
//! - [`usage`]: context switches and page faults.
//! - [`memory`]: resident memory, and what segments take.
//! - [`syscalls`]: system calls, counted from outside with ptrace.

pub mod allocations;
pub mod memory;
pub mod syscalls;
pub mod usage;
