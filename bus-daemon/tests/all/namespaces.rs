//! A broker in a process namespace of its own: it sees no process outside by a number.
//!
//! Class of bugs: a client is dropped without a word, because the kernel cannot say which process it is. Linux before 6.5 lacks the
//! option that says so in any namespace. A filter of system calls stands in for such a kernel: it refuses that one
//! option with the error of a kernel that does not know it.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bus_core::control::{Connection, Refusal, Role};
use bus_testkit::needs;
use bus_testkit::sandbox::Filter;
use nix::libc;

use crate::common::{Handle, Session, refusal, until};

/// `busd`, maybe in a namespace of its own, maybe on a kernel that does not tell peers.
struct Away {
    child: Child,
    dir: tempfile::TempDir,
}

impl Away {
    fn start(apart: bool, old: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(if apart { "unshare" } else { "env" });
        if apart {
            command.args(needs::PROCESS_NAMESPACE);
        }
        command
            .args([env!("CARGO_BIN_EXE_busd"), "--socket"])
            .arg(dir.path().join("bus.sock"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        if old {
            let mut filter = Filter::refusing_where(
                libc::SYS_getsockopt,
                2,
                libc::SO_PEERPIDFD as u32,
                libc::ENOPROTOOPT,
            );
            // SAFETY: between fork and exec it makes two system calls, and allocates nothing.
            unsafe { command.pre_exec(move || filter.install()) };
        }
        let child = command.spawn().unwrap();
        let away = Self { child, dir };
        until(|| away.path().exists());
        away
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("bus.sock")
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        // What was started in a namespace ends with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_served(path: &Path) {
    let session = Session::connect(path);
    Handle::open_on(&session, Role::Publisher, "t").joined();
}

#[test]
fn a_client_outside_of_the_brokers_process_namespace_is_served() {
    if !needs::process_namespace() {
        return;
    }
    let away = Away::start(true, false);
    is_served(&away.path());
}

#[test]
fn a_kernel_that_cannot_tell_a_peer_serves_those_whose_number_it_knows() {
    let away = Away::start(false, true);
    is_served(&away.path());
}

#[test]
fn a_client_that_the_kernel_cannot_tell_the_broker_is_refused_with_the_reason() {
    if !needs::process_namespace() {
        return;
    }
    let away = Away::start(true, true);
    let (kind, why) = refusal(&Connection::connect(&away.path()).unwrap());
    assert_eq!(kind, Refusal::Limit);
    for part in ["process namespace", "Linux 6.5", "newer kernel"] {
        assert!(why.contains(part), "{why}");
    }
}
