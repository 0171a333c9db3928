//! The integration tests of the attribute in one program, a module for each subject.
//!
//! `documented` has a program of its own, because what it forbids, it forbids in its whole crate.

mod bus {
    pub use bus_core::schema;
    pub use rkyv;
}

mod items;
mod layout;
