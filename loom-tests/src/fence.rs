//! The pair of fences: a light one that orders nothing but against a heavy one.
//!
//! On the machine the light fence is a compiler fence, and the heavy one a barrier that runs on every processor: for each
//! pair of a light and a heavy one, either what came before the light one is seen after the heavy one, or the other
//! way round. A full fence on both sides promises that as well, and more: it also orders two publishers, or a commit
//! before a later store, which the machine does not. So the model gives exactly the pair, and what passes here
//! passes as well with full fences.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use loom::sync::atomic::{AtomicU32, fence};
use loom::thread::ThreadId;

/// A word for each thread, through which its light fences meet the heavy ones of all.
pub struct Fences {
    meetings: Vec<AtomicU32>,
    /// Whose word is which, by the order of their first fence.
    owners: RefCell<Vec<ThreadId>>,
}

impl Fences {
    /// The fences of this many threads.
    pub fn new(threads: usize) -> Self {
        Self {
            meetings: (0..threads).map(|_| AtomicU32::new(0)).collect(),
            owners: RefCell::default(),
        }
    }

    fn owned(&self) -> usize {
        let id = loom::thread::current().id();
        let mut owners = self.owners.borrow_mut();
        let found = owners.iter().position(|owner| *owner == id);
        found.unwrap_or_else(|| {
            owners.push(id);
            owners.len() - 1
        })
    }

    /// Orders this thread against heavy fences alone.
    pub fn light(&self) {
        at_once(|| meet(&self.meetings[self.owned()]));
    }

    /// Orders this thread against every light and heavy fence.
    pub fn heavy(&self) {
        // ORDERING: heavy against heavy, and this thread's relaxed accesses against its own later ones.
        fence(Ordering::SeqCst);
        at_once(|| self.meetings.iter().for_each(meet));
    }
}

fn meet(meeting: &AtomicU32) {
    // ORDERING: whoever comes second to this word has seen what the first one did before; nobody but its owner and
    // heavy fences come here, so two light fences are not ordered.
    meeting.fetch_add(1, Ordering::AcqRel);
}

/// A fence is one step: the checker tries no switch of threads inside.
fn at_once(step: impl FnOnce()) {
    loom::stop_exploring();
    step();
    loom::explore();
}
