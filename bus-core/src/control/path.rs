//! Where the broker listens, and what is wrong with a path on which nobody can be reached.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Holder, sys};
use crate::{Error, Result};

/// Where temporary directories are if nobody says otherwise.
const TMP: &str = "/tmp";
/// Longest path of a socket, in bytes: the kernel's `sun_path` without its final zero.
const MAX_PATH: usize = 107;

/// The name of the socket in its directory.
const FILE: &str = "bus.sock";

/// Where the broker's socket is, and why it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketPlace {
    /// The path of the socket.
    pub path: PathBuf,
    /// Why this path.
    pub reason: SocketReason,
    /// Why a variable of the environment that is set was not used, as a sentence for the user.
    pub ignored: Option<String>,
}

/// What decided where the broker's socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketReason {
    /// The program or its command line named the path.
    Named,
    /// `BUS_SOCKET` names the path.
    Variable,
    /// `XDG_RUNTIME_DIR` names the directory, which is this user's.
    RuntimeVariable,
    /// `/run/user/UID` is there and is this user's.
    RuntimeDirectory,
    /// This user has no runtime directory, so the temporary directory is used.
    Temporary,
}

impl SocketPlace {
    /// A path that the program itself names.
    pub fn named(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            reason: SocketReason::Named,
            ignored: None,
        }
    }

    /// Finds the socket of this process's user. The first of these decides: `$BUS_SOCKET`;
    /// `$XDG_RUNTIME_DIR/bus.sock`, if that directory is this user's; `/run/user/UID/bus.sock`, if
    /// that directory is this user's; `bus-UID/bus.sock` under the temporary directory, where the
    /// directory `bus-UID` is made if it is missing.
    ///
    /// A program that runs with more rights than its caller (set-user-id, file capabilities:
    /// `AT_SECURE`) reads no variable: its caller must not choose its broker. Its temporary
    /// directory is `/tmp`.
    ///
    /// # Errors
    /// [`Error::Io`] says what is wrong with the path: it is too long, or the directory could be
    /// somebody else's.
    pub fn find() -> Result<Self> {
        choose(Surroundings::of_this_process())
    }

    /// Whether nobody named the path: processes of this user that start in other surroundings may
    /// use another one.
    pub fn is_default(&self) -> bool {
        !matches!(self.reason, SocketReason::Named | SocketReason::Variable)
    }

    /// Other sockets of this user that processes in other surroundings would use, and that are
    /// there.
    ///
    /// Processes that use different paths never meet, so this is the first thing to look at if
    /// messages do not arrive.
    pub fn others(&self) -> Vec<PathBuf> {
        let around = Surroundings::of_this_process();
        let own = format!("bus-{}", around.user);
        let temporary = Path::new(TMP).join(&own);
        let candidates = [around.standard, around.tmp.join(own), temporary];
        let identity = |path: &Path| {
            let meta = fs::symlink_metadata(path).ok()?;
            let usable = meta.file_type().is_socket() && meta.uid() == around.user;
            usable.then(|| (meta.dev(), meta.ino()))
        };
        let mut seen = vec![identity(&self.path)];
        let mut others = Vec::new();
        for path in candidates.map(|directory| directory.join(FILE)) {
            let found = identity(&path);
            if found.is_some() && !seen.contains(&found) {
                seen.push(found);
                others.push(path);
            }
        }
        others
    }
}

impl fmt::Display for SocketReason {
    /// As the end of a sentence that begins with the path: "is used because …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => "the program or its command line names it",
            Self::Variable => "BUS_SOCKET names it",
            Self::RuntimeVariable => "XDG_RUNTIME_DIR names its directory",
            Self::RuntimeDirectory => "its directory is this user's runtime directory",
            Self::Temporary => "this user has no runtime directory",
        })
    }
}

/// The path of the broker's socket: that of [`SocketPlace::find`].
///
/// # Errors
/// As for [`SocketPlace::find`].
pub fn socket_path() -> Result<PathBuf> {
    SocketPlace::find().map(|place| place.path)
}

