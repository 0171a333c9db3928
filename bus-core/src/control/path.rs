//! Where the broker listens, and what is wrong with a path on which nobody can be reached.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::{Error, Result};

/// Longest path of a socket, in bytes: the kernel's `sun_path` without its final zero.
const MAX_PATH: usize = 107;

/// The path of the broker's socket: `$BUS_SOCKET`, else `$XDG_RUNTIME_DIR/bus.sock`, else
/// `bus-<uid>/bus.sock` under the temporary directory. That last directory is made if it is not there.
///
/// # Errors
/// [`Error::Io`] says what is wrong with the path: it is too long, or the directory could be somebody else's.
pub fn socket_path() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    choose(set("BUS_SOCKET"), set("XDG_RUNTIME_DIR"), &env::temp_dir())
}

fn choose(socket: Option<OsString>, runtime: Option<OsString>, tmp: &Path) -> Result<PathBuf> {
    // A relative XDG_RUNTIME_DIR is to be ignored: https://specifications.freedesktop.org/basedir-spec
    let runtime = runtime.map(PathBuf::from).filter(|dir| dir.is_absolute());
    let path = match (socket, runtime) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(dir)) => dir.join("bus.sock"),
        (None, None) => {
            let dir = tmp.join(format!("bus-{}", nix::unistd::geteuid()));
            check_socket_path(&dir.join("bus.sock"))?;
            private_directory(&dir)?;
            dir.join("bus.sock")
        }
    };
    check_socket_path(&path)?;
    Ok(path)
}

/// The user whose broker is used beside one's own and root's: `$BUS_BROKER_USER`, a name or a number.
pub(super) fn broker_user() -> Option<u32> {
    let user = env::var("BUS_BROKER_USER").ok()?;
    match user.parse() {
        Ok(uid) => Some(uid),
        Err(_) => {
            let known = nix::unistd::User::from_name(&user).ok().flatten();
            known.map(|known| known.uid.as_raw())
        }
    }
}

/// Checks that a path fits in the address of a socket.
///
/// # Errors
/// [`Error::Io`] names the path and the limit.
pub fn check_socket_path(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_bytes();
    let why = if bytes.is_empty() {
        "it is empty".to_owned()
    } else if bytes.contains(&0) {
        "it holds a zero byte".to_owned()
    } else if bytes.len() > MAX_PATH {
        format!(
            "it is {} bytes long, and a socket takes up to {MAX_PATH}",
            bytes.len()
        )
    } else {
        return Ok(());
    };
    Err(bad(
        io::ErrorKind::InvalidInput,
        path,
        &format!("{why}; set BUS_SOCKET to a shorter path"),
    ))
}

/// Makes a directory that only this user can enter, or checks that it is one.
fn private_directory(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(bad(
                e.kind(),
                dir,
                &format!("cannot make the directory: {e}"),
            ));
        }
        _ => {}
    }
    let meta = fs::symlink_metadata(dir)
        .map_err(|e| bad(e.kind(), dir, &format!("cannot look at the directory: {e}")))?;
    let me = nix::unistd::geteuid().as_raw();
    let why = if !meta.is_dir() {
        "it is not a directory".to_owned()
    } else if meta.uid() != me {
        format!("it belongs to user {}, and this is user {me}", meta.uid())
    } else if meta.mode() & 0o077 != 0 {
        format!("others may enter it (mode {:o})", meta.mode() & 0o777)
    } else {
        return Ok(());
    };
    let why = format!("{why}; remove it, or set BUS_SOCKET to a path of your own");
    Err(bad(io::ErrorKind::PermissionDenied, dir, &why))
}

fn bad(kind: io::ErrorKind, path: &Path, why: &str) -> Error {
    Error::io(
        "bad socket path",
        io::Error::new(kind, format!("{}: {why}", path.display())),
    )
}

