//! What a message costs its process besides time.
//!
//! - [`allocations`]: calls of the allocator.
//! - [`usage`]: context switches, page faults, resident memory.
//! - [`syscalls`]: system calls, counted from outside with ptrace.

pub mod allocations;
pub mod syscalls;
pub mod usage;
