//! Another user of the machine: the kernel keeps it out, and this asks the kernel.
//!
//! A process of another user tries what there is: the broker's socket, the files beside it, the processes of the others, and the descriptors of a
//! ring, a reader segment and a registry that somebody handed to it. The same is then tried by a process of the same user, as far as seals,
//! and not permissions, are what keeps it out.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bus_core::Settings;
use bus_core::control::{Connection, Event, Role, SESSION};
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::uio::pwrite;
use nix::unistd::{Pid, Uid, ftruncate, geteuid, write};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::member::{self, Member};
use crate::budget::Budget;
use crate::crowd::broker::{self, LISTENING};
use crate::outcome::Outcome;
use crate::pen::{Look, force, inherited, maps_writable};
use crate::process::{SUBCOMMAND, Worker, say, settings};

/// The name of the role.
pub const ROLE: &str = "hostile-user";
/// The other user: nobody, as most systems number it.
const OTHER: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(20);

/// What the hostile process is to try.
#[derive(Debug, Serialize, Deserialize)]
pub struct Given {
    /// The broker's socket.
    socket: PathBuf,
    /// The process of the broker, and one that uses the bus.
    processes: Vec<u32>,
    /// Descriptors that it was given: of a ring, a reader segment, a registry.
    descriptors: Vec<(String, RawFd)>,
    /// It is another user.
    other: bool,
}

/// Runs the users lane.
///
/// # Errors
/// A process cannot be started.
pub fn run(_budget: &Budget) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    // Everybody may enter, so that only the socket itself keeps others out.
    let dir = tempfile::tempdir().context("making a directory for the socket")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let socket = dir.path().join("bus.sock");
    let mut broker = Worker::start(
        broker::ROLE,
        &broker::Given {
            socket: socket.clone(),
        },
    )?;
    broker.expect(LISTENING)?;
    let join = |role| Member::join(&socket, role, "users", Settings::default(), PATIENCE);
    let (publisher, subscriber) = (join(Role::Publisher)?, join(Role::Subscriber)?);
    let segments = [
        ("ring", publisher.pen.as_fd()),
        ("reader", subscriber.pen.as_fd()),
        ("registry", publisher.registry.as_fd()),
    ];
    let sums = || -> Result<Vec<u64>> { segments.iter().map(|(_, fd)| sum(fd)).collect() };
    let before = sums()?;
    // Descriptors that the child inherits. Nobody else is started meanwhile.
    let mut kept = Vec::new();
    let mut descriptors = Vec::new();
    for (name, fd) in segments {
        let copy = inheritable(&fd)?;
        descriptors.push((name.to_owned(), copy.as_raw_fd()));
        kept.push(copy);
    }
    let root = geteuid().is_root();
    if !root {
        outcome.note("NOT TRIED: another user, for this is not root. The same user was tried.");
    }
    let program = dir.path().join("bus-torture");
    fs::copy(std::env::current_exe()?, &program).context("copying this program")?;
    for other in [true, false] {
        if other && !root {
            continue;
        }
        let given = Given {
            socket: socket.clone(),
            processes: vec![broker.pid(), std::process::id()],
            descriptors: descriptors.clone(),
            other,
        };
        let mut command = Command::new(&program);
        command
            .args([SUBCOMMAND, ROLE])
            .arg(serde_json::to_string(&given)?);
        if other {
            command.uid(OTHER).gid(OTHER);
        }
        let mut worker = Worker::of(ROLE, command)?;
        loop {
            let line = worker
                .hear(PATIENCE)?
                .context("the hostile process ended")?;
            match line.split_once(' ') {
                Some(("tried", count)) => {
                    let count = count.parse()?;
                    ensure!(count > 0, "the hostile process tried nothing");
                    outcome.tried(count);
                    outcome.count("users.tried", count);
                    break;
                }
                Some(("happened", what)) => {
                    let who = if other {
                        "another user"
                    } else {
                        "another process"
                    };
                    outcome.violation(format!("{who}: {what}"));
                }
                _ => outcome.violation(format!("the hostile process says {line:?}")),
            }
        }
    }
    drop(kept);
    if sums()? != before {
        outcome.violation("a segment was changed by somebody who does not own it");
    }
    ensure!(broker.ended().is_none(), "the broker ended");
    join(Role::Subscriber).context("the broker serves no longer")?;
    Ok(outcome)
}

