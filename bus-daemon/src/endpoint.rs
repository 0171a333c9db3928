//! The path of the broker: who holds the lock beside the socket is the broker, and only it touches the socket.
//!
//! Promises: of any number of processes that bind one path at once, one gets it and the others learn that
//! ([`Error::InUse`]); what a killed broker left behind is removed; a clean end leaves only the lock file, which says
//! how the broker ended. It never removes what is not a dead socket. It sets the mode of its own socket and of nothing
//! else, also where somebody else may write to the directory. A socket or lock file that somebody has removed is noticed
//! by [`is_there`](Endpoint::is_there), and made anew by [`renew`](Endpoint::renew).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bus_core::control::{Holder, check_socket_path, lock_path, take_descriptors};
use bus_core::fork::{Birth, Unshared};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockname, getsockopt,
    listen, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};

use crate::{Error, Result};

/// Connections that wait to be accepted; the kernel's own limit may be lower.
pub(crate) const BACKLOG: i32 = 4096;

/// A path that is ours, and the socket that listens there.
#[derive(Debug)]
pub(crate) struct Endpoint {
    path: PathBuf,
    lock_path: PathBuf,
    listener: Option<Unshared<OwnedFd>>,
    /// The socket file, to remove no other; none where somebody else has made it, and removes it.
    identity: Option<Identity>,
    /// Users other than the broker's own may connect.
    others: bool,
    /// A fork of this process has neither lock nor path: it removes nothing.
    birth: Birth,
    lock: Unshared<Flock<File>>,
}

/// Device and inode of a file.
type Identity = (u64, u64);

impl Endpoint {
    /// Takes the lock, removes a dead socket, listens.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        check_socket_path(path)?;
        let path = std::path::absolute(path).map_err(|e| failed(path, "reading the path", e))?;
        let lock_path = lock_path(&path);
        let lock = lock(&path, &lock_path)?;
        let bound = remove_dead_socket(&path).and_then(|()| listen_at(&path));
        let (listener, identity) = bound?;
        Ok(Self {
            path,
            lock_path,
            listener: Some(listener),
            identity: Some(identity),
            others: false,
            birth: Birth::here(),
            lock,
        })
    }

    /// Takes the lock of a socket that somebody else has bound and listens at, and will keep.
    pub(crate) fn adopt(listener: OwnedFd) -> Result<Self> {
        let path = path_of(&listener)?;
        let lock_path = lock_path(&path);
        let lock = lock(&path, &lock_path)?;
        // Shared with who made it, and with all that have it.
        let nonblocking = FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
        let listener = fcntl(&listener, nonblocking).and_then(|_| Unshared::new(|| Ok(listener)));
        let listener =
            listener.map_err(|e| failed(&path, "taking the socket of the service manager", e))?;
        take_descriptors(&*listener, false);
        Ok(Self {
            path,
            lock_path,
            listener: Some(listener),
            identity: None,
            others: false,
            birth: Birth::here(),
            lock,
        })
    }

    /// The lock file, which says how the last broker ended: see `marker`.
    pub(crate) fn lock_file(&self) -> &File {
        &self.lock
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether somebody else has made the socket, and listens there when this broker is gone.
    pub(crate) fn is_kept(&self) -> bool {
        self.identity.is_none()
    }

    /// The socket; `None` after [`close`](Self::close).
    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Whether other users may connect to the socket. Its directories have a say as well.
    pub(crate) fn let_others_connect(&mut self, others: bool) -> Result<()> {
        self.others = others;
        match set_mode(&self.path, self.identity, mode(others)) {
            // Who made the socket has said who may connect.
            Err(error) if self.identity.is_none() => {
                let path = self.path.display();
                tracing::warn!(%path, others, %error, "cannot set who may connect; see SocketMode= of the socket unit");
                Ok(())
            }
            set => set.map_err(|e| failed(&self.path, "setting who may connect", e)),
        }
    }

    /// The file that guards the path.
    pub(crate) fn lock_path(&self) -> &Path {
        &self.lock_path
    }

    /// Whether clients that come find this broker: its socket and its lock are the files at their paths.
    pub(crate) fn is_there(&self) -> bool {
        let has_socket = match self.identity {
            Some(_) => identity(&self.path) == self.identity,
            None => identity(&self.path).is_some(),
        };
        has_socket && self.has_lock()
    }

    fn has_lock(&self) -> bool {
        let own = self.lock.metadata().map(|meta| (meta.dev(), meta.ino()));
        own.is_ok_and(|own| identity(&self.lock_path) == Some(own))
    }

    /// Makes lock and socket anew where somebody has removed or replaced them. Returns the socket that it listened at before, if
    /// there is another one now.
    ///
    /// # Errors
    /// [`Error::InUse`] where another broker has the path by now. Others where the path cannot be used for now; what this broker
    /// has it keeps.
    pub(crate) fn renew(&mut self) -> Result<Option<Unshared<OwnedFd>>> {
        if !self.has_lock() {
            self.lock = lock(&self.path, &self.lock_path)?;
        }
        if self.identity.is_some() && identity(&self.path) == self.identity {
            return Ok(None);
        }
        remove_dead_socket(&self.path)?;
        let (listener, identity) = listen_at(&self.path)?;
        if self.others {
            set_mode(&self.path, Some(identity), mode(true))
                .map_err(|e| failed(&self.path, "setting who may connect", e))?;
        }
        self.identity = Some(identity);
        Ok(self.listener.replace(listener))
    }

    /// Stops listening and removes the socket. The lock is kept until the end.
    pub(crate) fn close(&mut self) {
        if self.listener.take().is_some()
            && self.birth.is_here()
            && self.identity.is_some()
            && identity(&self.path) == self.identity
        {
            remove_file(&self.path);
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.close();
    }
}

/// The file at a path, if there is one.
fn identity(path: &Path) -> Option<Identity> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

fn mode(others: bool) -> u32 {
    if others { 0o666 } else { 0o600 }
}

/// Sets the mode of a socket of this broker. Nothing else that is at the path by now is touched, and no link is followed.
fn set_mode(path: &Path, own: Option<Identity>, mode: u32) -> io::Result<()> {
    // Not by `OpenOptions`: with musl it drops `O_PATH`, which that library counts among the access modes.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = File::from(nix::fcntl::open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    let is_own = own.is_none_or(|own| own == (meta.dev(), meta.ino()));
    if !meta.file_type().is_socket() || !is_own {
        return Err(io::Error::other("it is not the broker's socket any more"));
    }
    if meta.mode() & 0o777 == mode {
        return Ok(());
    }
    // By this name the kernel finds the file that is open, whatever is at its path.
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(opened, Permissions::from_mode(mode))
}

/// Opens and locks the lock file, and makes sure that what it locked is still the file at the path.
fn lock(path: &Path, lock_path: &Path) -> Result<Unshared<Flock<File>>> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // A pipe does not make this wait.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(lock_path);
        let file = match file {
            // A pipe that nobody reads.
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => None,
            file => Some(file.map_err(|e| failed(path, "opening its lock file", e))?),
        };
        let is_file = |file: &File| file.metadata().is_ok_and(|meta| meta.is_file());
        let Some(file) = file.filter(is_file) else {
            return Err(Error::Foreign {
                path: lock_path.to_owned(),
                why: "there is a lock file that is no regular file",
            });
        };
        // A child that had it would keep the path taken when this process is gone.
        let locked = Unshared::of(
            || Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error),
            |lock| lock.as_raw_fd(),
        );
        let lock = match locked {
            Ok(lock) => lock,
            Err(Errno::EAGAIN) => {
                return Err(Error::InUse {
                    path: path.to_owned(),
                    holder: Holder::of_lock(path),
                });
            }
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(failed(path, "locking its lock file", e)),
        };
        let mine = lock
            .metadata()
            .map_err(|e| failed(path, "looking at its lock file", e))?;
        match fs::symlink_metadata(lock_path) {
            Ok(there) if (there.dev(), there.ino()) == (mine.dev(), mine.ino()) => {
                return Ok(lock);
            }
            // The broker before us removed it between our two calls.
            _ => {}
        }
    }
}