/// What decides where the socket is.
#[derive(Clone, Debug)]
struct Surroundings {
    socket: Option<OsString>,
    runtime: Option<OsString>,
    /// Where systemd puts the runtime directory of this user.
    standard: PathBuf,
    tmp: PathBuf,
    user: u32,
    /// Why variables that are set are not among these.
    ignored: Option<String>,
}

impl Surroundings {
    fn of_this_process() -> Self {
        let user = nix::unistd::geteuid().as_raw();
        let ignored = ["BUS_SOCKET", "XDG_RUNTIME_DIR"]
            .into_iter()
            .find(|name| sys::is_privileged() && env::var_os(name).is_some());
        Self {
            socket: variable("BUS_SOCKET"),
            runtime: variable("XDG_RUNTIME_DIR"),
            standard: PathBuf::from(format!("/run/user/{user}")),
            tmp: variable("TMPDIR").map_or_else(|| TMP.into(), PathBuf::from),
            user,
            ignored: ignored.map(|name| {
                format!("{name} is not used: this program runs with more rights than its caller")
            }),
        }
    }
}

/// A variable of the environment that decides whom this process trusts. Empty counts as not set. A
/// program that runs with more rights than its caller has none: its caller made the environment.
pub fn variable(name: &str) -> Option<OsString> {
    if sys::is_privileged() {
        return None;
    }
    env::var_os(name).filter(|value| !value.is_empty())
}

fn choose(around: Surroundings) -> Result<SocketPlace> {
    let Surroundings {
        socket,
        runtime,
        standard,
        tmp,
        user,
        mut ignored,
    } = around;
    let (path, reason) = if let Some(path) = socket {
        (PathBuf::from(path), SocketReason::Variable)
    } else {
        let mut named = None;
        if let Some(dir) = runtime.map(PathBuf::from) {
            match not_own_directory(&dir, user) {
                None => named = Some(dir),
                Some(why) => {
                    let dir = dir.display();
                    ignored = Some(format!("XDG_RUNTIME_DIR={dir} is not used: {why}"));
                }
            }
        }
        match named {
            Some(dir) => (dir.join(FILE), SocketReason::RuntimeVariable),
            None if not_own_directory(&standard, user).is_none() => {
                (standard.join(FILE), SocketReason::RuntimeDirectory)
            }
            None => {
                let dir = tmp.join(format!("bus-{user}"));
                check_socket_path(&dir.join(FILE))?;
                private_directory(&dir)?;
                (dir.join(FILE), SocketReason::Temporary)
            }
        }
    };
    check_socket_path(&path)?;
    Ok(SocketPlace {
        path,
        reason,
        ignored,
    })
}

/// Why a directory cannot be this user's runtime directory, if so. A socket in the directory of
/// somebody else would keep out its owner, and its owner could put another socket in its place.
fn not_own_directory(dir: &Path, user: u32) -> Option<String> {
    // A relative XDG_RUNTIME_DIR is to be ignored:
    // https://specifications.freedesktop.org/basedir-spec
    if !dir.is_absolute() {
        return Some("it is a relative path".into());
    }
    let meta = match fs::metadata(dir) {
        Ok(meta) => meta,
        Err(error) => return Some(format!("cannot look at the directory: {error}")),
    };
    if !meta.is_dir() {
        Some("it is not a directory".into())
    } else if meta.uid() != user {
        let owner = meta.uid();
        Some(format!(
            "it belongs to user {owner}, and this is user {user}"
        ))
    } else if meta.mode() & 0o022 != 0 {
        let mode = meta.mode() & 0o777;
        Some(format!("others may write to it (mode {mode:o})"))
    } else {
        None
    }
}

