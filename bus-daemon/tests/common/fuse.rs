//! A file system whose files one process cannot close: it is never answered.
//!
//! It is a FUSE file system with one directory, in which every name is an empty file. Whoever closes one of its
//! files asks this process (`FLUSH`) and waits for the answer.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::LONG;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// The root, and every file.
const ROOT: u64 = 1;
const ONLY: u64 = 2;

/// The mounted file system.
pub struct Unanswering {
    pub path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    device: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The process that is not answered.
    ignored: Option<u32>,
    unanswered: HashSet<u64>,
}

impl Unanswering {
    /// Mounts it at this directory, for this thread and the processes that it starts; why not, where this machine does
    /// not let it.
    pub fn mount(path: &Path) -> Result<Self, String> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(|e| format!("/dev/fuse: {e}"))?;
        // So that nothing of it is left, however this process ends.
        unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("a mount namespace: {e}"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let none = None::<&str>;
        mount(none, "/", none, private, none).map_err(|e| format!("private mounts: {e}"))?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        mount(
            Some("bus"),
            path,
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .map_err(|e| format!("a FUSE file system: {e}"))?;
        let shared = Arc::new(Shared {
            device,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let serving = Arc::clone(&shared);
        // It ends with the file system.
        std::thread::spawn(move || serving.serve());
        Ok(Self {
            path: path.to_owned(),
            shared,
        })
    }

    /// From now on this process cannot close a file of it.
    pub fn ignore(&self, pid: u32) {
        self.shared.state.lock().unwrap().ignored = Some(pid);
    }

    /// Waits until somebody waits for an answer.
    pub fn wait_for_closing(&self) {
        let state = self.shared.state.lock().unwrap();
        let nobody = |state: &mut State| state.unanswered.is_empty();
        let waited = self.shared.changed.wait_timeout_while(state, LONG, nobody);
        assert!(!waited.unwrap().1.timed_out(), "nobody closes its files");
    }

    /// Everybody is answered from now on, also who waits.
    pub fn answer(&self) {
        let mut state = self.shared.state.lock().unwrap();
        state.ignored = None;
        for unique in state.unanswered.drain() {
            self.shared.reply(unique, 0, &[]);
        }
    }
}

impl Drop for Unanswering {
    fn drop(&mut self) {
        // Ends the conversation with the kernel: whoever still waits gets an error.
        let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
        let _ = umount2(&self.path, flags);
        self.answer();
    }
}

impl Shared {
    fn serve(&self) {
        let mut request = vec![0; 1 << 17];
        // An error is the end of the file system.
        while let Ok(length) = (&self.device).read(&mut request) {
            self.serve_one(&request[..length]);
        }
    }

    fn serve_one(&self, request: &[u8]) {
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        let (operation, unique, node, thread) = (word(4), long(8), long(16), word(32));
        match operation {
            // The version that this speaks; the kernel does what that one did.
            INIT => self.reply(unique, 0, &words(&[7, 31, 0, 0, 0, 4096, 1, 0])),
            LOOKUP => {
                let mut entry = words(&[ONLY as u32, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                entry.extend(attributes(ONLY));
                self.reply(unique, 0, &entry);
            }
            GETATTR => {
                let mut found = words(&[0, 0, 0, 0]);
                found.extend(attributes(node));
                self.reply(unique, 0, &found);
            }
            OPEN => self.reply(unique, 0, &words(&[0, 0, 0, 0])),
            FLUSH => {
                let mut state = self.state.lock().unwrap();
                let is_thread_of =
                    |pid: u32| Path::new(&format!("/proc/{pid}/task/{thread}")).exists();
                if state.ignored.is_some_and(is_thread_of) {
                    state.unanswered.insert(unique);
                    self.changed.notify_all();
                } else {
                    self.reply(unique, 0, &[]);
                }
            }
            RELEASE => self.reply(unique, 0, &[]),
            FORGET | BATCH_FORGET | INTERRUPT => {}
            _ => self.reply(unique, -libc::ENOSYS, &[]),
        }
    }

    fn reply(&self, unique: u64, error: i32, body: &[u8]) {
        let mut reply = Vec::new();
        reply.extend((16 + body.len() as u32).to_ne_bytes());
        reply.extend(error.to_ne_bytes());
        reply.extend(unique.to_ne_bytes());
        reply.extend(body);
        // Who asked may have gone.
        let _ = (&self.device).write(&reply);
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// What `stat` says of a node.
fn attributes(node: u64) -> Vec<u8> {
    let mode = if node == ROOT { 0o40_755 } else { 0o100_666 };
    let mut all = words(&[node as u32, 0]);
    // Size, blocks, three times and their fractions.
    all.extend([0; 52]);
    // Mode, links, user, group, device, block size, flags.
    all.extend(words(&[mode, 1, 0, 0, 0, 4096, 0]));
    all
}
