//! What outlives a broker that systemd restarts: the rings of ended publishers that their topics retain.
//!
//! Whatever lives, its clients give back. The ring of a publisher that has ended nobody has to give but those who read it; so its descriptor is put into the
//! service manager's store, with the pidfd of its process, and a memfd that says whose it is. Each has a name: `ring-ID`, `process-ID`, `about-ID`.
//!
//! Promises: a turn of the broker never waits for the service manager: what that does not take now is tried again; a set that is not whole, or makes no
//! sense, is removed from the store. It asks for `FileDescriptorStoreMax=` of at least three for each ring. Without a service manager it does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use bus_core::control::{Passed, Trust};
use bus_core::schema::Schema;
use bus_core::{ClientName, TopicName, TopicSettings};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};

/// Rings that are stored at most: three descriptors each.
const MOST: usize = 1024;
/// Longest description of a ring, in bytes.
const LONGEST: u64 = 256 << 10;

/// Whose a ring is.
#[derive(Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct About {
    pub(crate) topic: String,
    pub(crate) schema: Schema,
    pub(crate) settings: TopicSettings,
    pub(crate) id: u64,
    pub(crate) process: u64,
    pub(crate) client: String,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) index: u16,
    /// Orders the rings of a topic by when they ended.
    pub(crate) order: u64,
    pub(crate) trust: Trust,
}

/// A ring that was stored.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) about: About,
    pub(crate) name: TopicName,
    pub(crate) client: ClientName,
    pub(crate) ring: OwnedFd,
    pub(crate) process: OwnedFd,
}

/// Whether a descriptor of this name is one of those that were stored.
pub(crate) fn is_stored(name: &str) -> bool {
    let kind = name.split_once('-').map(|(kind, _)| kind);
    kind.is_some_and(|kind| ["ring", "process", "about"].contains(&kind))
}

/// The service manager's store.
#[derive(Debug)]
pub(crate) struct Store {
    manager: Option<Manager>,
    /// The rings that are in it.
    stored: BTreeSet<u64>,
    /// What is to be there may not be what is there.
    pub(crate) stale: bool,
}

/// Where the service manager is told something.
#[derive(Debug)]
struct Manager {
    socket: OwnedFd,
    address: UnixAddr,
}

impl Store {
    /// No store: nobody has started this process who would keep anything.
    pub(crate) fn none() -> Self {
        Self {
            manager: None,
            stored: BTreeSet::new(),
            stale: false,
        }
    }

    /// The store of the service manager that has started this process, if one has, and what it has kept.
    pub(crate) fn open(passed: Vec<Passed>) -> (Self, Vec<Stored>) {
        let mut store = Self::none();
        store.manager = Manager::find();
        let mut sets: BTreeMap<u64, BTreeMap<String, OwnedFd>> = BTreeMap::new();
        for Passed { name, descriptor } in passed {
            let parts = name.split_once('-');
            let id = parts.and_then(|(kind, id)| Some((kind.to_owned(), id.parse().ok()?)));
            match id {
                Some((kind, id)) => {
                    sets.entry(id).or_default().insert(kind, descriptor);
                }
                None => tracing::warn!(name, "a descriptor of the service manager is not used"),
            }
        }
        let mut all = Vec::new();
        for (id, set) in sets {
            store.stored.insert(id);
            match Stored::read(set).filter(|stored| stored.about.id == id) {
                Some(stored) => all.push(stored),
                None => tracing::warn!(id, "a ring that was stored makes no sense"),
            }
        }
        all.sort_by_key(|stored| stored.about.order);
        // Those that are not wanted go with the first turn.
        store.stale = true;
        (store, all)
    }