/// A second descriptor, which a program that is started gets as well.
fn inheritable(fd: &impl AsFd) -> Result<OwnedFd> {
    let copy = fd.as_fd().try_clone_to_owned()?;
    fcntl(&copy, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    Ok(copy)
}

/// What is in a segment.
fn sum(fd: &impl AsFd) -> Result<u64> {
    let look = Look::at(fd)?;
    let words = (0..look.bytes()).step_by(8);
    Ok(words.fold(0, |sum: u64, at| sum.rotate_left(5) ^ look.read(at)))
}

/// Tries it all.
///
/// # Errors
/// The run is gone.
pub fn play(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let mut tried = Tried::default();
    for (name, number) in &given.descriptors {
        let fd = inherited(*number).context("a descriptor that should be there")?;
        tried.segment(name, &fd)?;
    }
    if given.other {
        tried.broker(&given.socket)?;
        let folder = given.socket.parent().context("a socket lies somewhere")?;
        tried.files(folder, &given.socket)?;
        for pid in &given.processes {
            tried.process(*pid)?;
        }
    }
    say(&format!("tried {}", tried.count))
}

#[derive(Default)]
struct Tried {
    count: u64,
}

impl Tried {
    /// Something was tried that must not succeed.
    fn that(&mut self, succeeded: bool, what: &str) -> Result<()> {
        self.count += 1;
        if succeeded {
            say(&format!("happened {what}"))?;
        }
        Ok(())
    }

    /// To change a segment, by any way that there is.
    fn segment(&mut self, name: &str, fd: &OwnedFd) -> Result<()> {
        let bytes = usize::try_from(fstat(fd)?.st_size)?;
        self.change(name, fd, bytes)?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = Path::new(&path);
        for flags in [
            OFlag::O_RDWR,
            OFlag::O_WRONLY,
            OFlag::O_RDWR | OFlag::O_APPEND,
        ] {
            // To open it so is no harm; to write there would be.
            if let Ok(again) = open(path, flags, Mode::empty()) {
                self.change(&format!("{name}, opened again"), &again, bytes)?;
            }
        }
        let cut = open(path, OFlag::O_RDWR | OFlag::O_TRUNC, Mode::empty());
        let size = usize::try_from(fstat(fd)?.st_size)?;
        self.that(
            size != bytes,
            &format!("{name}: truncated by opening ({cut:?})"),
        )
    }

    fn change(&mut self, name: &str, fd: &OwnedFd, bytes: usize) -> Result<()> {
        let length = i64::try_from(bytes)?;
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE;
        let tries = [
            (write(fd, &[1; 8]).is_ok(), "write"),
            (pwrite(fd, &[1; 8], 64).is_ok(), "pwrite"),
            (pwrite(fd, &[1; 8], length).is_ok(), "pwrite behind the end"),
            (ftruncate(fd, 0).is_ok(), "ftruncate to nothing"),
            (ftruncate(fd, length + 4096).is_ok(), "ftruncate to more"),
            (fallocate(fd, punch, 0, length).is_ok(), "a hole"),
            (fallocate(fd, zero, 0, length).is_ok(), "zeroes"),
            (
                fallocate(fd, FallocateFlags::empty(), length, 4096).is_ok(),
                "fallocate of more",
            ),
            (maps_writable(fd, bytes), "a writable mapping"),
            (add_seals(fd), "another seal"),
        ];
        for (succeeded, what) in tries {
            self.that(succeeded, &format!("{name}: {what}"))?;
        }
        // Nobody maps what was opened for writing only.
        for what in force(fd, bytes).unwrap_or_default() {
            self.that(true, &format!("{name}: {what}"))?;
        }
        if geteuid() != Uid::from_raw(fstat(fd)?.st_uid) {
            let mode = Mode::from_bits_truncate(0o777);
            self.that(fchmod(fd, mode).is_ok(), &format!("{name}: fchmod"))?;
        }
        Ok(())
    }

    /// To be served.
    fn broker(&mut self, path: &Path) -> Result<()> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        if connect(fd.as_raw_fd(), &UnixAddr::new(path)?).is_err() {
            return self.that(false, "");
        }
        let connection = Connection::from_fd(fd)?;
        let request = member::open(Role::Subscriber, "users", Settings::default());
        // It may have been turned away already.
        let _ = connection.send(SESSION, &member::hello(0), &[]);
        let _ = connection.send(member::HANDLE, &request, &[]);
        let answer = connection.recv::<Event>(Some(Instant::now() + PATIENCE));
        let served = answer
            .as_ref()
            .is_ok_and(|frame| matches!(frame.message, Event::Welcome { .. }));
        self.that(served, &format!("the broker serves it: {answer:?}"))
    }

    /// To read or write what lies beside the socket.
    fn files(&mut self, folder: &Path, socket: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path == socket || path.ends_with("bus-torture") {
                continue;
            }
            let reads = File::open(&path).is_ok();
            let writes = OpenOptions::new().write(true).open(&path).is_ok();
            let name = path.display();
            self.that(reads, &format!("{name} can be opened, and so locked"))?;
            self.that(writes, &format!("{name} can be written"))?;
        }
        let made = File::create(folder.join("bus.sock.lock")).is_ok();
        self.that(made, "a file made beside the socket")
    }

    /// To get at a process.
    fn process(&mut self, pid: u32) -> Result<()> {
        let proc = format!("/proc/{pid}");
        let listed = fs::read_dir(format!("{proc}/fd")).is_ok();
        self.that(listed, &format!("the descriptors of process {pid} listed"))?;
        for file in ["mem", "maps", "environ"] {
            let opened = File::open(format!("{proc}/{file}")).is_ok_and(|mut file| {
                let mut byte = [0];
                std::io::Read::read(&mut file, &mut byte).is_ok()
            });
            self.that(opened, &format!("{proc}/{file} read"))?;
        }
        for number in 0..64 {
            let opened = File::open(format!("{proc}/fd/{number}")).is_ok();
            self.that(opened, &format!("{proc}/fd/{number} opened"))?;
        }
        let hit = kill(Pid::from_raw(pid.cast_signed()), None).is_ok();
        self.that(hit, &format!("process {pid} signalled"))
    }
}

fn add_seals(fd: &OwnedFd) -> bool {
    fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_ok()
}

#[cfg(test)]
mod tests {
    use bus_core::memory::registry::Registry;

    use super::*;

    #[test]
    fn a_segment_that_is_not_sealed_is_changed_in_every_way() {
        let fd =
            nix::sys::memfd::memfd_create(c"open", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING);
        let fd = fd.unwrap();
        ftruncate(&fd, 4096).unwrap();
        assert!(write(&fd, &[1; 8]).is_ok() && pwrite(&fd, &[1; 8], 64).is_ok());
        assert!(maps_writable(&fd, 4096) && !force(&fd, 4096).unwrap().is_empty());
        assert!(add_seals(&fd));
        let registry = Registry::create().unwrap();
        assert!(
            !maps_writable(&registry.fd(), 4096)
                && !add_seals(&registry.fd().try_clone_to_owned().unwrap())
        );
    }
}
