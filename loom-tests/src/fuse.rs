//! A thread that stops for ever between two stores, as a process does that is killed there.
//!
//! Promises: the stores before are made, none after. What the thread had in hand stays as it was: nothing is cleaned up.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use loom::thread::{self, ThreadId};

use crate::kernel;

/// Which thread stops, and how many stores it still makes.
#[derive(Default)]
pub struct Fuse(Cell<Option<(ThreadId, usize)>>);

/// What unwinds a thread that stops.
struct Stopped;

impl Fuse {
    /// This thread is about to store something.
    pub(crate) fn burn(&self) {
        let Some((thread, left)) = self.0.get() else {
            return;
        };
        if thread != thread::current().id() {
            return;
        }
        self.0.set(left.checked_sub(1).map(|left| (thread, left)));
        if left == 0 {
            resume_unwind(Box::new(Stopped));
        }
    }
}

/// Acts until `stores` stores are made, and stops before the next one, or at the end.
pub fn stop_after(stores: usize, act: impl FnOnce()) {
    let kernel = kernel::current();
    kernel.fuse.0.set(Some((thread::current().id(), stores)));
    let stopped = catch_unwind(AssertUnwindSafe(act));
    kernel.fuse.0.set(None);
    if let Err(why) = stopped
        && !<dyn Any>::is::<Stopped>(&*why)
    {
        resume_unwind(why);
    }
}
