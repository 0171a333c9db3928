//! What this process must not share with its children, and what is done about it at a fork.
//!
//! ```text
//!  parent                          child
//!  prepare: takes the lock
//!  fork                            segments: not there            (the kernel)
//!  gives the lock back             where they were: own memory    (here)
//!                                  descriptors: lead nowhere      (here)
//!                                  gives the lock back
//! ```
//! Promises: nothing is made or let go of between the two, so that what the child finds in the list is what it has. In the child nothing is
//! allocated, and only system calls are made: whatever its parent's other threads were doing, it does not wait for them.
//!
//! This file holds all `unsafe` of descriptors and addresses that change under somebody's feet: in a process that has just begun and has one thread.

use std::cell::Cell;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Instead;

/// A mapping, and what a child has in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) base: NonNull<c_void>,
    pub(super) bytes: usize,
    pub(super) instead: Instead,
}

// SAFETY: an address is a number; what is there is the users' part.
unsafe impl Send for Segment {}

/// Numbered places, used again.
pub(super) struct Places<T> {
    all: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Places<T> {
    const fn new() -> Self {
        Self {
            all: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, what: T) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.all[place] = Some(what);
                place
            }
            None => {
                self.all.push(Some(what));
                self.all.len() - 1
            }
        }
    }

    pub(super) fn remove(&mut self, place: usize) {
        if self.all.get_mut(place).and_then(Option::take).is_some() {
            self.free.push(place);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.iter().flatten()
    }
}

pub(super) struct Table {
    pub(super) segments: Places<Segment>,
    pub(super) descriptors: Places<RawFd>,
    /// What descriptors become in a child: a socket that is not connected.
    nowhere: Option<OwnedFd>,
}

static TABLE: Mutex<Table> = Mutex::new(Table {
    segments: Places::new(),
    descriptors: Places::new(),
    nowhere: None,
});

thread_local! {
    /// The lock, for as long as this thread forks. It needs no clean-up when the thread ends.
    static FORKING: Cell<Option<ManuallyDrop<MutexGuard<'static, Table>>>> = const { Cell::new(None) };
}

/// The table. No fork happens while this is held: so only for calls that do not wait.
pub(super) fn lock() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The table, if no thread has it: one that has may be a thread that does not exist in this process.
pub(super) fn try_lock() -> Option<MutexGuard<'static, Table>> {
    match TABLE.try_lock() {
        Ok(table) => Some(table),
        Err(TryLockError::Poisoned(table)) => Some(table.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Watches forks from now on.
pub(super) fn watch_forks() -> nix::Result<()> {
    static WATCHED: OnceLock<Errno> = OnceLock::new();
    let error = WATCHED.get_or_init(|| {
        // SAFETY: the functions are there for as long as the program, and do not unwind; the one for the child makes system calls only.
        let error = unsafe { libc::pthread_atfork(Some(before), Some(parent), Some(child)) };
        Errno::from_raw(error)
    });
    match error {
        Errno::UnknownErrno => Ok(()),
        error => Err(*error),
    }
}

impl Table {
    /// Sees to it that there is something for descriptors to become.
    pub(super) fn furnish(&mut self) -> nix::Result<()> {
        if self.nowhere.is_none() {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let nowhere = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
            self.nowhere = Some(nowhere);
        }
        Ok(())
    }
}

extern "C" fn before() {
    let table = ManuallyDrop::new(lock());
    FORKING.with(|forking| forking.set(Some(table)));
}

fn after() -> Option<MutexGuard<'static, Table>> {
    let table = FORKING.with(Cell::take);
    table.map(ManuallyDrop::into_inner)
}

extern "C" fn parent() {
    drop(after());
}

extern "C" fn child() {
    let Some(table) = after() else {
        return;
    };
    table.segments.iter().for_each(replace);
    if let Some(nowhere) = &table.nowhere {
        for fd in table.descriptors.iter() {
            // SAFETY: the number is that of a descriptor whose owner is in the table, and the only thread of this process is here. It stays
            // a descriptor, so that its owner can close it. There is nothing to be done where this is refused.
            unsafe { libc::dup3(nowhere.as_raw_fd(), *fd, libc::O_CLOEXEC) };
        }
    }
}

/// Gives a child memory of its own where a segment was. Where that is refused there is none, and touching it ends the child.
fn replace(segment: &Segment) {
    let Some(bytes) = NonZeroUsize::new(segment.bytes) else {
        return;
    };
    let address = NonZeroUsize::new(segment.base.as_ptr() as usize);
    // SAFETY: nothing is there: the kernel gave this child no mapping where its parent has this one, and is told to replace none.
    let replaced = unsafe {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED_NOREPLACE;
        mmap_anonymous(address, bytes, ProtFlags::PROT_NONE, flags)
    };
    let Ok(base) = replaced else {
        return;
    };
    let open = segment.instead.open.min(segment.bytes);
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the range is within the mapping that was just made, which nobody uses yet.
    unsafe {
        if mprotect(base, open, protection).is_ok() && segment.instead.fill != 0 {
            base.cast::<u8>().write_bytes(segment.instead.fill, open);
        }
    }
}

/// Has the kernel keep a mapping from children.
pub(super) fn keep_from_children(segment: &Segment) -> nix::Result<()> {
    // SAFETY: the range is that of a mapping that its owner has just made; the advice changes nothing in this process.
    let kept = unsafe { libc::madvise(segment.base.as_ptr(), segment.bytes, libc::MADV_DONTFORK) };
    Errno::result(kept).map(drop)
}