/// Where a socket listens that was passed to this process.
fn path_of(listener: &OwnedFd) -> Result<PathBuf> {
    let unsuited = |why| Error::Foreign {
        path: "the service manager's socket".into(),
        why,
    };
    let address = getsockname::<UnixAddr>(listener.as_raw_fd());
    let address = address.map_err(|_| unsuited("it is no Unix socket"))?;
    if getsockopt(listener, sockopt::SockType) != Ok(SockType::SeqPacket) {
        return Err(unsuited(
            "it carries no packets (ListenSequentialPacket= of a socket unit makes one that does)",
        ));
    }
    if getsockopt(listener, sockopt::AcceptConn) != Ok(true) {
        return Err(unsuited("it does not listen (Accept=no of a socket unit)"));
    }
    let path = address.path().filter(|path| path.is_absolute());
    let path = path.ok_or_else(|| unsuited("it has no path"))?;
    Ok(path.to_owned())
}

/// Removes a socket on which nobody listens. With the lock held no other broker is alive.
fn remove_dead_socket(path: &Path) -> Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(path, "looking at the path", e)),
    };
    let foreign = |why| {
        Err(Error::Foreign {
            path: path.to_owned(),
            why,
        })
    };
    if !meta.file_type().is_socket() {
        return foreign("there is a file that is not a socket");
    }
    let address = UnixAddr::new(path).map_err(|e| failed(path, "making its address", e))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
        .map_err(|e| failed(path, "making a socket", e))?;
    match connect(probe.as_raw_fd(), &address) {
        Err(Errno::ECONNREFUSED) => {}
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EACCES | Errno::EPERM) => return foreign("its socket belongs to somebody else"),
        _ => return foreign("something that is no broker listens there"),
    }
    fs::remove_file(path).map_err(|e| failed(path, "removing a dead socket", e))
}

