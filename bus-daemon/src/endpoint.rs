//! The path of the broker: who holds the lock beside the socket is the broker, and only it touches the socket.
//!
//! Promises: of any number of processes that bind one path at once, one gets it and the others learn that
//! ([`Error::InUse`]); what a killed broker left behind is removed; a clean end leaves only the lock file, which says
//! how the broker ended. It never removes what is not a dead socket.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bus_core::control::check_socket_path;
use bus_core::fork::{Birth, Unshared};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockname, getsockopt,
    listen, socket, sockopt,
};

use crate::{Error, Result};

/// Connections that wait to be accepted; the kernel's own limit may be lower.
pub(crate) const BACKLOG: i32 = 4096;

/// A path that is ours, and the socket that listens there.
#[derive(Debug)]
pub(crate) struct Endpoint {
    path: PathBuf,
    listener: Option<Unshared<OwnedFd>>,
    /// Device and inode of the socket file, to remove no other; none where somebody else has made it, and removes it.
    identity: Option<(u64, u64)>,
    /// A fork of this process has neither lock nor path: it removes nothing.
    birth: Birth,
    lock: Unshared<Flock<File>>,
}

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
            listener: Some(listener),
            identity: Some(identity),
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
        Ok(Self {
            path,
            listener: Some(listener),
            identity: None,
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
    pub(crate) fn let_others_connect(&self, others: bool) -> Result<()> {
        let mode = if others { 0o666 } else { 0o600 };
        match fs::set_permissions(&self.path, Permissions::from_mode(mode)) {
            // Who made the socket has said who may connect.
            Err(error) if self.identity.is_none() => {
                let path = self.path.display();
                tracing::warn!(%path, others, %error, "cannot set who may connect; see SocketMode= of the socket unit");
                Ok(())
            }
            set => set.map_err(|e| failed(&self.path, "setting who may connect", e)),
        }
    }

    /// Stops listening and removes the socket. The lock is kept until the end.
    pub(crate) fn close(&mut self) {
        if self.listener.take().is_some()
            && self.birth.is_here()
            && fs::symlink_metadata(&self.path)
                .is_ok_and(|m| Some((m.dev(), m.ino())) == self.identity)
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

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
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
            .custom_flags(libc::O_NOFOLLOW)
            .open(lock_path)
            .map_err(|e| failed(path, "opening its lock file", e))?;
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
                });
            }
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(failed(path, "locking its lock file", e)),
        };
        let mine = lock
            .metadata()
            .map_err(|e| failed(path, "looking at its lock file", e))?;
        match fs::symlink_metadata(lock_path) {
            Ok(there) if (there.dev(), there.ino()) == (mine.dev(), mine.ino()) => return Ok(lock),
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

/// Binds and listens. Nobody else can connect before the permissions are set, because nobody can before `listen`.
fn listen_at(path: &Path) -> Result<(Unshared<OwnedFd>, (u64, u64))> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = Unshared::new(|| socket(AddressFamily::Unix, SockType::SeqPacket, flags, None))
        .map_err(|e| failed(path, "making a socket", e))?;
    let address = UnixAddr::new(path).map_err(|e| failed(path, "making its address", e))?;
    bind(fd.as_raw_fd(), &address).map_err(|e| failed(path, "binding", e))?;
    let started = || -> io::Result<(u64, u64)> {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let meta = fs::symlink_metadata(path)?;
        listen(&*fd, Backlog::new(BACKLOG)?)?;
        Ok((meta.dev(), meta.ino()))
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
