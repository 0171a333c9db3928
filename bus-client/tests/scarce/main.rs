//! Processes of the client that may have very few descriptors, little memory or short files.
//!
//! They are a program of their own, and run one after the other. The kernel compares the descriptors that all processes of a user have in
//! flight with the limit of the process that sends: a process that may have forty fails when others of its user pass on forty.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[path = "../common/mod.rs"]
mod common;

mod limits;
mod shortage;

/// Keeps other tests of this program away while it lives.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // One that failed says nothing of the next.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