/// Binds and listens, for this user only.
fn listen_at(path: &Path) -> Result<(Unshared<OwnedFd>, Identity)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = Unshared::new(|| socket(AddressFamily::Unix, SockType::SeqPacket, flags, None))
        .map_err(|e| failed(path, "making a socket", e))?;
    // A connection of whose client nothing is known yet leaves nothing that somebody has to close.
    take_descriptors(&*fd, false);
    let address = UnixAddr::new(path).map_err(|e| failed(path, "making its address", e))?;
    // The file that `bind` makes gets the mode of the socket, as far as the umask allows.
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    fchmod(&fd, private).map_err(|e| failed(path, "setting who may connect", e))?;
    bind(fd.as_raw_fd(), &address).map_err(|e| failed(path, "binding", e))?;
    let started = || -> io::Result<Identity> {
        let meta = fs::symlink_metadata(path)?;
        let identity = (meta.dev(), meta.ino());
        set_mode(path, Some(identity), mode(false))?;
        // More than the `SOMAXCONN` of a C library is refused by the wrapper; then the kernel's own limit is left to hold.
        listen(&*fd, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXALLOWABLE))?;
        Ok(identity)
    };
    match started() {
        Ok(identity) => Ok((fd, identity)),
        Err(e) => {
            remove_file(path);
            Err(failed(path, "listening", e))
        }
    }
}

fn remove_file(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a file of the broker");
    }
}

fn failed(path: &Path, what: &'static str, source: impl Into<io::Error>) -> Error {
    Error::Listen {
        path: path.to_owned(),
        what,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_gets_the_path_and_a_clean_end_leaves_only_the_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        for _ in 0..20 {
            let bound: Vec<_> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| Endpoint::bind(&path)))
                    .collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(bound.iter().filter(|one| one.is_ok()).count(), 1);
            for one in bound.iter().filter_map(|one| one.as_ref().err()) {
                assert!(matches!(one, Error::InUse { .. }), "{one}");
            }
            drop(bound);
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
            assert_eq!(left.len(), 1, "only the lock file stays: {left:?}");
        }
    }

    #[test]
    fn the_socket_is_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let _endpoint = Endpoint::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn no_file_but_the_brokers_socket_gets_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("bus.sock"), dir.path().join("precious"));
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, Permissions::from_mode(0o640)).unwrap();
        let mode = || fs::metadata(&precious).unwrap().mode() & 0o777;
        let mut endpoint = Endpoint::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        assert!(endpoint.let_others_connect(true).is_err());
        assert_eq!(mode(), 0o640);
        fs::remove_file(&path).unwrap();
        fs::hard_link(&precious, &path).unwrap();
        assert!(endpoint.let_others_connect(true).is_err());
        assert_eq!(mode(), 0o640);
        drop(endpoint);
        assert!(precious.exists() && path.exists());
    }

    #[test]
    fn a_pipe_as_lock_file_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        nix::unistd::mkfifo(&lock_path(&path), Mode::S_IRWXU).unwrap();
        let refused = || match Endpoint::bind(&path) {
            Err(Error::Foreign { why, .. }) => assert!(why.contains("lock file"), "{why}"),
            other => panic!("{other:?}"),
        };
        refused();
        // One that somebody reads can be opened.
        let mut reader = OpenOptions::new();
        let reader = reader.read(true).custom_flags(libc::O_NONBLOCK);
        let _reader = reader.open(lock_path(&path)).unwrap();
        refused();
    }

    #[test]
    fn a_path_that_is_in_use_names_the_process_that_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let endpoint = Endpoint::bind(&path).unwrap();
        crate::marker::write(endpoint.lock_file(), 1, false).unwrap();
        let error = Endpoint::bind(&path).unwrap_err().to_string();
        let own = format!(": process {} (", std::process::id());
        assert!(error.contains(&own), "{error}");
    }

    #[test]
    fn a_socket_or_lock_that_was_removed_is_made_anew_unless_another_broker_came() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let mut endpoint = Endpoint::bind(&path).unwrap();
        endpoint.let_others_connect(true).unwrap();
        assert!(endpoint.is_there());
        let lock = lock_path(&path);
        for removed in [&[&path][..], &[&lock], &[&path, &lock]] {
            removed
                .iter()
                .for_each(|file| fs::remove_file(file).unwrap());
            assert!(!endpoint.is_there());
            let before = endpoint.renew().unwrap();
            assert_eq!(before.is_some(), removed[0] == &path);
            assert!(endpoint.is_there());
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
            assert!(matches!(Endpoint::bind(&path), Err(Error::InUse { .. })));
        }
        fs::remove_file(&path).unwrap();
        fs::remove_file(&lock).unwrap();
        let other = Endpoint::bind(&path).unwrap();
        assert!(matches!(endpoint.renew(), Err(Error::InUse { .. })));
        drop(endpoint);
        assert!(
            other.is_there(),
            "the end of the first one removes nothing of the second"
        );
    }

    #[test]
    fn what_is_not_a_dead_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        fs::write(&path, "precious").unwrap();
        let error = Endpoint::bind(&path).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");

        fs::remove_file(&path).unwrap();
        let foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = Endpoint::bind(&path).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        drop(foreign);
        assert!(Endpoint::bind(&path).is_ok(), "a dead socket is removed");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = Endpoint::bind(Path::new("/nowhere/at/all/bus.sock")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
