//! What the kernel does in a model: fences for others, sleep, and a kill. One for each execution.

use std::cell::RefCell;
use std::rc::Rc;

use crate::fence::Fences;
use crate::fuse::Fuse;
use crate::futex::Futex;

/// The kernel of one execution.
pub struct Kernel {
    /// The pair of fences.
    pub fences: Fences,
    /// Who sleeps.
    pub futex: Futex,
    /// Who stops, and when.
    pub fuse: Fuse,
}

thread_local! {
    // loom runs all threads of a model on the thread that checks it.
    static KERNEL: RefCell<Option<Rc<Kernel>>> = const { RefCell::new(None) };
}

/// Starts the kernel of an execution with this many threads.
pub fn boot(threads: usize) {
    let kernel = Kernel {
        fences: Fences::new(threads),
        futex: Futex::new(),
        fuse: Fuse::default(),
    };
    KERNEL.set(Some(Rc::new(kernel)));
}

/// The kernel of this execution.
pub(crate) fn current() -> Rc<Kernel> {
    KERNEL.with_borrow(|kernel| kernel.clone().expect("a model boots its kernel first"))
}