    /// Makes what is stored what is to be. What the service manager does not take now stays to be done.
    pub(crate) fn update(
        &mut self,
        wanted: BTreeMap<u64, (impl Fn() -> About, [BorrowedFd<'_>; 2])>,
    ) {
        self.stale = false;
        match self.try_update(wanted) {
            Ok(()) => {}
            Err(error) if may_pass(&error) => self.stale = true,
            Err(error) => {
                tracing::warn!(%error, "the service manager stores nothing any more");
                self.manager = None;
            }
        }
    }

    fn try_update(
        &mut self,
        wanted: BTreeMap<u64, (impl Fn() -> About, [BorrowedFd<'_>; 2])>,
    ) -> io::Result<()> {
        let Some(manager) = &self.manager else {
            return Ok(());
        };
        let gone: Vec<_> = self
            .stored
            .iter()
            .filter(|id| !wanted.contains_key(id))
            .copied()
            .collect();
        for id in gone {
            manager.remove(id)?;
            self.stored.remove(&id);
        }
        for (id, (about, descriptors)) in wanted {
            if self.stored.len() >= MOST {
                break;
            }
            if !self.stored.contains(&id) {
                manager.store(id, &about(), descriptors)?;
                self.stored.insert(id);
            }
        }
        Ok(())
    }

    /// Whether there is a service manager that is yet to be told something.
    pub(crate) fn is_behind(&self) -> bool {
        self.stale && self.manager.is_some()
    }
}

impl Stored {
    /// What a set of descriptors is, if it is whole.
    fn read(mut set: BTreeMap<String, OwnedFd>) -> Option<Self> {
        let (ring, process) = (set.remove("ring")?, set.remove("process")?);
        let about = File::from(set.remove("about")?);
        let length = about.metadata().ok()?.len();
        if length > LONGEST || !set.is_empty() {
            return None;
        }
        let mut bytes = rkyv::util::AlignedVec::<16>::new();
        bytes.resize(length as usize, 0);
        about.read_exact_at(&mut bytes, 0).ok()?;
        let about = rkyv::from_bytes::<About, rkyv::rancor::Error>(&bytes).ok()?;
        about.schema.check().ok()?;
        about.settings.check().ok()?;
        Some(Self {
            name: TopicName::new(about.topic.as_str()).ok()?,
            client: ClientName::new(about.client.as_str()).ok()?,
            about,
            ring,
            process,
        })
    }
}

/// Whether the service manager is just slow, or the kernel short of something.
fn may_pass(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [
        libc::EAGAIN,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::ETOOMANYREFS,
    ]
    .iter()
    .any(|passes| code == Some(*passes))
}

impl Manager {
    fn find() -> Option<Self> {
        let address = std::env::var_os("NOTIFY_SOCKET")?;
        let bytes = address.as_encoded_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => UnixAddr::new_abstract(name),
            None => UnixAddr::new(bytes),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None);
        match (address, socket) {
            (Ok(address), Ok(socket)) => Some(Self { socket, address }),
            _ => {
                tracing::warn!("the service manager cannot be reached (NOTIFY_SOCKET)");
                None
            }
        }
    }

    fn store(
        &self,
        id: u64,
        about: &About,
        [ring, process]: [BorrowedFd<'_>; 2],
    ) -> io::Result<()> {
        let memory = memfd_create(c"bus-about", MFdFlags::MFD_CLOEXEC)?;
        let mut memory = File::from(memory);
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(about);
        memory.write_all(&bytes.map_err(io::Error::other)?)?;
        let all = [
            ("ring", ring),
            ("process", process),
            // Last: without it a set is not whole.
            ("about", memory.as_fd()),
        ];
        for (kind, descriptor) in all {
            // Without FDPOLL=0 one whose process has ended would be dropped at once.
            let said = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={kind}-{id}");
            if let Err(error) = self.say(&said, &[descriptor.as_raw_fd()]) {
                // What it has is no use without the others.
                let _ = self.remove(id);
                return Err(error);
            }
        }
        Ok(())
    }

    fn remove(&self, id: u64) -> io::Result<()> {
        for kind in ["about", "ring", "process"] {
            self.say(&format!("FDSTOREREMOVE=1\nFDNAME={kind}-{id}"), &[])?;
        }
        Ok(())
    }

    fn say(&self, said: &str, descriptors: &[i32]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() {
            &[][..]
        } else {
            &rights[..]
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let bytes = [io::IoSlice::new(said.as_bytes())];
        let socket = self.socket.as_raw_fd();
        sendmsg(socket, &bytes, rights, flags, Some(&self.address))?;
        Ok(())
    }
}
