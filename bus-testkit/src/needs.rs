//! What a test needs of the user that runs it. A test that lacks it is skipped, and each skip is seen and counted.
//!
//! A skipped test prints one line, `SKIPPED <test>: <why>`, past the capture of the test harness. `.ci/run` and
//! `scripts/as-user.sh` count these lines. A test asks first and returns where the answer is `false`:
//!
//! ```
//! # fn test() {
//! if !bus_testkit::needs::root() {
//!     return;
//! }
//! # }
//! ```

use std::fmt::Display;
use std::io::{Write, stderr};
use std::panic::Location;
use std::process::Command;
use std::thread;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Uid;

/// Whether this process is root, and so may start processes of other users.
#[must_use = "a test that lacks what it needs returns"]
#[track_caller]
pub fn root() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        skipped("needs root, to start processes of other users");
    }
    root
}

/// Whether this process may have `count` descriptors open at once. Raises its soft limit to its hard limit, as a broker does
/// where it starts.
///
/// # Panics
///
/// Where the limit cannot be read or raised.
#[must_use = "a test that lacks what it needs returns"]
#[track_caller]
pub fn descriptors(count: u64) -> bool {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit may be the hard one");
    let enough = hard >= count;
    if !enough {
        skipped(format_args!(
            "needs {count} descriptors, and the hard limit (ulimit -Hn) is {hard}"
        ));
    }
    enough
}

/// Arguments of `unshare` (util-linux) that run a program in a process namespace of its own, as the same user. The program ends when
/// `unshare` does.
pub const PROCESS_NAMESPACE: [&str; 5] = [
    "--user",
    "--map-current-user",
    "--pid",
    "--fork",
    "--kill-child",
];

/// Whether this process may start another one in a process namespace of its own, with [`PROCESS_NAMESPACE`].
#[must_use = "a test that lacks what it needs returns"]
#[track_caller]
pub fn process_namespace() -> bool {
    let tried = Command::new("unshare")
        .args(PROCESS_NAMESPACE)
        .arg("true")
        .output();
    let why = match tried {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    skipped(format_args!(
        "needs a process namespace, which `unshare` does not give: {why}"
    ));
    false
}

/// Says that the calling test is skipped, and why: `why` says what the test needs. For needs that no other function here knows.
///
/// The harness names a thread after its test. With one thread of tests it does not, and the place of the call
/// stands for the name.
#[track_caller]
pub fn skipped(why: impl Display) {
    let place = Location::caller().to_string();
    let thread = thread::current();
    let test = thread.name().filter(|name| *name != "main");
    let line = format!("SKIPPED {}: {why}\n", test.unwrap_or(&place));
    // One write, and not by `eprint`, which the harness captures. Where nobody reads it, nothing can be said.
    let _ = stderr().write_all(line.as_bytes());
}
