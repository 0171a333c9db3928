//! What a message costs its process besides time.
//!
//! - [`allocations`]: calls of the allocator.
//! - [`usage`]: context switches and page faults.
//! - [`memory`]: resident memory, and what segments take.
//! - [`instructions`]: instructions, counted one by one with ptrace.
//! - [`syscalls`]: system calls, counted from outside with ptrace.

pub mod allocations;
pub mod instructions;
pub mod memory;
pub mod syscalls;
pub mod usage;
