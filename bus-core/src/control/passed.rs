//! Descriptors that a service manager has passed to this process: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::sys;
use crate::{Error, Result};

/// Where they start.
const FIRST: RawFd = 3;
/// More are not believed.
const MOST: usize = 65_536;

/// A descriptor that was passed.
#[derive(Debug)]
pub struct Passed {
    /// The name under which it was, or `unknown`.
    pub name: String,
    /// The descriptor; a child does not get it.
    pub descriptor: OwnedFd,
}

/// Takes the descriptors that a service manager has passed to this process. The first call takes them; any other one finds none.
///
/// The environment is believed: who sets it says that these numbers are for whoever asks here. Call it early, in `main`.
///
/// # Errors
/// [`Error::Io`] where the environment names descriptors that are not there.
pub fn take_passed() -> Result<Vec<Passed>> {
    static TAKEN: OnceLock<()> = OnceLock::new();
    let variable = |name| std::env::var(name).unwrap_or_default();
    let (pid, count) = (variable("LISTEN_PID"), variable("LISTEN_FDS"));
    if pid.parse() != Ok(std::process::id()) {
        return Ok(Vec::new());
    }
    let wrong = |e| {
        Error::io(
            "cannot take the descriptors of the service manager (LISTEN_FDS)",
            e,
        )
    };
    let count = count.parse::<usize>().ok().filter(|count| *count <= MOST);
    let count = count.ok_or_else(|| wrong(Errno::EINVAL))?;
    if TAKEN.set(()).is_err() {
        return Ok(Vec::new());
    }
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':').filter(|name| !name.is_empty());
    let mut passed = Vec::new();
    for number in (FIRST..).take(count) {
        let descriptor = sys::adopt(number).map_err(wrong)?;
        fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(wrong)?;
        let name = names.next().unwrap_or("unknown").to_owned();
        passed.push(Passed { name, descriptor });
    }
    Ok(passed)
}
