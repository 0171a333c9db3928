//! A descriptor that forked children do not share.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;

use super::{Birth, table};

/// A descriptor, or what owns one, that forked children do not share: in a child the same number is a socket that leads nowhere.
///
/// So nothing that a child does with it concerns anybody else. It speaks for nobody, keeps no connection open and no path taken, and
/// takes nothing out of an epoll that its parent waits at.
///
/// ```
/// use bus_core::fork::Unshared;
/// let file = Unshared::new(|| std::fs::File::open("/dev/null"))?;
/// assert!(file.metadata().is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Unshared<T> {
    value: ManuallyDrop<T>,
    place: usize,
    birth: Birth,
}

impl<T: AsFd> Unshared<T> {
    /// Keeps what `make` makes. No fork comes between, so that no child has what was just made; nor can this process fork before `make` returns:
    /// it must not wait.
    ///
    /// # Errors
    /// Those of `make`; what the kernel said where forks cannot be watched, `EMFILE` or `ENOMEM`.
    pub fn new<E: From<Errno>>(make: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        Self::of(make, |value| value.as_fd().as_raw_fd())
    }
}

impl<T> Unshared<T> {
    /// As [`new`](Self::new), of what says in another way which its descriptor is. `number` must name a descriptor that the value
    /// owns: in a child, that number is a socket that leads nowhere, whoever owned it.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn of<E: From<Errno>>(
        make: impl FnOnce() -> Result<T, E>,
        number: impl FnOnce(&T) -> RawFd,
    ) -> Result<Self, E> {
        table::watch_forks()?;
        let birth = Birth::here();
        let mut table = table::lock();
        table.furnish()?;
        let value = make()?;
        let place = table.descriptors.add(number(&value));
        Ok(Self {
            value: ManuallyDrop::new(value),
            place,
            birth,
        })
    }
}

impl<T> Drop for Unshared<T> {
    fn drop(&mut self) {
        let table = if self.birth.is_here() {
            Some(table::lock())
        } else {
            // A child closes its copy, but does not wait for a thread that it may not have.
            table::try_lock()
        };
        if let Some(mut table) = table {
            table.descriptors.remove(self.place);
            // SAFETY: nobody uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

impl<T> Deref for Unshared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: AsFd> AsFd for Unshared<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.value.as_fd()
    }
}

impl<T: AsFd> AsRawFd for Unshared<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.value.as_fd().as_raw_fd()
    }
}