/// What a failed connect means, with the path in it. The kind says whether nobody is there.
pub(super) fn explain_connect(path: &Path, errno: Errno) -> io::Error {
    let source = io::Error::from(errno);
    let mut kind = source.kind();
    let file = fs::metadata(path).ok();
    let socket = file.as_ref().is_none_or(|f| f.file_type().is_socket());
    let why = match errno {
        // The kernel says the same of a plain file as of a socket without a listener.
        Errno::ECONNREFUSED if !socket => {
            kind = io::ErrorKind::AlreadyExists;
            "it is not a socket; remove it, or set BUS_SOCKET to another path".to_owned()
        }
        Errno::EPROTOTYPE => {
            kind = io::ErrorKind::AddrInUse;
            "something else than a broker listens there; set BUS_SOCKET to another path".to_owned()
        }
        Errno::EAGAIN => {
            kind = io::ErrorKind::TimedOut;
            "who listens there does not accept connections".to_owned()
        }
        Errno::EACCES | Errno::EPERM => match &file {
            Some(file) => format!("it belongs to user {}: {source}", file.uid()),
            None => source.to_string(),
        },
        _ => source.to_string(),
    };
    io::Error::new(kind, format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::control::Connection;

    fn kind(error: &Error) -> io::ErrorKind {
        match error {
            Error::Io { source, .. } => source.kind(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_first_place_that_is_named_is_taken() {
        let tmp = tempfile::tempdir().unwrap();
        let (socket, runtime) = (Some("/a/b.sock".into()), Some("/run/x".into()));
        let chosen = choose(socket.clone(), runtime.clone(), tmp.path()).unwrap();
        assert_eq!(chosen, Path::new("/a/b.sock"));
        let chosen = choose(None, runtime, tmp.path()).unwrap();
        assert_eq!(chosen, Path::new("/run/x/bus.sock"));
        let chosen = choose(None, Some("relative".into()), tmp.path()).unwrap();
        let dir = chosen.parent().unwrap();
        assert_eq!(dir.parent().unwrap(), tmp.path());
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(choose(None, None, tmp.path()).unwrap(), chosen);
    }

    #[test]
    fn a_path_that_is_too_long_says_so() {
        let long = format!("/{}", "x".repeat(MAX_PATH));
        let error = choose(Some(long.into()), None, Path::new("/tmp")).unwrap_err();
        assert!(error.to_string().contains("108 bytes"), "{error}");
        let fits = format!("/{}", "x".repeat(MAX_PATH - 1));
        assert!(choose(Some(fits.into()), None, Path::new("/tmp")).is_ok());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = choose(None, None, tmp.path())
            .unwrap()
            .parent()
            .unwrap()
            .to_owned();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let error = choose(None, None, tmp.path()).unwrap_err();
        assert!(error.to_string().contains("755"), "{error}");
    }

    #[test]
    fn a_directory_that_is_a_link_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let dir = tmp.path().join(format!("bus-{}", nix::unistd::geteuid()));
        symlink(elsewhere.path(), &dir).unwrap();
        let error = choose(None, None, tmp.path()).unwrap_err();
        assert!(error.to_string().contains("not a directory"), "{error}");
    }

    #[test]
    fn nobody_there_is_told_apart_from_somebody_else() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("bus.sock");
        let error = Connection::connect(&path).unwrap_err();
        assert_eq!(kind(&error), io::ErrorKind::NotFound, "{error}");

        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = Connection::connect(&path).unwrap_err();
        assert_eq!(kind(&error), io::ErrorKind::AddrInUse, "{error}");
        assert!(error.to_string().contains("something else"), "{error}");

        drop(listener);
        let error = Connection::connect(&path).unwrap_err();
        // The dead listener was of another kind, which the kernel checks after asking who listens.
        assert_eq!(kind(&error), io::ErrorKind::ConnectionRefused, "{error}");

        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let error = Connection::connect(&path).unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
    }
}
