//! What the tests of several crates share. It knows nothing of the bus, so that every crate of the workspace can use it.
//!
//! [`needs`] is how a test says what it needs of the user that runs it; [`sandbox`] refuses a system call.

pub mod needs;
pub mod sandbox;