/// The user whose broker is used beside one's own and root's: `$BUS_BROKER_USER`, a name or a
/// number.
pub(super) fn broker_user() -> Option<u32> {
    let user = variable("BUS_BROKER_USER")?.into_string().ok()?;
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
            match Holder::of_lock(path) {
                Some(holder) => holder.does_not_answer(),
                None => "the process that listens there accepts no connections; it may be stopped"
                    .into(),
            }
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

    /// Surroundings in which nothing is named and there is no runtime directory.
    fn bare(tmp: &Path) -> Surroundings {
        Surroundings {
            socket: None,
            runtime: None,
            standard: tmp.join("not-there"),
            tmp: tmp.to_owned(),
            user: nix::unistd::geteuid().as_raw(),
            ignored: None,
        }
    }

    /// A directory of another user: as root one that is given away, else one of root's.
    fn foreign(tmp: &Path) -> PathBuf {
        if !nix::unistd::geteuid().is_root() {
            return "/".into();
        }
        let dir = tmp.join("foreign");
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(65534), None).unwrap();
        dir
    }

    #[test]
    fn the_first_place_that_is_named_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, standard) = (dir.path().join("runtime"), dir.path().join("standard"));
        fs::create_dir(&runtime).unwrap();
        fs::create_dir(&standard).unwrap();
        let mut around = Surroundings {
            socket: Some("/a/b.sock".into()),
            runtime: Some(runtime.clone().into()),
            standard: standard.clone(),
            ..bare(dir.path())
        };
        let mut expect = |path: PathBuf, reason: SocketReason| {
            let chosen = choose(around.clone()).unwrap();
            assert_eq!((chosen.path, &chosen.reason), (path, &reason));
            assert_eq!(chosen.ignored, None);
            match reason {
                SocketReason::Variable => around.socket = None,
                SocketReason::RuntimeVariable => around.runtime = None,
                _ => around.standard = "/not/there".into(),
            }
        };
        expect("/a/b.sock".into(), SocketReason::Variable);
        expect(runtime.join(FILE), SocketReason::RuntimeVariable);
        expect(standard.join(FILE), SocketReason::RuntimeDirectory);
        let own = dir.path().join(format!("bus-{}", nix::unistd::geteuid()));
        expect(own.join(FILE), SocketReason::Temporary);
        assert_eq!(fs::metadata(own).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_runtime_directory_that_is_not_this_users_is_not_used_and_the_reason_is_said() {
        let tmp = tempfile::tempdir().unwrap();
        let open = tmp.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        for (dir, why) in [
            (foreign(tmp.path()), "it belongs to user"),
            (open, "others may write to it (mode 777)"),
            (tmp.path().join("absent"), "No such file"),
            ("relative".into(), "it is a relative path"),
        ] {
            let mut around = bare(tmp.path());
            around.runtime = Some(dir.clone().into());
            let chosen = choose(around.clone()).unwrap();
            assert_eq!(chosen.reason, SocketReason::Temporary, "{dir:?}");
            let ignored = chosen.ignored.unwrap();
            assert!(ignored.contains("XDG_RUNTIME_DIR="), "{ignored}");
            assert!(ignored.contains(why), "{ignored}");
            // The directory that the login made is no better if it is somebody else's.
            around.standard = dir;
            assert_eq!(choose(around).unwrap().reason, SocketReason::Temporary);
        }
    }

    #[test]
    fn a_path_that_is_too_long_says_so() {
        let with = |path: String| Surroundings {
            socket: Some(path.into()),
            ..bare(Path::new("/tmp"))
        };
        let error = choose(with(format!("/{}", "x".repeat(MAX_PATH)))).unwrap_err();
        assert!(error.to_string().contains("108 bytes"), "{error}");
        assert!(choose(with(format!("/{}", "x".repeat(MAX_PATH - 1)))).is_ok());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let path = choose(bare(tmp.path())).unwrap().path;
        let dir = path.parent().unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let error = choose(bare(tmp.path())).unwrap_err();
        assert!(error.to_string().contains("755"), "{error}");
    }

    #[test]
    fn a_directory_that_is_a_link_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let dir = tmp.path().join(format!("bus-{}", nix::unistd::geteuid()));
        symlink(elsewhere.path(), &dir).unwrap();
        let error = choose(bare(tmp.path())).unwrap_err();
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
